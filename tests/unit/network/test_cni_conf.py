from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.network.cni.cache import VERSION, Cache, Record
from agent.network.cni.conf import as_tree, load, offers, parse, request
from agent.network.cni.network import attachment
from netplugin.protocol import Attachment, HostPort, NetworkError

BRIDGE = {"type": "bridge", "ipam": {"type": "host-local"}, "capabilities": {"ipRanges": True, "dns": False}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
LIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [BRIDGE, PORTMAP]}


def test_the_first_file_by_name_is_the_network(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="there is no file"):
        load(tmp_path)
    (tmp_path / "20-b.conflist").write_text(json.dumps({**LIST, "name": "b"}))
    (tmp_path / "10-a.conflist").write_text(json.dumps(LIST))
    (tmp_path / "00-notes.txt").write_text("not one")
    assert load(tmp_path).name == "pods"
    (tmp_path / "00-single.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "single", **BRIDGE}))
    assert (load(tmp_path).name, load(tmp_path).plugins[0]["type"]) == ("single", "bridge")
    (tmp_path / "00-broken.conf").write_text("{")
    with pytest.raises(NetworkError, match="00-broken"):
        load(tmp_path)
    with pytest.raises(NetworkError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(("tree", "says"), [
    ([], "object"), ({"name": "x", "plugins": []}, "plugins"), ({"name": "x", "plugins": [{}]}, "type"),
    ({"name": "x", "plugins": [{"type": "../x"}]}, "no name of a file"), ({"plugins": [{"type": "x"}]}, "name"),
    ({"name": "a/b", "plugins": [{"type": "x"}]}, "name"), ({"name": "x", "plugins": {}}, "plugins"),
])
def test_what_is_no_network(tree: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(tree)


def test_a_network_is_written_as_it_is_read() -> None:
    network = parse(LIST)
    assert network.number == (1, 0, 0)
    assert parse(as_tree(network)) == network


def test_each_plugin_is_told_what_it_is_capable_of() -> None:
    network = parse(LIST)
    offered = offers("10.42.1.0/24", [HostPort(8080, 80), HostPort(53, 53, "UDP", "127.0.0.1")])
    first = request(network, BRIDGE, offered, None)
    assert first == {"name": "pods", "cniVersion": "1.0.0", "type": "bridge", "ipam": {"type": "host-local"},
                     "runtimeConfig": {"ipRanges": [[{"subnet": "10.42.1.0/24"}]]}}
    second = request(network, PORTMAP, offered, {"ips": []})
    assert second["prevResult"] == {"ips": []}
    assert second["runtimeConfig"]["portMappings"] == [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}]
    assert "runtimeConfig" not in request(network, PORTMAP, offers("", []), None)


def test_results() -> None:
    interfaces = [{"name": "br0", "mac": "a"}, {"name": "veth1", "mac": "b"},
                  {"name": "eth0", "mac": "c", "sandbox": "/x"}]
    ips = [{"address": "fd00::2/64"}, {"address": "10.42.1.2/24", "gateway": "10.42.1.1", "interface": 2}]
    assert attachment({"interfaces": interfaces, "ips": ips}) == Attachment("10.42.1.2", "10.42.1.1", "veth1", "c")
    assert attachment({"ips": [{"address": "10.42.1.2/24"}]}) == Attachment("10.42.1.2", "", "", "")


@pytest.mark.parametrize("result", [{}, {"ips": [{}]}, {"ips": ["x"]}, {"ips": [{"address": "x"}]},
                                    {"ips": [{"address": "fd00::2/64"}]}, {"interfaces": [7], "ips": []}])
def test_results_without_an_address(result: Any) -> None:
    with pytest.raises(NetworkError, match="result"):
        attachment(result)


def test_records_outlive_the_process(tmp_path: Path) -> None:
    record = Record(VERSION, "c1", "/proc/7/ns/net", 4026, "eth0", LIST, {"K8S_POD_NAME": "web"}, {})
    Cache(tmp_path / "cni").save(record)
    assert Cache(tmp_path / "cni").read("c1") == record
    assert Cache(tmp_path / "cni").records() == [record]
    Cache(tmp_path / "cni").drop("c1")
    Cache(tmp_path / "cni").drop("c1")
    assert Cache(tmp_path / "cni").records() == []
    assert Cache(tmp_path / "none").records() == []


def test_records_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "c1.json").write_text("{")
    with pytest.raises(NetworkError, match=r"c1\.json"):
        Cache(tmp_path).read("c1")
    assert Cache(tmp_path).records() == []
    record = Record(VERSION + 1, "c2", "", 0, "eth0", LIST, {}, {})
    Cache(tmp_path).save(record)
    with pytest.raises(NetworkError, match="version 2"):
        Cache(tmp_path).read("c2")
