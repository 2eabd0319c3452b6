from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.lab.plan import BLOCKS, Lab, LabError, check_name, check_nodes, free_subnet, from_state, to_state

NAMES = st.from_regex(r"[a-z0-9]{1,11}", fullmatch=True)
NETWORKS = st.builds(lambda address, bits: ipaddress.IPv4Network((address, bits), strict=False),
                     st.integers(0xC0A80000, 0xC0A8FFFF), st.integers(8, 32))


def lab(name: str = "lab", nodes: int = 3) -> Lab:
    return Lab(name, BLOCKS[0], nodes, Path("/run/sampan-lab") / name, Path("/var/lib/sampan-lab") / name)


def test_three_hosts_from_ten_on() -> None:
    made = lab()
    assert [(host.name, host.ip, host.master) for host in made.hosts] == [
        ("master", "192.168.56.10", True), ("node1", "192.168.56.11", False), ("node2", "192.168.56.12", False)]
    assert made.gateway == "192.168.56.1"
    assert made.server == "https://192.168.56.10:6443"
    assert made.master.parts == ("containerd", "docker", "master", "agent")
    assert made.hosts[2].parts == ("containerd", "docker", "agent")
    assert made.hosts[1].docker_host == "unix:///run/sampan-lab/lab/node1/docker.sock"
    assert made.hosts[1].environment["SAMPAN_DATA_DIR"] == "/var/lib/sampan-lab/lab/node1/lib"


@given(NAMES, NAMES, st.integers(1, 100))
def test_names_fit_the_kernel_and_are_never_another_labs(one: str, other: str, nodes: int) -> None:
    first, second = lab(one, nodes), lab(other, nodes)
    assert len(first.uplink) <= 15
    assert all(len(host.port) <= 15 for host in first.hosts)
    assert all(len(host.docker_host) < 100 for host in first.hosts)  # a Unix socket's path ends at 107 bytes
    macs = [first.mac(index) for index in (*range(nodes), 200, 201, 202)]
    assert len(set(macs)) == len(macs)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)  # locally administered, for one receiver
    if one != other:
        # What goes by one lab's names, such as sampan-NAME-*, is never the other's.
        assert not any(host.namespace.startswith(f"sampan-{other}-") for host in first.hosts)
        assert first.uplink != second.uplink
        assert first.mac(0) != second.mac(0)


@given(st.lists(NETWORKS, max_size=6))
def test_a_free_subnet_overlaps_nothing(taken: list[ipaddress.IPv4Network]) -> None:
    try:
        found = free_subnet(taken)
    except LabError:
        assert all(any(block.overlaps(network) for network in taken) for block in BLOCKS)
    else:
        assert not any(found.overlaps(network) for network in taken)


def test_the_first_free_subnet_is_taken_and_the_default_route_takes_none() -> None:
    def networks(*texts: str) -> list[ipaddress.IPv4Network]:
        return [ipaddress.IPv4Network(text) for text in texts]

    assert str(free_subnet(networks("0.0.0.0/0", "10.0.0.0/8"))) == "192.168.56.0/24"
    assert str(free_subnet(networks("192.168.56.7/32", "192.168.57.0/24"))) == "192.168.58.0/24"
    # OpenVPN's redirect-gateway def1, and a VPN that goes before that.
    assert str(free_subnet(networks("0.0.0.0/1", "128.0.0.0/1", "192.0.0.0/3"))) == "192.168.56.0/24"
    with pytest.raises(LabError, match="no network"):
        free_subnet(networks("192.168.0.0/16"))


@given(NAMES, st.integers(1, 100), st.lists(st.sampled_from(["node1", "node2"]), max_size=2), st.booleans())
def test_the_state_comes_back_as_it_was_written(name: str, nodes: int, cut: list[str], forwarding: bool) -> None:
    made = Lab(name, BLOCKS[3], nodes, Path("/run/x") / name, Path("/d"), tuple(cut), forwarding)
    assert from_state(json.loads(json.dumps(to_state(made))), made.state) == made


def test_another_versions_state_is_refused() -> None:
    with pytest.raises(LabError, match="another version") as caught:
        from_state(to_state(lab()) | {"version": 99}, Path("/run/sampan-lab/lab"))
    assert "take the lab down with that version" in caught.value.hint


@pytest.mark.parametrize("name", ["", "a-b", "Lab", "twelve123456", "a/b", "..", "ä"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(LabError):
        check_name(name)


@pytest.mark.parametrize("count", [0, -1, 101])
def test_counts_that_cannot_be(count: int) -> None:
    with pytest.raises(LabError):
        check_nodes(count)


def test_an_unknown_host_is_told_with_those_that_there_are() -> None:
    with pytest.raises(LabError, match='no host "node7"') as caught:
        lab().host("node7")
    assert caught.value.hint == "it has master, node1, node2"
