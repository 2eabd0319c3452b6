from __future__ import annotations

import pytest

from agent.network.peers import announce, peer
from netplugin.protocol import Peer
from sampan.api.types import core_v1, meta_v1

FLANNEL = "flannel.alpha.coreos.com/"
SAID = {f"{FLANNEL}backend-type": "vxlan", f"{FLANNEL}backend-data": '{"VNI":1,"VtepMAC":"0e:59:0a:2a:02:00"}',
        f"{FLANNEL}public-ip": "192.0.2.2", f"{FLANNEL}kube-subnet-manager": "true"}
PEER = Peer("b", "192.0.2.2", "10.42.2.0/24", "vxlan", "0e:59:0a:2a:02:00")


def node(said: dict[str, str], cidr: str = "10.42.2.0/24", cidrs: list[str] | None = None) -> core_v1.Node:
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name="b", annotations=said),
        spec=core_v1.NodeSpec(pod_cidr=cidr, pod_cidrs=cidrs or []),
        status=core_v1.NodeStatus(addresses=[core_v1.NodeAddress(type="InternalIP", address="192.0.2.22")]))


def test_annotations_are_flannels() -> None:
    assert announce(Peer("", "192.0.2.2", "10.42.2.0/24", "vxlan", "0e:59:0a:2a:02:00")) == SAID
    other = announce(Peer("", "192.0.2.2", "10.42.2.0/24", "host-gw"))
    assert (other[f"{FLANNEL}backend-type"], other[f"{FLANNEL}backend-data"]) == ("host-gw", "null")
    assert announce(None) == {}


def test_what_a_node_announces_its_peers_read() -> None:
    assert peer(node(SAID)) == PEER
    assert peer(node({**SAID, f"{FLANNEL}backend-type": "host-gw", f"{FLANNEL}backend-data": "null"})) == Peer(
        "b", "192.0.2.2", "10.42.2.0/24", "host-gw")


@pytest.mark.parametrize(("said", "address"), [
    ({}, "192.0.2.2"),
    ({f"{FLANNEL}public-ip-overwrite": "203.0.113.7"}, "203.0.113.7"),
    ({f"{FLANNEL}public-ip": ""}, "192.0.2.22"),
])
def test_the_address(said: dict[str, str], address: str) -> None:
    found = peer(node({**SAID, **said}))
    assert found is not None
    assert found.address == address


@pytest.mark.parametrize(("said", "cidr", "cidrs"), [
    ({}, "10.42.2.0/24", []),  # it has not said anything
    (SAID, "", []),  # it has no pod CIDR
    (SAID, "fd00::/64", ["fd00::/64"]),
    (SAID, "nonsense", []),
    ({**SAID, f"{FLANNEL}public-ip": "nonsense"}, "10.42.2.0/24", []),
])
def test_what_is_no_peer(said: dict[str, str], cidr: str, cidrs: list[str]) -> None:
    assert peer(node(said, cidr, cidrs)) is None


@pytest.mark.parametrize("data", ["", "{", "null", "[]", '{"VtepMAC":7}', '{"VtepMAC":"x"}', '{"VNI":1}'])
def test_a_peer_without_a_mac_that_can_be_used(data: str) -> None:
    assert peer(node({**SAID, f"{FLANNEL}backend-data": data})) == Peer("b", "192.0.2.2", "10.42.2.0/24", "vxlan", "")


def test_the_first_of_both_families_that_is_ipv4() -> None:
    assert peer(node(SAID, "fd00::/64", ["fd00::/64", "10.42.2.0/24"])) == PEER
