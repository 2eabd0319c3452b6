from __future__ import annotations

import io
import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplugin import description
from netplugin.cni import commands, spec
from netplugin.cni.commands import sandbox_id
from netplugin.cni.main import answer, main
from netplugin.cni.settings import settings
from netplugin.cni.spec import CniError, read_request
from netplugin.description import Description

CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "sampan-netplugin"}
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}


def refusal(environment: dict[str, str], config: Any = CONFIG) -> CniError:
    with pytest.raises(CniError) as caught:
        read_request(environment, config if isinstance(config, str) else json.dumps(config))
    return caught.value


def test_a_request_is_read() -> None:
    request = read_request({**ADD, "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web"}, json.dumps(CONFIG))
    assert (request.command, request.container, request.netns, request.interface) == ("ADD", "c1", "/run/netns/x",
                                                                                      "eth0")
    assert (request.arguments["K8S_POD_NAME"], request.version, request.name) == ("web", "1.0.0", "pods")


@pytest.mark.parametrize(("environment", "config", "code", "says"), [
    ({}, CONFIG, spec.INVALID_ENVIRONMENT, r"\[CNI_COMMAND\] missing"),
    ({"CNI_COMMAND": "GROW"}, CONFIG, spec.INVALID_ENVIRONMENT, "unknown CNI_COMMAND: GROW"),
    ({"CNI_COMMAND": "ADD"}, CONFIG, spec.INVALID_ENVIRONMENT, "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
    ({"CNI_COMMAND": "DEL"}, CONFIG, spec.INVALID_ENVIRONMENT, "CNI_CONTAINERID,CNI_IFNAME"),
    ({**ADD, "CNI_CONTAINERID": "../x"}, CONFIG, spec.INVALID_ENVIRONMENT, "containerID"),
    ({**ADD, "CNI_IFNAME": "a/b"}, CONFIG, spec.INVALID_ENVIRONMENT, "interface name"),
    ({**ADD, "CNI_IFNAME": "x" * 16}, CONFIG, spec.INVALID_ENVIRONMENT, "interface name"),
    ({**ADD, "CNI_IFNAME": ".."}, CONFIG, spec.INVALID_ENVIRONMENT, "interface name"),
    ({**ADD, "CNI_ARGS": "nonsense"}, CONFIG, spec.INVALID_ENVIRONMENT, "invalid pair"),
    (ADD, "{", spec.DECODING_FAILURE, "unmarshall"),
    (ADD, "[]", spec.DECODING_FAILURE, "no JSON object"),
    (ADD, {**CONFIG, "cniVersion": "9.0.0"}, spec.INCOMPATIBLE_VERSION, "incompatible CNI versions"),
    (ADD, {"name": "pods"}, spec.INCOMPATIBLE_VERSION, "incompatible"),  # 0.2.0 is what no version means
    (ADD, {"cniVersion": "1.0.0"}, spec.INVALID_CONFIG, "missing network name"),
    (ADD, {**CONFIG, "name": "a/b"}, spec.INVALID_CONFIG, "network name"),
    ({**ADD, "CNI_COMMAND": "CHECK"}, CONFIG, spec.INVALID_CONFIG, "prevResult"),
    ({**ADD, "CNI_COMMAND": "CHECK"}, {**CONFIG, "cniVersion": "0.3.1"}, spec.INCOMPATIBLE_VERSION, "CHECK"),
    ({"CNI_COMMAND": "GC"}, CONFIG, spec.INCOMPATIBLE_VERSION, "GC"),
    ({"CNI_COMMAND": "STATUS"}, CONFIG, spec.INCOMPATIBLE_VERSION, "STATUS"),
])
def test_refusals(environment: dict[str, str], config: Any, code: int, says: str) -> None:
    error = refusal(environment, config)
    assert error.code == code
    with pytest.raises(CniError, match=says):
        raise error


def test_errors_are_the_specification_s() -> None:
    assert spec.error_result(CniError(7, "no name", "at all"), "1.0.0") == {
        "cniVersion": "1.0.0", "code": 7, "msg": "no name", "details": "at all"}
    assert "details" not in spec.error_result(CniError(7, "no name"), "1.0.0")


@pytest.mark.parametrize("asked", ["0.4.0", "1.0.0", "1.1.0", ""])
def test_version(asked: str) -> None:
    request = read_request({"CNI_COMMAND": "VERSION"}, json.dumps({"cniVersion": asked}))
    result = answer(request)
    assert result == {"cniVersion": asked or "1.1.0", "supportedVersions": list(spec.VERSIONS)}


def test_results_by_version() -> None:
    interfaces = [{"name": "sampan0", "mac": "a"}, {"name": "eth0", "mac": "b", "sandbox": "/x"}]
    new = spec.add_result("1.0.0", interfaces, "10.0.0.2/24", "10.0.0.1")
    assert new["ips"] == [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}]
    assert new["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]
    assert new["interfaces"] == interfaces
    assert spec.add_result("0.4.0", interfaces, "10.0.0.2/24", "10.0.0.1")["ips"][0]["version"] == "4"


@pytest.mark.parametrize(("mappings", "expected"), [
    ([], []),
    ([{"hostPort": 8080, "containerPort": 80}], [(8080, 80, "TCP", "")]),
    ([{"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}], [(53, 53, "UDP", "127.0.0.1")]),
    ([{"hostPort": 0, "containerPort": 80}], None),
    ([{"hostPort": 8080}], None),
    ([{"hostPort": "x", "containerPort": 80}], None),
    ([{"hostPort": 8080, "containerPort": 80, "protocol": "icmp"}], None),
    ([{"hostPort": 8080, "containerPort": 80, "hostIP": "x"}], None),
    ([{"hostPort": 8080, "containerPort": 80, "hostIP": "::"}], [(8080, 80, "TCP", "::")]),
    (["8080:80"], None),
    (8080, None),
])
def test_port_mappings(mappings: Any, expected: list[Any] | None) -> None:
    config = {"runtimeConfig": {"portMappings": mappings}}
    if expected is None:
        with pytest.raises(CniError) as caught:
            spec.port_mappings(config)
        assert caught.value.code == spec.INVALID_CONFIG
    else:
        assert spec.port_mappings(config) == expected


def test_valid_attachments() -> None:
    config = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    assert spec.valid_attachments(config) == {("c1", "eth0")}
    for wrong in ({}, {"cni.dev/valid-attachments": [{"containerID": "c1"}]}, {"cni.dev/valid-attachments": ["c1"]}):
        with pytest.raises(CniError, match="valid-attachments"):
            spec.valid_attachments(wrong)


@given(st.dictionaries(st.sampled_from(["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]),
                       st.text(max_size=20) | st.sampled_from(["ADD", "DEL", "CHECK", "VERSION", "eth0"])),
       st.text(max_size=30) | st.just(json.dumps(CONFIG)))
def test_whatever_comes_is_answered_or_refused_with_a_code(environment: dict[str, str], stdin: str) -> None:
    code = 1
    try:
        read_request(environment, stdin)
    except CniError as error:
        code = error.code
    assert 0 < code < 12


def test_a_fault_of_our_own_is_told_as_the_specification_s_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    config = {**CONFIG, "stateDir": str(tmp_path), "podCIDR": "10.9.0.0/24"}
    for name, value in ADD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(config)))
    monkeypatch.setattr(commands, "run", lambda *_: int("x"))
    assert main() == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["cniVersion"], told["code"]) == ("1.0.0", spec.INTERNAL)
    assert told["msg"].startswith("ValueError: invalid literal")


def test_every_attachment_of_a_container_has_its_own_key() -> None:
    assert sandbox_id("c1", "eth0") == "c1"
    assert sandbox_id("c1", "net1") != sandbox_id("c1", "net2")


def test_settings_come_from_the_config_or_the_agent_s_network(tmp_path: Path) -> None:
    config = {**CONFIG, "stateDir": str(tmp_path)}
    with pytest.raises(CniError) as caught:
        settings(config)
    assert caught.value.code == spec.NOT_AVAILABLE
    assert settings(config, needed=False).pod_cidr is None
    described = Description(IPv4Network("10.42.1.0/24"), (IPv4Network("10.42.0.0/16"),), "sampan.1", 1450)
    description.write(tmp_path, described)
    found = settings(config)
    assert (found.pod_cidr, found.described, found.bridge) == (described.pod_cidr, described, "sampan0")
    with pytest.raises(CniError, match=r"this host's network is 10\.42\.1\.0/24"):
        settings({**config, "podCIDR": "10.9.0.0/24"})
    with pytest.raises(CniError) as caught:
        settings({**config, "podCIDR": "10.9.0.1/24"})
    assert caught.value.code == spec.INVALID_CONFIG
    description.remove(tmp_path)
    assert settings({**config, "podCIDR": "10.9.0.0/24"}).pod_cidr == IPv4Network("10.9.0.0/24")
    assert description.read(tmp_path) is None


def test_a_description_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text('{"version": 2}')
    with pytest.raises(CniError, match="version 2"):
        settings({**CONFIG, "stateDir": str(tmp_path)})
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(CniError, match=r"network\.json"):
        settings({**CONFIG, "stateDir": str(tmp_path)})
