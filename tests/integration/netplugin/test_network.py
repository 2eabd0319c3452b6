"""The pod network with a real bridge, real veths and real iptables, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from netplugin import names
from netplugin.ipam import Lease
from netplugin.kernel import dump
from netplugin.netns import open_socket
from netplugin.network import NodeNetwork
from netplugin.protocol import AddressesExhausted, HostPort, NetworkError, Sandbox
from tests.support.netns import ip, private_network, process_with_network, reaches, run

pytestmark = pytest.mark.net

CIDR = "10.42.7.0/24"


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with private_network():
        yield


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[NodeNetwork]:
    made = NodeNetwork(tmp_path / "ipam", cluster_cidr="10.42.0.0/16")
    await made.setup(CIDR)
    yield made
    await made.close()


@pytest.fixture
def pids() -> Iterator[list[int]]:
    with process_with_network() as one, process_with_network() as two:
        yield [one, two]


@pytest.fixture
def outside() -> Iterator[int]:
    """A neighbour of the node at 192.0.2.2 that knows no pod address; the node is 192.0.2.1."""
    with process_with_network() as pid:
        ip(f"link add up0 type veth peer name eth0 netns {pid}")
        ip("addr add 192.0.2.1/24 dev up0")
        ip("link set up0 up")
        ip("addr add 192.0.2.2/24 dev eth0", pid)
        ip("link set lo up", pid)
        ip("link set eth0 up", pid)
        yield pid


def sandbox(number: int, pid: int, *ports: HostPort) -> Sandbox:
    return Sandbox(f"{number:012x}" + "ab" * 26, pid, "default", f"pod-{number}", f"uid-{number}", ports)


@contextlib.asynccontextmanager
async def serving(pid: int, port: int, answer: bytes) -> AsyncIterator[list[str]]:
    """A TCP server inside a sandbox; yields the addresses from which clients came."""
    clients: list[str] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer.get_extra_info("peername")[0])
        writer.write(answer)
        await writer.drain()
        writer.close()

    listening = await asyncio.to_thread(open_socket, pid)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("0.0.0.0", port))
    server = await asyncio.start_server(serve, sock=listening)
    async with server:
        yield clients


async def fetch(pid: int, address: str, port: int) -> bytes:
    sock = await asyncio.to_thread(open_socket, pid)
    async with asyncio.timeout(60):
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


async def test_two_pods_and_their_node_reach_each_other(network: NodeNetwork, pids: list[int]) -> None:
    one = await network.attach(sandbox(1, pids[0]))
    two = await network.attach(sandbox(2, pids[1]))
    assert (one.ip, two.ip, one.gateway) == ("10.42.7.2", "10.42.7.3", "10.42.7.1")
    assert reaches(pids[0], two.ip)
    assert reaches(pids[1], one.ip)
    assert reaches(None, one.ip)
    assert reaches(pids[0], one.gateway)
    async with serving(pids[1], 8080, b"hello") as clients:
        assert await fetch(pids[0], two.ip, 8080) == b"hello"
        assert await fetch(os.getpid(), two.ip, 8080) == b"hello"
        assert await fetch(pids[1], two.ip, 8080) == b"hello"
    assert clients == [one.ip, one.gateway, two.ip]
    assert one.mac in ip("link show eth0", pids[0])
    assert "hairpin on" in ip(f"-d link show {one.interface}")


async def test_the_world_sees_the_node_s_address(network: NodeNetwork, pids: list[int], outside: int) -> None:
    one = await network.attach(sandbox(1, pids[0]))
    assert reaches(pids[0], "192.0.2.2")
    async with serving(outside, 80, b"world") as clients:
        assert await fetch(pids[0], "192.0.2.2", 80) == b"world"
    assert clients == ["192.0.2.1"]
    # Inside the cluster a pod's own address is seen: the outside plays a node with pods of its own.
    ip("addr add 10.42.9.1/24 dev lo", outside)
    ip("route add 10.42.7.0/24 via 192.0.2.1", outside)
    ip("route add 10.42.9.0/24 via 192.0.2.2")
    async with serving(outside, 80, b"pod") as clients:
        assert await fetch(pids[0], "10.42.9.1", 80) == b"pod"
    assert clients == [one.ip]


@pytest.mark.usefixtures("outside")
async def test_dockers_drop_of_forwarded_packets_does_not_cut_pods_off(network: NodeNetwork, pids: list[int]) -> None:
    await network.attach(sandbox(1, pids[0]))
    run(["iptables", "-P", "FORWARD", "DROP"])
    assert reaches(pids[0], "192.0.2.2")
    run(["iptables", "-N", "DOCKER-USER"])
    run(["iptables", "-A", "DOCKER-USER", "-j", "RETURN"])
    run(["iptables", "-I", "FORWARD", "-j", "DOCKER-USER"])
    await network.heal()
    assert "SAMPAN-FORWARD" in run(["iptables", "-S", "DOCKER-USER"])
    assert reaches(pids[0], "192.0.2.2")


@pytest.mark.usefixtures("outside")
async def test_who_filters_forwarded_packets_himself_is_left_to_it(tmp_path: Path, pids: list[int]) -> None:
    """`accept-forwarded: off`: FORWARD's policy counts for pods, and a rule of the administrator's."""
    network = NodeNetwork(tmp_path / "ipam", cluster_cidr="10.42.0.0/16", accept_forwarded=False)
    await network.setup(CIDR)
    await network.attach(sandbox(1, pids[0]))
    assert reaches(pids[0], "192.0.2.2")
    run(["iptables", "-P", "FORWARD", "DROP"])
    assert not reaches(pids[0], "192.0.2.2")
    for way in ("-s", "-d"):
        run(["iptables", "-A", "FORWARD", way, "10.42.0.0/16", "-j", "ACCEPT"])
    assert reaches(pids[0], "192.0.2.2")
    await network.close()


async def test_host_ports(network: NodeNetwork, pids: list[int], outside: int) -> None:
    served = sandbox(1, pids[0], HostPort(8000, 80), HostPort(8001, 80, "TCP", "127.0.0.1"))
    one = await network.attach(served)
    await network.attach(sandbox(2, pids[1]))
    here = os.getpid()
    async with serving(pids[0], 80, b"pod one") as clients:
        assert await fetch(outside, "192.0.2.1", 8000) == b"pod one"
        assert clients.pop() == "192.0.2.2"  # the client's address is kept
        assert await fetch(here, "127.0.0.1", 8000) == b"pod one"
        assert await fetch(here, "127.0.0.1", 8001) == b"pod one"
        assert await fetch(here, "192.0.2.1", 8000) == b"pod one"
        assert await fetch(pids[1], "192.0.2.1", 8000) == b"pod one"  # a neighbour
        assert await fetch(pids[0], "192.0.2.1", 8000) == b"pod one"  # itself
        with pytest.raises(ConnectionRefusedError):
            await fetch(outside, "192.0.2.1", 8001)
        await network.detach(served.id)
    assert one.ip not in run(["iptables-save"])
    with pytest.raises(ConnectionRefusedError):
        await fetch(here, "127.0.0.1", 8000)


async def test_udp_host_port_forgets_old_flows(network: NodeNetwork, pids: list[int], outside: int) -> None:
    """A client that sends from one port goes on to the next owner of the host port."""
    loop = asyncio.get_running_loop()
    client = await asyncio.to_thread(open_socket, outside, kind=socket.SOCK_DGRAM)
    client.connect(("192.0.2.1", 5300))
    for number, pid in enumerate(pids, 1):
        pod = sandbox(number, pid, HostPort(5300, 53, "UDP"))
        await network.attach(pod)
        server = await asyncio.to_thread(open_socket, pid, kind=socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", 53))
        await loop.sock_sendall(client, b"question")
        async with asyncio.timeout(60):
            assert await loop.sock_recv(server, 100) == b"question"
        server.close()
        await network.detach(pod.id)
    client.close()


async def test_attaching_again_changes_nothing(network: NodeNetwork, pids: list[int]) -> None:
    first = await network.attach(sandbox(1, pids[0]))
    before = ip(f"-o link show {first.interface}"), ip("-o addr show", pids[0]), run(["iptables-save"])
    assert await network.attach(sandbox(1, pids[0])) == first
    assert await network.attachment(sandbox(1, 0).id) == first
    await network.setup(CIDR)

    def rules(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("-")]

    after = ip(f"-o link show {first.interface}"), ip("-o addr show", pids[0]), run(["iptables-save"])
    assert (before[0], before[1], rules(before[2])) == (after[0], after[1], rules(after[2]))


async def test_a_look_at_healthy_links_repairs_nothing(network: NodeNetwork, pids: list[int],
                                                       caplog: pytest.LogCaptureFixture) -> None:
    await network.attach(sandbox(1, pids[0]))
    with caplog.at_level("INFO"):
        await network.heal()
    assert "repairing" not in caplog.text


async def test_a_lost_link_is_told_and_attaching_mends_it(network: NodeNetwork, pids: list[int]) -> None:
    told: list[str] = []
    network.on_lost(told.append)
    first = await network.attach(sandbox(1, pids[0]))
    await network.attach(sandbox(2, pids[1]))
    await network.heal()
    assert told == []
    ip(f"link delete {first.interface}")
    await network.heal()
    assert told == [sandbox(1, pids[0]).id]
    assert await network.attach(sandbox(1, pids[0])) == first
    await network.heal()
    assert told == [sandbox(1, pids[0]).id]


async def test_links_and_addresses_are_read_as_ip_shows_them(network: NodeNetwork, pids: list[int]) -> None:
    await network.attach(sandbox(1, pids[0]))
    await network.attach(sandbox(2, pids[1]))
    shown = {link["ifname"]: link for link in json.loads(ip("-d -j addr"))}
    read = {link.name: link for link in dump.links()}
    assert read.keys() == shown.keys()
    for name, link in read.items():
        assert (link.index, link.mtu) == (shown[name]["ifindex"], shown[name]["mtu"])
        assert link.up == ("UP" in shown[name]["flags"])
        assert link.master == (read[shown[name]["master"]].index if "master" in shown[name] else 0)
        assert link.hairpin == shown[name].get("linkinfo", {}).get("info_slave_data", {}).get("hairpin", False)
        addresses = {f"{info['local']}/{info['prefixlen']}" for info in shown[name]["addr_info"]
                     if info["family"] == "inet"}
        assert {str(address) for address in dump.addresses(link.index)} == addresses


async def test_detaching_leaves_nothing_and_needs_no_process(network: NodeNetwork, tmp_path: Path) -> None:
    with process_with_network() as pid:
        one = await network.attach(sandbox(1, pid, HostPort(8000, 80)))
    await network.detach(sandbox(1, 0).id)
    await network.detach(sandbox(1, 0).id)
    assert one.interface not in ip("link")
    assert one.ip not in run(["iptables-save"])
    assert await network.attachment(sandbox(1, 0).id) is None
    assert not list((tmp_path / "ipam" / "sampan").glob("10.*"))


async def test_reconcile_releases_what_no_sandbox_has(tmp_path: Path, pids: list[int]) -> None:
    before = NodeNetwork(tmp_path)
    await before.setup(CIDR)
    kept = await before.attach(sandbox(1, pids[0]))
    lost = await before.attach(sandbox(2, pids[1], HostPort(8000, 80)))
    await before.reconcile([])
    assert await before.attachment(sandbox(1, 0).id) == kept  # fresh: the list may be older
    await before.close()
    after = NodeNetwork(tmp_path)
    await after.setup(CIDR)
    ip("link add smp0123456789ab type veth peer name left")  # from an attach that was killed before its file was kept
    await after.reconcile([sandbox(1, 0).id])
    assert await after.attachment(sandbox(1, 0).id) == kept
    assert await after.attachment(sandbox(2, 0).id) is None
    assert names.is_veth(lost.interface)
    assert [name for name in ip("-br link").split() if name.startswith("smp")] == [f"{kept.interface}@if2"]
    assert lost.ip not in run(["iptables-save"])
    await after.close()


async def test_reconcile_spares_what_is_attached_meanwhile(
        network: NodeNetwork, pids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    box, loop = sandbox(1, pids[0]), asyncio.get_running_loop()
    read = network._ipam.leases

    def leases() -> Sequence[Lease]:
        monkeypatch.setattr(network._ipam, "leases", read)
        asyncio.run_coroutine_threadsafe(network.attach(box), loop).result(20)
        return read()

    monkeypatch.setattr(network._ipam, "leases", leases)
    await network.reconcile([])
    assert await network.attachment(box.id) is not None


async def test_what_others_delete_comes_back(network: NodeNetwork, pids: list[int], outside: int) -> None:
    one = await network.attach(sandbox(1, pids[0], HostPort(8000, 80)))
    two = await network.attach(sandbox(2, pids[1]))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(network.run())
        await asyncio.sleep(0)
        ip("link del sampan0")
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(reaches, pids[0], two.ip):
                pass
        run(["iptables", "-t", "nat", "-F"])
        run(["iptables", "-F"])
        run(["iptables", "-P", "FORWARD", "DROP"])
        assert not reaches(pids[0], "192.0.2.2")
        await network.heal()  # `run` does this every 30 seconds
        assert reaches(pids[0], "192.0.2.2")
        async with serving(pids[0], 80, b"again"):
            assert await fetch(outside, "192.0.2.1", 8000) == b"again"
        running.cancel()
    assert one.ip in run(["iptables-save"])


async def test_a_look_at_unchanged_rules_runs_no_command(network: NodeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    await network.heal()  # reads the rules once after they were written
    monkeypatch.setattr("asyncio.create_subprocess_exec", None)
    await network.heal()
    monkeypatch.undo()
    run(["iptables", "-D", "FORWARD", "1"])
    await network.heal()
    assert "SAMPAN-FORWARD" in run(["iptables", "-S", "FORWARD"])


async def test_killed_half_way_nothing_is_lost(tmp_path: Path) -> None:
    """Attach in another process that is killed after a random while, again and again; then look for leaks."""
    program = """
import asyncio, sys
from pathlib import Path
from netplugin.network import NodeNetwork
from netplugin.protocol import HostPort, Sandbox

async def main():
    network = NodeNetwork(Path(sys.argv[1]))
    await network.setup("10.42.7.0/24")
    print("ready", flush=True)
    for number in range(100):
        box = Sandbox(f"{number:012x}" + "cd" * 26, int(sys.argv[2]), "default", "p", "u", [HostPort(8000, 80)])
        await network.attach(box)
        await network.detach(box.id)

asyncio.run(main())
"""
    with process_with_network() as pid:
        for step in range(6):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path), str(pid),
                                                           stdout=asyncio.subprocess.PIPE)
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.013 * step + 0.004)
            process.kill()
            await process.wait()
            network = NodeNetwork(tmp_path)
            await network.setup(CIDR)
            await network.reconcile([])
            assert "smp" not in ip("-br link")
            assert not list((tmp_path / "sampan").glob("10.*"))
            assert "DNAT --to" not in run(["iptables-save"])
            box = sandbox(1, pid)
            attached = await network.attach(box)  # whatever was half done inside is no hindrance
            assert reaches(None, attached.ip)
            await network.detach(box.id)
            await network.close()


async def test_teardown_leaves_nothing(network: NodeNetwork, pids: list[int]) -> None:
    await network.attach(sandbox(1, pids[0], HostPort(8000, 80)))
    await network.teardown()
    assert "sampan" not in ip("-br link")
    assert "smp" not in ip("-br link")
    assert "SAMPAN" not in run(["iptables-save"])


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("flavour", ["nft", "legacy"])
async def test_both_flavours_of_iptables(tmp_path: Path, pids: list[int], monkeypatch: pytest.MonkeyPatch,
                                         flavour: str) -> None:
    """Rules are written, found damaged, mended and taken away by the `iptables` that the host has, and only by that."""
    for command in ("iptables", "iptables-restore", "iptables-save"):
        (tmp_path / command).symlink_to(f"/usr/sbin/{command.replace('iptables', f'iptables-{flavour}')}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    network = NodeNetwork(tmp_path / "ipam", cluster_cidr="10.42.0.0/16")
    await network.setup(CIDR)
    await network.attach(sandbox(1, pids[0], HostPort(8000, 80)))
    run(["iptables", "-P", "FORWARD", "DROP"])
    assert reaches(pids[0], "192.0.2.2")
    good = run(["iptables", "-S"]) + run(["iptables", "-t", "nat", "-S"])
    for damage in (["-F"], ["-t", "nat", "-F"], ["-t", "nat", "-F", "SAMPAN-HOSTPORTS"], ["-D", "FORWARD", "1"],
                   ["-t", "nat", "-A", "SAMPAN-POSTROUTING", "-j", "RETURN"]):
        run(["iptables", *damage])
        assert run(["iptables", "-S"]) + run(["iptables", "-t", "nat", "-S"]) != good, damage
        await network.heal()
        assert run(["iptables", "-S"]) + run(["iptables", "-t", "nat", "-S"]) == good, damage
    assert reaches(pids[0], "192.0.2.2")
    other = "legacy" if flavour == "nft" else "nft"
    assert "SAMPAN" not in run([f"/usr/sbin/iptables-{other}-save"])
    await network.teardown()
    assert "SAMPAN" not in run(["iptables-save"])
    await network.close()


async def test_refusals_name_the_cause(network: NodeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match="process 999999999"):
        await network.attach(sandbox(1, 999999999))
    small = NodeNetwork(tmp_path / "small", bridge="small0")
    await small.setup("10.9.0.0/30")
    with process_with_network() as one, process_with_network() as two:
        await small.attach(sandbox(1, one))
        with pytest.raises(AddressesExhausted, match=r"10\.9\.0\.0/30"):
            await small.attach(sandbox(2, two))
    await small.close()
    monkeypatch.setenv("PATH", "/nonexistent")
    none = NodeNetwork(tmp_path / "none", bridge="none0")
    with pytest.raises(NetworkError, match="iptables is not installed"):
        await none.setup("10.9.1.0/24")
    await none.close()
