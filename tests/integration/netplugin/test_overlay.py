"""Pods of different nodes: network namespaces as hosts, joined by a switch; real VXLAN, real iptables."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from netplugin.netns import open_socket
from tests.support.hosts import Host, Refused, hosts, introduce
from tests.support.netns import ip, process_with_network, reaches, run

pytestmark = pytest.mark.net

HEALED = 90.0
"""Seconds until a test gives up; how long it takes is measured by hand, since the machine may be busy."""


@pytest.fixture
def pids() -> Iterator[list[int]]:
    with process_with_network() as one, process_with_network() as two, process_with_network() as three:
        yield [one, two, three]


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Host]]:
    """Two that know each other."""
    async with hosts(2, tmp_path) as made:
        yield made


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HEALED):
        while not await holds():
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def serving(pid: int, port: int) -> AsyncIterator[list[str]]:
    """A TCP server in a namespace; yields the addresses from which clients came."""
    clients: list[str] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer.get_extra_info("peername")[0])
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    listening = await asyncio.to_thread(open_socket, pid)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("0.0.0.0", port))
    async with await asyncio.start_server(serve, sock=listening):
        yield clients


async def fetch(pid: int, address: str, port: int, source: str = "") -> bytes:
    sock = await asyncio.to_thread(open_socket, pid)
    if source:
        sock.bind((source, 0))
    async with asyncio.timeout(20):
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock)
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        return data


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
async def test_pods_of_three_nodes_reach_each_other(tmp_path: Path, pids: list[int], backend: str) -> None:
    async with hosts(3, tmp_path, backend=backend) as nodes:
        addresses = [await node.pod(1, pid) for node, pid in zip(nodes, pids, strict=True)]
        assert addresses == ["10.42.1.2", "10.42.2.2", "10.42.3.2"]
        for pid in pids:
            for address in addresses:
                assert reaches(pid, address)
        for node in nodes:
            for address in addresses:
                assert await node.reaches(address)
        async with serving(pids[1], 80) as clients:
            assert await fetch(pids[0], addresses[1], 80) == b"hello"
            assert await fetch(nodes[0].pid, addresses[1], 80) == b"hello"
            # A Service's connection from the node has got the underlay's address already.
            assert await fetch(nodes[0].pid, addresses[1], 80, source=nodes[0].address) == b"hello"
            own = ["10.42.1.0", "10.42.1.0"] if backend == "vxlan" else [nodes[0].address] * 2
            assert clients == [addresses[0], *own]


@pytest.mark.parametrize(("backend", "mtu"), [("vxlan", 1450), ("host-gw", 1500)])
async def test_the_largest_packets_arrive_whole(tmp_path: Path, pids: list[int], backend: str, mtu: int) -> None:
    async with hosts(2, tmp_path, backend=backend) as nodes:
        for node, pid in zip(nodes, pids, strict=False):
            await node.pod(1, pid)
            assert json.loads(run(["ip", "-j", "link", "show", "eth0"], pid))[0]["mtu"] == mtu
        sender, receiver = (open_socket(pid, kind=socket.SOCK_DGRAM) for pid in pids[:2])
        with sender, receiver:
            sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: never in fragments
            receiver.bind(("0.0.0.0", 9000))
            sender.sendto(bytes(mtu - 28), ("10.42.2.2", 9000))
            async with asyncio.timeout(20):
                assert len(await asyncio.get_running_loop().sock_recv(receiver, 2000)) == mtu - 28
            with pytest.raises(OSError, match="too long"):
                sender.sendto(bytes(mtu - 27), ("10.42.2.2", 9000))


async def test_the_device_is_as_flannels(nodes: list[Host]) -> None:
    link = json.loads(nodes[0].ip("-j -d link show sampan.1"))[0]
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], link["address"]) == (1450, "0e:59:0a:2a:01:00")
    assert (data["id"], data["port"], data["local"], data["learning"]) == (1, 8472, "192.0.2.1", False)
    assert "tx-checksum-ip-generic: off" in nodes[0].run("ethtool", "-k", "sampan.1")
    assert nodes[0].ip("route show 10.42.2.0/24").split() == (
        ["10.42.2.0/24", "via", "10.42.2.0", "dev", "sampan.1", "proto", "83", "onlink"])
    assert nodes[0].ip("neigh show dev sampan.1").split() == ["10.42.2.0", "lladdr", "0e:59:0a:2a:02:00", "PERMANENT"]
    assert nodes[0].run("bridge", "fdb", "show", "dev", "sampan.1").split() == (
        ["0e:59:0a:2a:02:00", "dst", "192.0.2.2", "self", "permanent"])


@pytest.mark.parametrize("offload", [False, True])
async def test_checksum_offload_is_off_unless_it_is_asked_for(tmp_path: Path, offload: bool) -> None:
    """Cards and kernels exist that get the checksums of packets in a tunnel wrong (kubernetes#88986)."""
    async with hosts(2, tmp_path, offload=offload) as nodes:
        shown = nodes[0].run("ethtool", "-k", "sampan.1")
        assert f"tx-checksum-ip-generic: {'on' if offload else 'off'}" in shown


async def test_nodes_that_come_move_and_go_are_followed(tmp_path: Path, pids: list[int]) -> None:
    async with hosts(2, tmp_path, introduced=False) as nodes:
        for node, pid in zip(nodes, pids, strict=False):
            await node.pod(1, pid)
        assert not reaches(pids[0], "10.42.2.2")
        await introduce(nodes)
        assert reaches(pids[0], "10.42.2.2")
        # It has another address and another MAC address.
        nodes[1].ip("addr add 192.0.2.77/24 dev up0")
        nodes[1].ip("link set sampan.1 address 0e:59:00:00:00:77")  # which has the kernel forget neighbours
        nodes[1].ip("neigh replace 10.42.1.0 dev sampan.1 lladdr 0e:59:0a:2a:01:00 nud permanent")
        moved = {**nodes[1].peer, "address": "192.0.2.77", "mac": "0e:59:00:00:00:77"}
        await nodes[0].call("follow", peers=[moved])
        assert reaches(pids[0], "10.42.2.2")
        # It is another host now, with another pod CIDR.
        await nodes[0].call("follow", peers=[{**moved, "subnet": "10.42.9.0/24", "mac": "0e:59:00:00:00:99"}])
        assert not reaches(pids[0], "10.42.2.2")
        assert "10.42.2.0" not in nodes[0].ip("route") + nodes[0].ip("neigh")
        await nodes[0].call("follow", peers=[])
        assert "sampan.1" not in nodes[0].ip("route") + nodes[0].ip("link")  # a node by itself needs none


DAMAGE = (
    "ip route del 10.42.2.0/24",
    "ip route replace 10.42.2.0/24 via 192.0.2.99",
    "ip neigh del 10.42.2.0 dev sampan.1",
    "ip neigh replace 10.42.2.0 dev sampan.1 lladdr 0e:59:00:00:00:01 nud permanent",
    "ip neigh replace 10.42.2.0 dev sampan.1 lladdr 0e:59:0a:2a:02:00 nud stale",
    "bridge fdb del 0e:59:0a:2a:02:00 dev sampan.1 dst 192.0.2.2",
    "bridge fdb replace 0e:59:0a:2a:02:00 dev sampan.1 dst 192.0.2.99 self permanent",
    "bridge fdb append 00:00:00:00:00:00 dev sampan.1 dst 192.0.2.99",
    "ip link del sampan.1",
    "ip link set sampan.1 down",
    "ip link set sampan.1 mtu 1200",
    "ip link set sampan.1 address 0e:59:00:00:00:01",
    "ip addr del 10.42.1.0/32 dev sampan.1",
    "ip link del sampan0",
    "ethtool -K sampan.1 tx on",
    "iptables -t nat -F SAMPAN-POSTROUTING",
    "iptables -t nat -D POSTROUTING 1",
    "iptables -F FORWARD",
)


def state(node: Host) -> str:
    """All that a healthy node has, without numbers and counters."""
    rules = "\n".join(line for line in node.run("iptables-save").splitlines() if line.startswith("-"))
    link = json.loads(node.ip("-j link show sampan.1"))[0]
    return "\n".join([
        str([link[key] for key in ("mtu", "address", "flags")]),
        *sorted(node.ip("-o -4 addr show dev sampan.1").split("\n")[0].split()[1:]),
        *sorted(node.ip("route").replace(" linkdown", "").splitlines()),
        *sorted(node.ip("neigh show nud permanent").splitlines()),
        *sorted(node.run("bridge", "fdb", "show", "dev", "sampan.1").splitlines()),
        str("tx-checksumming: off" in node.run("ethtool", "-k", "sampan.1")), rules])


async def test_whatever_is_taken_away_comes_back(nodes: list[Host], pids: list[int]) -> None:
    for node, pid in zip(nodes, pids, strict=False):
        await node.pod(1, pid)
    good = state(nodes[0])

    async def healed() -> bool:
        with contextlib.suppress(AssertionError):
            return state(nodes[0]) == good
        return False

    async def mended(damage: str) -> None:
        try:
            await until(healed)
        except TimeoutError:
            pytest.fail(f"{damage}\n{good}\n\n{state(nodes[0])}")

    for damage in DAMAGE:  # nobody watches yet: what is done is seen, for as long as nobody asks
        nodes[0].run(*damage.split())
        assert not await healed(), damage
        await nodes[0].call("heal")
        await mended(damage)
    await nodes[0].call("watch")
    for damage in DAMAGE:
        nodes[0].run(*damage.split())
        await mended(damage)
        assert reaches(pids[0], "10.42.2.2"), damage


async def test_a_device_of_another_kind_gives_way(nodes: list[Host]) -> None:
    nodes[0].ip("link del sampan.1")
    nodes[0].ip("link add sampan.1 type vxlan id 1 dstport 8472 local 192.0.2.1")  # one that learns
    await nodes[0].call("heal")
    assert not json.loads(nodes[0].ip("-j -d link show sampan.1"))[0]["linkinfo"]["info_data"]["learning"]
    nodes[0].ip("link del sampan.1")
    nodes[0].ip("link add sampan.1 type bridge")
    await nodes[0].call("heal")
    assert json.loads(nodes[0].ip("-j -d link show sampan.1"))[0]["linkinfo"]["info_kind"] == "vxlan"


async def test_a_device_of_somebody_else_in_the_way_is_named(tmp_path: Path) -> None:
    async with hosts(2, tmp_path, introduced=False) as nodes:
        nodes[0].ip("link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning")
        with pytest.raises(Refused, match="another VXLAN device on this host has VNI 1 and UDP port 8472"):
            await nodes[0].call("follow", peers=[nodes[1].peer])


async def test_another_backend_takes_the_device_away(tmp_path: Path) -> None:
    async with hosts(1, tmp_path) as nodes:
        await nodes[0].call("follow", peers=[{"name": "other", "address": "192.0.2.2", "subnet": "10.42.2.0/24",
                                              "backend": "vxlan", "mac": "0e:59:0a:2a:02:00"}])
        async with hosts(1, tmp_path / "other", backend="host-gw") as _:
            pass  # a node of its own, to show that this one is not touched
        assert "sampan.1" in nodes[0].ip("link")
        async with nodes[0].restarted("host-gw") as again:
            await again.call("setup", cidr=again.cidr)
            assert "sampan.1" not in again.ip("link") + again.ip("route")
            await again.call("follow", peers=[{"name": "other", "address": "192.0.2.2", "subnet": "10.42.2.0/24",
                                               "backend": "host-gw", "mac": ""}])
            assert "10.42.2.0/24 via 192.0.2.2 dev up0 proto 83" in again.ip("route")


async def test_a_smaller_underlay_makes_smaller_pods(nodes: list[Host], pids: list[int]) -> None:
    """And those that are there already are told."""
    for node, pid in zip(nodes, pids, strict=False):
        await node.pod(1, pid)
    await nodes[0].call("watch")
    nodes[0].ip("link set up0 mtu 1400")

    async def followed() -> bool:
        links = {link["ifname"]: link["mtu"] for link in json.loads(nodes[0].ip("-j link"))}
        return links.get("sampan.1") == links.get("sampan0") == 1350

    await until(followed)
    with open_socket(pids[0], kind=socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: never in fragments
        sender.connect(("10.42.2.2", 9000))

        async def told() -> bool:
            try:
                sender.send(bytes(1400))
            except OSError as error:
                return error.errno == errno.EMSGSIZE
            return False

        await until(told)


async def test_docker_cuts_no_pod_off(nodes: list[Host], pids: list[int]) -> None:
    """Docker's FORWARD DROP, and the rule of its version 28 against packets routed straight to its containers."""
    for node, pid in zip(nodes, pids, strict=False):
        await node.pod(1, pid)
        node.ip("link add docker0 type bridge")
        node.ip("addr add 172.17.0.1/16 dev docker0")
        for rule in ("-P FORWARD DROP", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER",
                     "-t raw -A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP",
                     "-t raw -A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8080 -j DROP"):
            node.run("iptables", *rule.split())
    assert reaches(pids[0], "10.42.2.2")
    assert reaches(nodes[0].pid, "10.42.2.2")
    async with serving(pids[1], 80) as clients:
        assert await fetch(pids[0], "10.42.2.2", 80) == b"hello"
        assert clients == ["10.42.1.2"]


async def test_the_world_sees_the_node_and_the_node_s_rules_know_every_node(nodes: list[Host], pids: list[int]) -> None:
    """Without a configured cluster CIDR, what the nodes have is the cluster."""
    await nodes[0].pod(1, pids[0])
    await nodes[1].pod(1, pids[1])
    with process_with_network() as outside:
        ip(f"link add port9 type veth peer name up0 netns {outside}", nodes[0].switch)
        ip("link set port9 master br0 up", nodes[0].switch)
        ip("addr add 192.0.2.9/24 dev up0", outside)
        ip("link set up0 up", outside)
        async with serving(outside, 80) as clients:
            assert await fetch(pids[0], "192.0.2.9", 80) == b"hello"
            assert clients == [nodes[0].address]
        async with serving(pids[1], 80) as clients:
            # Somebody who routes to pods by way of the wrong node gets an answer all the same.
            ip("route add 10.42.0.0/16 via 192.0.2.1", outside)
            assert await fetch(outside, "10.42.2.2", 80) == b"hello"
            assert clients == ["10.42.1.0"]
            ip("route replace 10.42.0.0/16 via 192.0.2.2", outside)
            assert await fetch(outside, "10.42.2.2", 80) == b"hello"
            assert clients[1:] == ["192.0.2.9"]


async def test_host_ports_from_other_nodes_and_their_pods(nodes: list[Host], pids: list[int]) -> None:
    await nodes[0].pod(1, pids[0])
    await nodes[1].pod(1, pids[1], [8000, 80])
    await nodes[1].pod(2, pids[2])
    async with serving(pids[1], 80):
        for client in (nodes[0].pid, pids[0], nodes[1].pid, pids[2], pids[1]):
            assert await fetch(client, nodes[1].address, 8000) == b"hello"
        assert await fetch(nodes[1].pid, "127.0.0.1", 8000) == b"hello"
        await nodes[1].call("watch")
        nodes[1].run("iptables", "-t", "nat", "-F")

        async def answers() -> bool:
            with contextlib.suppress(OSError, TimeoutError):
                return await fetch(nodes[0].pid, nodes[1].address, 8000) == b"hello"
            return False

        await until(answers)


async def test_teardown_leaves_nothing(nodes: list[Host], pids: list[int]) -> None:
    await nodes[0].pod(1, pids[0])
    await nodes[0].call("teardown")
    left = nodes[0].ip("link") + nodes[0].ip("route") + nodes[0].run("iptables-save")
    assert "sampan" not in left.lower()
    assert "10.42" not in left


async def test_one_node_that_cannot_be_reached_does_not_cut_off_the_others(tmp_path: Path, pids: list[int]) -> None:
    async with hosts(2, tmp_path, backend="host-gw") as nodes:
        for node, pid in zip(nodes, pids, strict=False):
            await node.pod(1, pid)
        far = {"name": "a-far-one", "address": "203.0.113.9", "subnet": "10.42.8.0/24", "backend": "host-gw", "mac": ""}
        with pytest.raises(Refused, match=r"10\.42\.8\.0/24"):
            await nodes[0].call("follow", peers=[far, nodes[1].peer])
        assert reaches(pids[0], "10.42.2.2")
