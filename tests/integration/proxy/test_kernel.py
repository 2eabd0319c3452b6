"""What the kernel has: as written, adopted after a restart, mended when others spoil it, and without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agent.proxy import observer as figures
from agent.proxy.chains import NodeFacts, wanted
from agent.proxy.plan import in_disorder
from agent.proxy.proxier import cleanup
from netplugin.host import HostTables
from netplugin.kernel.chains import chain_uses
from netplugin.tables import Edit, restore_input, uses
from sampan.api.types.discovery_v1 import EndpointPort
from tests.support.netns import run
from tests.support.proxy import NODE_IP, Node, Pod, ask, program
from tests.support.services import NODE, delete, endpoint, port, put, service, slice_of

pytestmark = pytest.mark.net

VIP = "10.96.0.1"


def everything() -> tuple[list[Any], list[Any]]:
    """A Service of each kind."""
    protocols = ("TCP", "UDP", "SCTP")
    ports = [port(name.lower(), 80, name, 30080) for name in protocols]
    ends = [EndpointPort(name=name.lower(), port=8080, protocol=name) for name in protocols]
    outer = {"type": "LoadBalancer", "external_ips": ["198.51.100.7"], "ingress": [NODE_IP],
             "load_balancer_source_ranges": ["192.0.2.0/24", "203.0.113.8/32", "0.0.0.0/0"]}
    local = {"external_traffic_policy": "Local", "health_check_node_port": 32000}
    members = [endpoint("10.244.1.5", node=NODE), *[f"10.244.2.{number}" for number in range(1, 8)]]
    return (
        [service("plain", "10.96.1.1", *ports), service("sticky", "10.96.1.2", *ports, affinity=60, **outer),
         service("local", "10.96.1.3", *ports, **outer, **local, internal_traffic_policy="Local"),
         service("none", "10.96.1.4", *ports, **outer), service("far", "10.96.1.5", *ports, **outer, **local,
                                                                internal_traffic_policy="Local")],
        [slice_of(name, *members, ports=ends) for name in ("plain", "sticky", "local")]
        + [slice_of("far", "10.244.2.1", ports=ends)])


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
def test_rules_are_printed_as_they_are_written(flavour: str) -> None:
    """What makes a restart cheap: rules that are right are recognized."""
    services, slices = everything()
    want = wanted(services, {("default", item.metadata.labels["kubernetes.io/service-name"]): [item]
                             for item in slices}, NodeFacts(NODE, NODE_IP, "10.244.0.0/16"))
    text = restore_input(Edit(write=want))
    for command in ([f"iptables-{flavour}-restore", "--noflush", "--test"],
                    [f"iptables-{flavour}-restore", "--noflush"]):
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    saved = run([f"iptables-{flavour}-save"])
    printed = sorted(line for line in saved.splitlines() if line.startswith("-A KUBE"))
    assert printed == sorted(f"-A {chain.name} {rule}" for chain, rules in want.items() for rule in rules)
    if flavour == "nft":
        counted = uses(want)
        told = chain_uses(["nat", "filter"])
        assert told is not None
        assert {chain: count for chain, count in told.items() if chain.name.startswith("KUBE")} == {
            chain: counted[chain] for chain in want}


async def test_a_restarted_proxy_changes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    services, slices = everything()
    put(node.view, *services, *slices)
    await node.synced()
    await node.stop()
    before = run(["iptables-save"])
    node.new()
    edits: list[Edit] = []
    apply = HostTables.apply

    async def spied(tables: HostTables, edit: Edit) -> None:
        edits.append(edit)
        await apply(tables, edit)

    monkeypatch.setattr(HostTables, "apply", spied)
    node.start()
    await node.synced()
    assert edits == []
    assert lines(run(["iptables-save"])) == lines(before)
    assert not await node.proxier._disturbed()
    await node.stop()
    delete(node.view, services[0], slices[0])
    put(node.view, slice_of("sticky", "10.244.2.1", ports=slices[1].ports))
    node.new()
    node.start()
    await node.synced()
    assert len(edits) == 1
    assert "default/plain" not in run(["iptables-save"])


def lines(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-")]


WIPES: dict[str, Callable[[], object]] = {
    "everything": lambda: [
        run(["iptables", "-t", table, flag]) for table in ("nat", "filter") for flag in ("-F", "-X")],
    "one rule": lambda: run(["iptables", "-t", "nat", "-D", "KUBE-SERVICES", "1"]),
    "one jump": lambda: run(["iptables", "-t", "nat", "-D", "PREROUTING", "1"]),
    "a chain's rules": lambda: run(["iptables", "-t", "nat", "-F", "KUBE-POSTROUTING"]),
    "the order": lambda: [run(["iptables", *words]) for words in (
        ["-N", "DOCKER-USER"], ["-A", "DOCKER-USER", "-j", "ACCEPT"], ["-I", "FORWARD", "-j", "DOCKER-USER"])],
    "a rule too many": lambda: run(["iptables", "-t", "nat", "-A", "KUBE-MARK-MASQ", "-j", "RETURN"]),
}


@pytest.mark.parametrize("wipe", WIPES)
async def test_what_others_spoil_is_mended(node: Node, pods: list[Pod], wipe: str) -> None:
    """As a reload of firewalld does, or a restart of Docker. The proxy looks every `LOOK` seconds."""
    put(node.view, service("web", VIP), slice_of("web", pods[0].ip), service("none", "10.96.0.2"))
    await node.synced()
    before = {line for line in lines(run(["iptables-save"])) if "KUBE" in line}
    node.proxier.synced.clear()
    WIPES[wipe]()
    async with asyncio.timeout(60):  # the machine may be slow
        await node.proxier.synced.wait()
    after = [line for line in lines(run(["iptables-save"])) if "KUBE" in line]
    assert set(after) == before
    assert len(after) == len(before)
    assert node.figures.value(figures.HEALED) == 1
    await node.network.heal()  # which puts its jumps in front of ours, if they were gone
    async with asyncio.timeout(60):
        while in_disorder([rule.partition("FORWARD ")[2] for rule in run(["iptables", "-S", "FORWARD"]).splitlines()]):
            await asyncio.sleep(0.05)
    assert (await ask(pods[1].pid, VIP))[0][0] == pods[0].ip
    assert (await ask(pods[1].pid, "10.96.0.2"))[0][0] == "refused"


async def test_what_others_do_elsewhere_costs_no_reading(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    put(node.view, service("web", VIP), slice_of("web", "10.244.1.9"))
    await node.synced()
    assert not await node.tables.touched()
    run(["iptables", "-t", "nat", "-N", "DOCKER"])
    assert await node.tables.touched()
    monkeypatch.setattr(HostTables, "apply", None)
    assert not await node.proxier._disturbed()
    assert not await node.tables.touched()


async def test_cleanup_leaves_nothing(node: Node) -> None:
    before = lines(run(["iptables-save"]))
    services, slices = everything()
    put(node.view, *services, *slices)
    await node.synced()
    await node.stop()
    await cleanup(node.tables)
    assert "KUBE" not in run(["iptables-save"])
    assert all("KUBE" in line for line in set(before) - set(lines(run(["iptables-save"]))))


_LOOP = """
import json, socket, sys, time
address, port, fresh = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "fresh"
def sent_again():
    with open("/proc/thread-self/net/snmp") as file:
        names, values = [line.split() for line in file if line.startswith("Tcp:")]
    return int(values[names.index("RetransSegs")])
sock, answers, problems, before = None, 0, [], sent_again()
print("ready", flush=True)
sys.stdin.close()
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    try:
        if sock is None:
            sock = socket.create_connection((address, port), timeout=20)
        sock.sendall(b"?")
        assert sock.recv(1000)
        answers += 1
    except (OSError, AssertionError) as error:
        problems.append(repr(error))
        sock = None
    if fresh and sock is not None:
        sock.close()
        sock = None
    time.sleep(0.002)
print(json.dumps([answers, problems, sent_again() - before]))
"""
"""Asks again and again, each time with a new connection ("fresh") or always with the same."""


@contextlib.asynccontextmanager
async def asking(seconds: float, *clients: tuple[int | None, str, int, str]) -> AsyncIterator[None]:
    """Loops of requests meanwhile, of which none may fail, and no packet may be sent again because it was lost."""
    loops = [await program(pid, _LOOP, address, str(number), kind, str(seconds), stdout=asyncio.subprocess.PIPE)
             for pid, address, number, kind in clients]
    for process in loops:
        assert process.stdout is not None
        await process.stdout.readline()
    yield
    for process in loops:
        output, _ = await process.communicate()
        answers, problems, sent_again = json.loads(output)
        assert problems == []
        assert sent_again == 0
        assert answers > 20


async def test_restarts_and_changes_lose_no_request(node: Node, pods: list[Pod], neighbour: int) -> None:
    """While the proxy is killed and started again, and other Services come, change and go all the time."""
    put(node.view, service("web", VIP, port("http", 80, node_port=30080), type="NodePort"),
        slice_of("web", pods[0].ip, pods[1].ip))
    await node.synced()
    async with asking(8, (pods[2].pid, VIP, 80, "fresh"), (pods[2].pid, VIP, 80, "same"),
                      (neighbour, NODE_IP, 30080, "fresh"), (None, VIP, 80, "fresh")):
        for step in range(6):
            await node.stop()
            node.new()
            node.start()
            put(node.view, *[service(f"s{step}-{number}", f"10.96.{step + 2}.{number}") for number in range(40)],
                *[slice_of(f"s{step}-{number}", f"10.244.9.{number}") for number in range(20)])
            await node.synced()
            put(node.view, slice_of("web", *[pod.ip for pod in pods[:2 + step % 2]]))
            await node.synced()
            delete(node.view, *[service(f"s{step}-{number}", "") for number in range(40)])
            await node.synced()


async def test_health_of_services_and_of_the_proxy(node: Node) -> None:
    def told(number: int, path: str = "/") -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{number}{path}", timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    lb = service("lb", VIP, type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=32100)
    put(node.view, lb, slice_of("lb", endpoint("10.244.1.5", node=NODE), "10.244.2.1"))
    await node.synced()
    name = {"namespace": "default", "name": "lb"}
    async with asyncio.timeout(60):
        while 32100 not in node.health.listening():
            await asyncio.sleep(0.01)
    healthy = {"service": name, "localEndpoints": 1, "serviceProxyHealthy": True}
    assert await asyncio.to_thread(told, 32100) == (200, healthy)
    put(node.view, slice_of("lb", "10.244.2.1"))
    await node.synced()
    assert await asyncio.to_thread(told, 32100) == (503, {**healthy, "localEndpoints": 0})
    own = node.health.listening()[0]
    for path in ("/healthz", "/livez"):
        status, body = await asyncio.to_thread(told, own, path)
        assert status == 200
        assert body["lastUpdated"] <= body["currentTime"]
    delete(node.view, lb)
    await node.synced()
    async with asyncio.timeout(60):
        while 32100 in node.health.listening():
            await asyncio.sleep(0.01)
