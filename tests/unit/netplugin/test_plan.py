from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplugin import names
from netplugin.ipam import Lease
from netplugin.kernel.command import Backend, parse_version
from netplugin.kernel.dump import (
    Link,
    Neighbour,
    Route,
    Vxlan,
    attributes,
    parse_link,
    parse_neighbour,
    parse_route,
    parse_vxlan,
)
from netplugin.kernel.firewall import Firewall as KernelFirewall
from netplugin.kernel.generation import parse_generation
from netplugin.kernel.monitor import disturbs
from netplugin.plan import (
    Action,
    AddAddress,
    BridgeSpec,
    Connect,
    CreateBridge,
    DeletePort,
    DropAddress,
    PortSpec,
    Seen,
    SeenBridge,
    SeenPort,
    SetBridge,
    plan,
)
from netplugin.protocol import HostPort, NetworkError, Sandbox
from netplugin.rules import HOSTPORTS, Firewall, chains, restore_input

BRIDGE = BridgeSpec("sampan0", IPv4Interface("10.42.7.1/24"), 1450)
THERE = SeenBridge(5, "0a:58:0a:2a:07:01", 1450, True, frozenset({BRIDGE.address}))
PORT = PortSpec("smp000000000001", IPv4Address("10.42.7.2"))
GOOD = SeenPort(9, 5, True, True)


@pytest.mark.parametrize(("seen", "expected"), [
    (Seen(THERE, {PORT.name: GOOD}), []),
    (Seen(THERE, {}), []),
    (Seen(None, {}), [CreateBridge(BRIDGE)]),
    (Seen(None, {PORT.name: GOOD}), [CreateBridge(BRIDGE), Connect(PORT.name, BRIDGE)]),
    (Seen(replace(THERE, up=False), {}), [SetBridge(BRIDGE)]),
    (Seen(replace(THERE, mtu=1500), {PORT.name: GOOD}), [SetBridge(BRIDGE)]),
    (Seen(replace(THERE, addresses=frozenset({IPv4Interface("10.42.1.1/24")})), {}),
     [DropAddress(BRIDGE, IPv4Interface("10.42.1.1/24")), AddAddress(BRIDGE)]),
    (Seen(THERE, {PORT.name: replace(GOOD, master=0)}), [Connect(PORT.name, BRIDGE)]),
    (Seen(THERE, {PORT.name: replace(GOOD, hairpin=False)}), [Connect(PORT.name, BRIDGE)]),
    (Seen(THERE, {"smp0000000000ff": GOOD}), [DeletePort("smp0000000000ff")]),
])
def test_plan(seen: Seen, expected: list[Action]) -> None:
    assert plan(BRIDGE, {PORT.name: PORT}, seen) == expected


def test_others_ports_can_be_left_alone() -> None:
    assert plan(BRIDGE, {}, Seen(THERE, {"smp0000000000ff": GOOD}), delete_others=False) == []


@given(st.text(max_size=80))
def test_veth_names_fit_the_kernel(sandbox_id: str) -> None:
    assert names.is_veth(names.veth(sandbox_id))
    assert len(names.veth(sandbox_id)) == 15


def test_veth_names_show_the_container_s_id() -> None:
    assert names.veth("0123456789ab" + "cd" * 26) == "smp0123456789ab"
    assert not names.is_veth("veth0123456")
    assert names.pod_mac(IPv4Address("10.42.7.2")) == "0a:58:0a:2a:07:02"


def test_rules() -> None:
    lease = Lease(IPv4Address("10.42.7.2"), "id", "web", "front", "uid",
                  (HostPort(8080, 80), HostPort(5353, 53, "UDP", "127.0.0.1")))
    wanted = Firewall(IPv4Network("10.42.7.0/24"), (IPv4Network("10.42.0.0/16"),), (lease,), random_fully=False)
    text = restore_input(chains(wanted))
    assert text.count("COMMIT") == 2
    assert ('-A SAMPAN-HOSTPORTS -p tcp -m tcp --dport 8080 -m comment --comment "web/front" '
            "-j DNAT --to-destination 10.42.7.2:80\n") in text
    assert "-A SAMPAN-HOSTPORTS -d 127.0.0.1 -p udp -m udp --dport 5353" in text
    assert "-A SAMPAN-POSTROUTING -s 10.42.7.0/24 -d 10.42.0.0/16 -j RETURN\n" in text
    assert "-o " not in text
    assert "ACCEPT" in text
    assert "ACCEPT" not in restore_input(chains(replace(wanted, accept=False)))
    crossing = restore_input(chains(replace(wanted, overlay="sampan.1")))
    assert crossing.index("-s 10.42.0.0/16 -j RETURN") < crossing.index("-o sampan.1 -j MASQUERADE")
    assert "random-fully" not in text
    assert "random-fully" in restore_input(chains(replace(wanted, random_fully=True)))


def test_a_host_s_address_that_is_none_of_ipv4_gets_into_no_rule() -> None:
    """A pod's hostIP is any text for the API, and IPv6 is nothing that these rules know."""
    evil = "192.0.2.1\nCOMMIT\n*filter\n-I INPUT -j ACCEPT"
    ports = (HostPort(80, 80, host_ip=evil), HostPort(81, 81, host_ip="::"), HostPort(82, 82, host_ip="0.0.0.0"))
    lease = Lease(IPv4Address("10.42.7.2"), "id", "web", "front", "uid", ports)
    chain = next(chain for chain in chains(Firewall(IPv4Network("10.42.7.0/24"), (), (lease,)))
                 if chain.name == HOSTPORTS)
    assert chain.rules[-1] == ('-p tcp -m tcp --dport 82 -m comment --comment "web/front" '
                               "-j DNAT --to-destination 10.42.7.2:82")
    assert len(chain.rules) == 3
    with pytest.raises(NetworkError, match=r"hostIP of hostPort 80: .* does not appear to be an IPv4 or IPv6 address"):
        Sandbox("id", 1, "web", "front", "uid", ports[:1])
    assert Sandbox("id", 1, "web", "front", "uid", ports[1:]).host_ports == ports[1:]


@pytest.mark.parametrize(("text", "backend"), [
    ("iptables v1.8.9 (nf_tables)\n", Backend((1, 8, 9), True)),
    ("iptables v1.8.4 (legacy)\n", Backend((1, 8, 4), False)),
    ("iptables v1.6.1\n", Backend((1, 6, 1), False)),
])
def test_iptables_versions(text: str, backend: Backend) -> None:
    assert parse_version(text) == backend
    assert backend.random_fully == (backend.version >= (1, 6, 2))
    assert bool(backend.warning) == (backend.version == (1, 8, 4))


@pytest.mark.parametrize(("version", "warned"), [("1.8.4", True), ("1.8.5", False)])
async def test_a_version_with_known_faults_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        caplog: pytest.LogCaptureFixture, version: str,
                                                        warned: bool) -> None:
    for name in ("iptables", "iptables-restore"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho x >>{tmp_path}/asked\necho 'iptables v{version} (nf_tables)'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    firewall = KernelFirewall()
    assert await firewall.backend() == await firewall.backend() == parse_version(f"v{version} (nf_tables)")
    assert (tmp_path / "asked").read_text() == "x\n"
    assert ("may write rules twice" in caplog.text) is warned


async def test_a_jump_that_cannot_be_looked_for_is_not_put_there_twice(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has iptables' lock while the rule is looked for, and not after."""
    for name in ("iptables", "iptables-restore"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho \"$@\" >>{tmp_path}/asked\n"
                                     "case \"$*\" in --version) echo 'iptables v1.8.9 (legacy)';;\n"
                                     "*-C*) echo 'Another app is currently holding the xtables lock.' >&2; exit 4;;\n"
                                     "esac\ncat >/dev/null\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(NetworkError, match="Another app is currently holding the xtables lock"):
        await KernelFirewall().apply(chains(Firewall(IPv4Network("10.42.7.0/24"), ())))
    assert " -I " not in (tmp_path / "asked").read_text()


def test_an_unknown_iptables() -> None:
    with pytest.raises(NetworkError, match="nonsense"):
        parse_version("nonsense")


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return length.to_bytes(2, "little") + kind.to_bytes(2, "little") + data + bytes(-length % 4)


def message(kind: int, flags: int = 1, change: int = 0) -> bytes:
    body = bytes(4) + (7).to_bytes(4, "little") + flags.to_bytes(4, "little") + change.to_bytes(4, "little")
    return (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10) + body


@pytest.mark.parametrize(("data", "expected"), [
    (message(16, 0x11043), False),  # a link that is up
    (message(16, 0x1002, 0xFFFFFFFF), False),  # one that was just made
    (message(16, 0x11003, 1), False),  # and then brought up
    (message(16, 0x1002, 1), True),  # one that went down
    (message(16, 0x1002), False),  # another change of one that is down
    (message(16) + message(17), True),  # one that was deleted
    (message(20), False),  # a new address
    (message(21), True),
    (message(25), True),
    (b"", False),
    (bytes(40), False),
])
def test_only_losses_disturb(data: bytes, expected: bool) -> None:
    assert disturbs(data) is expected


def route(subnet: str, gateway: str = "192.0.2.1", table: int = 254) -> bytes:
    network = IPv4Network(subnet)
    body = bytes([2, network.prefixlen, 0, 0, table, 83, 0, 1]) + (4).to_bytes(4, "little")
    body += attribute(1, network.network_address.packed) + attribute(5, IPv4Address(gateway).packed)
    body += attribute(4, (7).to_bytes(4, "little")) + attribute(15, table.to_bytes(4, "little"))
    return body


def neighbour(index: int, mac: str = "0e:59:0a:2a:02:00", address: str = "192.0.2.2", state: int = 0x80) -> bytes:
    body = bytes([7, 0, 0, 0]) + index.to_bytes(4, "little") + state.to_bytes(2, "little") + bytes([2, 0])
    return body + attribute(1, IPv4Address(address).packed) + attribute(2, bytes.fromhex(mac.replace(":", "")))


def framed(kind: int, body: bytes) -> bytes:
    return (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10) + body


@pytest.mark.parametrize(("data", "expected"), [
    (message(16, 0x11043), False),  # link 7 is the underlay below, 9 the device
    (framed(16, bytes(4) + (9).to_bytes(4, "little") + bytes(8)), True),
    (framed(16, bytes(4) + (8).to_bytes(4, "little") + bytes(8)), True),
    (framed(20, bytes(4) + (8).to_bytes(4, "little")), True),
    (framed(20, bytes(4) + (7).to_bytes(4, "little")), False),
    (framed(28, neighbour(9)), True),
    (framed(29, neighbour(9)), True),
    (framed(28, neighbour(8)), False),  # the underlay's neighbours come and go all day
    (framed(24, route("10.42.2.0/24")), True),
    (framed(24, route("10.42.3.0/24")), False),
    (framed(24, b""), False),
])
def test_of_what_is_watched_every_change_disturbs(data: bytes, expected: bool) -> None:
    assert disturbs(data, 8, 9, frozenset({IPv4Network("10.42.2.0/24")})) is expected


def test_a_route_is_read() -> None:
    assert parse_route(route("10.42.2.0/24")) == Route(
        IPv4Network("10.42.2.0/24"), IPv4Address("192.0.2.1"), 7, onlink=True, protocol=83)
    assert parse_route(route("10.42.2.0/24", table=100)) is None


def test_a_neighbour_is_read() -> None:
    assert parse_neighbour(neighbour(9)) == Neighbour(9, "0e:59:0a:2a:02:00", IPv4Address("192.0.2.2"), True)
    assert not parse_neighbour(neighbour(9, state=4)).permanent


def test_a_vxlan_device_is_read() -> None:
    data = attribute(1, (1).to_bytes(4, "little")) + attribute(4, IPv4Address("192.0.2.1").packed)
    data += attribute(7, b"\0") + attribute(15, (8472).to_bytes(2, "big"))
    info = attribute(1, b"vxlan\0") + attribute(2 | 0x8000, data)
    assert parse_vxlan(bytes(16) + attribute(18, info)) == Vxlan("vxlan", 1, 8472, IPv4Address("192.0.2.1"), False)
    assert parse_vxlan(bytes(16) + attribute(18, attribute(1, b"bridge\0"))) == Vxlan("bridge", 0, 0, None, False)
    assert parse_vxlan(bytes(16)).kind == ""


@pytest.mark.parametrize(("data", "expected"), [
    (bytes(20) + bytes.fromhex("0800010000000007"), 7),
    (bytes(20) + bytes.fromhex("0800020000000009") + bytes.fromhex("0800010000000102"), 258),
    (bytes(20), None),
    (b"", None),
    (bytes(20) + bytes.fromhex("00000100"), None),
])
def test_the_generation_of_rules(data: bytes, expected: int | None) -> None:
    assert parse_generation(data) == expected


def test_a_link_is_read() -> None:
    port = attribute(1, b"\3") + attribute(4, b"\1")
    info = attribute(1, b"veth\0") + attribute(4, b"bridge\0") + attribute(5 | 0x8000, port)
    body = bytes(4) + (9).to_bytes(4, "little") + (0x11043).to_bytes(4, "little") + bytes(4)
    body += attribute(3, b"smp0123456789ab\0") + attribute(1, bytes.fromhex("0e580a2a0702"))
    body += attribute(4, (1450).to_bytes(4, "little")) + attribute(10, (5).to_bytes(4, "little")) + attribute(18, info)
    assert parse_link(body) == Link(9, "smp0123456789ab", True, "0e:58:0a:2a:07:02", 1450, 5, True)
    assert parse_link(bytes(16)) == Link(0, "", False, "", 0, 0, False)


@given(st.binary(max_size=200))
def test_attributes_of_whatever_bytes_end(data: bytes) -> None:
    assert sum(len(value) for value in attributes(data).values()) <= len(data)
