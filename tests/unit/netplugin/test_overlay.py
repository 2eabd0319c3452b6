from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplugin import names
from netplugin.overlay import (
    HOST_GW,
    VXLAN,
    Action,
    CreateDevice,
    DeleteDevice,
    Device,
    DropAddress,
    DropForwarding,
    DropNeighbour,
    DropRoute,
    Overlay,
    Route,
    Seen,
    SeenDevice,
    SetDevice,
    SetForwarding,
    SetNeighbour,
    SetRoute,
    Settings,
    Underlay,
    cluster_networks,
    mtu,
    plan,
    reachable,
    wanted,
)
from netplugin.protocol import Peer

OWN = IPv4Network("10.42.1.0/24")
SETTINGS = Settings(IPv4Address("192.0.2.1"))
HOST_GATEWAY = Settings(IPv4Address("192.0.2.1"), HOST_GW)
UNDERLAY = Underlay("eth0", 1500)
MAC = "0e:59:0a:2a:02:00"
PEER = Peer("b", "192.0.2.2", "10.42.2.0/24", VXLAN, MAC)
ROUTE = Route(IPv4Network("10.42.2.0/24"), IPv4Address("10.42.2.0"), "sampan.1", onlink=True)
WISH = wanted(SETTINGS, OWN, UNDERLAY, [PEER])
THERE = SeenDevice((VXLAN, 1, 8472, IPv4Address("192.0.2.1"), False), "0e:59:0a:2a:01:00", 1450, True, False,
                   frozenset({IPv4Interface("10.42.1.0/32")}))
GOOD = Seen(THERE, frozenset({ROUTE}), {IPv4Address("10.42.2.0"): MAC}, {MAC: IPv4Address("192.0.2.2")})
ENTRIES: list[Action] = [SetForwarding("sampan.1", MAC, IPv4Address("192.0.2.2")),
                         SetNeighbour("sampan.1", IPv4Address("10.42.2.0"), MAC), SetRoute(ROUTE)]


def test_what_is_wanted_of_vxlan() -> None:
    device = Device("sampan.1", 1, 8472, IPv4Address("192.0.2.1"), IPv4Interface("10.42.1.0/32"), 1450, False)
    expected = Overlay(device, frozenset({ROUTE}), {IPv4Address("10.42.2.0"): MAC},
                       {MAC: IPv4Address("192.0.2.2")})
    assert wanted(SETTINGS, OWN, UNDERLAY, [PEER]) == expected
    assert device.mac == "0e:59:0a:2a:01:00"


def test_a_node_by_itself_needs_no_device() -> None:
    assert wanted(SETTINGS, OWN, UNDERLAY, [replace(PEER, mac="")]) == Overlay()
    assert plan(Overlay(), GOOD) == [DeleteDevice("sampan.1")]


def test_what_is_wanted_of_host_gw() -> None:
    route = Route(IPv4Network("10.42.2.0/24"), IPv4Address("192.0.2.2"), "eth0", onlink=False)
    wish = wanted(HOST_GATEWAY, OWN, UNDERLAY, [replace(PEER, backend=HOST_GW, mac="")])
    assert wish == Overlay(None, frozenset({route}))


@pytest.mark.parametrize(("settings", "expected"), [(SETTINGS, 1450), (HOST_GATEWAY, 1500), (None, 1500)])
def test_mtu(settings: Settings | None, expected: int) -> None:
    assert mtu(settings, UNDERLAY) == expected


@pytest.mark.parametrize("peer", [
    replace(PEER, backend=HOST_GW),  # another backend
    replace(PEER, mac=""),  # it has not said yet
    replace(PEER, subnet="10.42.1.0/24"),  # ours
    replace(PEER, subnet="10.42.0.0/16"),  # around ours
])
def test_peers_that_cannot_be_reached(peer: Peer) -> None:
    assert reachable(SETTINGS, OWN, [peer]) == {}


def test_of_two_peers_with_one_subnet_or_one_mac_the_first_by_name_has_it() -> None:
    subnet = IPv4Network(PEER.subnet)
    assert reachable(SETTINGS, OWN, [replace(PEER, name="c", mac="0e:59:00:00:00:09"), PEER]) == {subnet: PEER}
    assert reachable(SETTINGS, OWN, [replace(PEER, name="c", subnet="10.42.3.0/24"), PEER]) == {subnet: PEER}


@pytest.mark.parametrize(("seen", "expected"), [
    (GOOD, []),
    (Seen(), [CreateDevice(WISH.device), *ENTRIES]),
    (Seen(routes=frozenset({ROUTE})), [CreateDevice(WISH.device), *ENTRIES[:2]]),
    (replace(GOOD, device=replace(THERE, up=False)), [SetDevice(WISH.device), ENTRIES[1]]),
    (replace(GOOD, device=replace(THERE, mtu=1500)), [SetDevice(WISH.device), ENTRIES[1]]),
    (replace(GOOD, device=replace(THERE, checksum_offload=True)), [SetDevice(WISH.device), ENTRIES[1]]),
    (replace(GOOD, device=replace(THERE, addresses=frozenset({IPv4Interface("10.42.7.0/32")}))),
     [DropAddress("sampan.1", IPv4Interface("10.42.7.0/32")), SetDevice(WISH.device), ENTRIES[1]]),
    (replace(GOOD, device=replace(THERE, vxlan=(VXLAN, 1, 4789, IPv4Address("192.0.2.1"), False))),
     [DeleteDevice("sampan.1"), CreateDevice(WISH.device), *ENTRIES]),
    (replace(GOOD, device=replace(THERE, vxlan=("bridge", 0, 0, None, False))),
     [DeleteDevice("sampan.1"), CreateDevice(WISH.device), *ENTRIES]),
    (replace(GOOD, routes=frozenset()), ENTRIES[2:]),
    (replace(GOOD, neighbours={}), ENTRIES[1:2]),
    (replace(GOOD, forwarding={MAC: IPv4Address("192.0.2.9")}), ENTRIES[:1]),
    (replace(GOOD, forwarding={**GOOD.forwarding, "00:00:00:00:00:00": None}),
     [DropForwarding("sampan.1", "00:00:00:00:00:00", None)]),
    (replace(GOOD, neighbours={**GOOD.neighbours, IPv4Address("10.42.9.0"): "0e:59:00:00:00:09"}),
     [DropNeighbour("sampan.1", IPv4Address("10.42.9.0"))]),
    (replace(GOOD, routes=frozenset({ROUTE, replace(ROUTE, subnet=IPv4Network("10.42.9.0/24"))})),
     [DropRoute(replace(ROUTE, subnet=IPv4Network("10.42.9.0/24")))]),
    (replace(GOOD, routes=frozenset({replace(ROUTE, link="eth0", onlink=False)})), ENTRIES[2:]),  # replaced in place
])
def test_plan(seen: Seen, expected: list[Action]) -> None:
    assert plan(WISH, seen) == expected


def test_the_device_of_another_backend_goes() -> None:
    route = Route(IPv4Network("10.42.2.0/24"), IPv4Address("192.0.2.2"), "eth0", onlink=False)
    assert plan(Overlay(None, frozenset({route})), GOOD) == [DeleteDevice("sampan.1"), SetRoute(route)]
    assert plan(Overlay(), Seen(None, frozenset({route}))) == [DropRoute(route)]


class Kernel:
    """Does what the actions say, and as the kernel does, takes tables and routes away with their device."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def apply(self, action: Action) -> None:
        seen = self.seen
        match action:
            case CreateDevice(device):
                assert seen.device is None
                self.seen = Seen(_made(device), seen.routes)
            case SetDevice(device):
                assert seen.device is not None
                extra = seen.device.addresses - {device.address}
                self.seen = replace(seen, device=replace(_made(device), vxlan=seen.device.vxlan,
                                                         addresses=_made(device).addresses | extra), neighbours={})
            case DeleteDevice(name):
                self.seen = Seen(None, frozenset(route for route in seen.routes if route.link != name))
            case DropAddress(_, address):
                assert seen.device is not None
                self.seen = replace(seen, device=replace(seen.device, addresses=seen.device.addresses - {address}))
            case SetForwarding(_, mac, node):
                self.seen = replace(seen, forwarding={**seen.forwarding, mac: node})
            case DropForwarding(_, mac, _):
                self.seen = replace(seen, forwarding={key: to for key, to in seen.forwarding.items() if key != mac})
            case SetNeighbour(_, address, mac):
                self.seen = replace(seen, neighbours={**seen.neighbours, address: mac})
            case DropNeighbour(_, address):
                self.seen = replace(seen, neighbours={key: to for key, to in seen.neighbours.items()
                                                      if key != address})
            case SetRoute(route):
                assert route.link != "sampan.1" or seen.device is not None
                others = {other for other in seen.routes if other.subnet != route.subnet}
                self.seen = replace(seen, routes=frozenset({*others, route}))
            case DropRoute(route):
                assert route in seen.routes
                self.seen = replace(seen, routes=seen.routes - {route})


def _made(device: Device) -> SeenDevice:
    return SeenDevice((VXLAN, device.vni, device.port, device.local, False), device.mac, device.mtu, True,
                      device.checksum_offload, frozenset({device.address}))


NUMBERS = st.integers(0, 5)
PEERS = st.lists(st.builds(
    lambda name, host, net, mac, backend: Peer(f"n{name}", f"192.0.2.{host}", f"10.42.{net}.0/24", backend,
                                               f"0e:59:00:00:00:0{mac}" if mac else ""),
    NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from([VXLAN, HOST_GW])), max_size=8)


@given(PEERS, PEERS, st.sampled_from([SETTINGS, HOST_GATEWAY]), st.sampled_from([SETTINGS, HOST_GATEWAY]),
       st.booleans())
def test_any_state_converges_on_any_other(before: list[Peer], after: list[Peer], old: Settings, new: Settings,
                                          device_lost: bool) -> None:
    kernel = Kernel(Seen())
    for action in plan(wanted(old, OWN, UNDERLAY, before), kernel.seen):
        kernel.apply(action)
    if device_lost:
        kernel.apply(DeleteDevice("sampan.1"))
    wish = wanted(new, OWN, UNDERLAY, after)
    for action in plan(wish, kernel.seen):
        kernel.apply(action)
    assert plan(wish, kernel.seen) == []
    assert kernel.seen.routes == wish.routes
    assert dict(kernel.seen.forwarding) == dict(wish.forwarding)
    assert dict(kernel.seen.neighbours) == dict(wish.neighbours)
    assert {route.subnet.network_address for route in wish.routes} == set(wish.neighbours) or new is HOST_GATEWAY
    assert (kernel.seen.device is not None) == (bool(wish.routes) and new is SETTINGS)


def test_the_cluster_is_what_its_nodes_have_and_what_is_configured() -> None:
    others = [IPv4Network("10.42.0.0/24"), IPv4Network("10.42.2.0/24")]
    assert cluster_networks("", OWN, []) == (OWN,)
    assert cluster_networks("", OWN, others) == (IPv4Network("10.42.0.0/23"), IPv4Network("10.42.2.0/24"))
    assert cluster_networks("10.42.0.0/16", OWN, others) == (IPv4Network("10.42.0.0/16"),)
    assert cluster_networks("10.42.0.0/16", OWN, [IPv4Network("10.9.0.0/24")]) == (
        IPv4Network("10.9.0.0/24"), IPv4Network("10.42.0.0/16"))


def test_the_vtep_s_mac_is_local_and_unicast() -> None:
    mac = names.vtep_mac(IPv4Address("10.42.1.0"))
    assert mac == "0e:59:0a:2a:01:00"
    assert int(mac[:2], 16) & 3 == 2
