"""Every feature of Services with real connections through real rules."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from agent.proxy import observer as figures
from netplugin import netns
from sampan.api.types.discovery_v1 import EndpointPort
from tests.support.netns import ip, run
from tests.support.proxy import (
    NEIGHBOUR_IP,
    NODE_IP,
    Node,
    Pod,
    ask,
    has_sctp,
    serving,
)
from tests.support.services import NODE, delete, endpoint, port, put, service, slice_of

pytestmark = pytest.mark.net

VIP = "10.96.0.1"


async def told(node: Node, *objects: Any) -> None:
    """The master says so, and the rules follow."""
    put(node.view, *objects)
    await node.synced()


async def test_a_cluster_ip_from_everywhere(node: Node, pods: list[Pod], neighbour: int) -> None:
    await told(node, service("web", VIP), slice_of("web", pods[0].ip))
    assert await ask(pods[1].pid, VIP) == [(pods[0].ip, pods[1].ip)]  # pods see pods' own addresses
    assert await ask(None, VIP) == [(pods[0].ip, "10.244.1.1")]
    assert await ask(neighbour, VIP) == [(pods[0].ip, "10.244.1.1")]  # the answer must come back through the node
    assert await ask(pods[0].pid, VIP) == [(pods[0].ip, "10.244.1.1")]  # itself


async def test_connections_are_spread_evenly(node: Node, pods: list[Pod]) -> None:
    await told(node, service("web", VIP), slice_of("web", *[pod.ip for pod in pods]))
    seen = Counter(name for name, _ in await ask(pods[0].pid, VIP, count=600))
    assert set(seen) == {pod.ip for pod in pods}
    assert all(130 <= count <= 270 for count in seen.values()), seen  # 200 ± 6 standard deviations


async def test_node_ports(node: Node, pods: list[Pod], neighbour: int) -> None:
    await told(node, service("web", VIP, port("http", 80, node_port=30080), type="NodePort"),
               slice_of("web", pods[0].ip))
    assert await ask(neighbour, NODE_IP, 30080) == [(pods[0].ip, "10.244.1.1")]
    assert await ask(pods[1].pid, NODE_IP, 30080) == [(pods[0].ip, "10.244.1.1")]
    assert await ask(None, NODE_IP, 30080) == [(pods[0].ip, "10.244.1.1")]
    assert await ask(None, "127.0.0.1", 30080) == [(pods[0].ip, "10.244.1.1")]
    assert await ask(None, "10.244.1.1", 30080) == [(pods[0].ip, "10.244.1.1")]
    assert (await ask(neighbour, "127.0.0.1", 30080))[0][0] == "refused"


async def test_udp(node: Node, pods: list[Pod], neighbour: int) -> None:
    ports = [EndpointPort(name="dns", port=8080, protocol="UDP")]
    await told(node, service("dns", VIP, port("dns", 53, "UDP", 30053), type="NodePort"),
               slice_of("dns", pods[0].ip, ports=ports))
    assert await ask(pods[1].pid, VIP, 53, protocol="udp") == [(pods[0].ip, pods[1].ip)]
    assert await ask(None, VIP, 53, protocol="udp") == [(pods[0].ip, "10.244.1.1")]
    assert await ask(neighbour, NODE_IP, 30053, protocol="udp") == [(pods[0].ip, "10.244.1.1")]
    assert await ask(pods[0].pid, VIP, 53, protocol="udp") == [(pods[0].ip, "10.244.1.1")]


async def test_sctp(node: Node, pods: list[Pod]) -> None:
    if not has_sctp():
        pytest.skip("the kernel has no SCTP")
    ports = [EndpointPort(name="s", port=8080, protocol="SCTP")]
    await told(node, service("s", VIP, port("s", 9999, "SCTP")), slice_of("s", pods[0].ip, ports=ports))
    assert await ask(pods[1].pid, VIP, 9999, protocol="sctp") == [(pods[0].ip, pods[1].ip)]


async def test_several_ports_and_protocols_of_one_service(node: Node, pods: list[Pod]) -> None:
    ports = [EndpointPort(name="tcp", port=8080, protocol="TCP"), EndpointPort(name="udp", port=8080, protocol="UDP"),
             EndpointPort(name="none", port=8081, protocol="TCP")]
    await told(node, service("web", VIP, port("tcp", 53), port("udp", 53, "UDP"), port("none", 81)),
               slice_of("web", pods[0].ip, ports=ports))
    assert (await ask(pods[1].pid, VIP, 53))[0][0] == pods[0].ip
    assert (await ask(pods[1].pid, VIP, 53, protocol="udp"))[0][0] == pods[0].ip
    assert (await ask(pods[1].pid, VIP, 81))[0][0] == "refused"


async def test_without_endpoints_clients_hear_it_at_once(node: Node, pods: list[Pod], neighbour: int) -> None:
    await told(node, service("web", VIP, port("http", 80, node_port=30080), type="NodePort",
                             external_ips=["198.51.100.7"]))
    for client, address, number in ((pods[0].pid, VIP, 80), (None, VIP, 80), (neighbour, VIP, 80),
                                    (neighbour, NODE_IP, 30080), (None, NODE_IP, 30080),
                                    (neighbour, "198.51.100.7", 80), (pods[0].pid, "198.51.100.7", 80)):
        assert await ask(client, address, number) == [("refused", "")], (client, address)
    await told(node, slice_of("web", pods[1].ip))
    assert (await ask(pods[0].pid, VIP))[0][0] == pods[1].ip
    await told(node, slice_of("web"))
    assert await ask(pods[0].pid, VIP) == [("refused", "")]
    delete(node.view, service("web", VIP))
    await node.synced()
    assert "default/web" not in run(["iptables-save"])


async def test_session_affinity(node: Node, pods: list[Pod], neighbour: int) -> None:
    await told(node, service("web", VIP, affinity=3600), slice_of("web", *[pod.ip for pod in pods]))
    first = await ask(pods[0].pid, VIP, count=20)
    assert len({name for name, _ in first}) == 1
    assert len({name for name, _ in await ask(neighbour, VIP, count=20)}) == 1
    # An unrelated change, and a new proxy, do not end it.
    await told(node, service("other", "10.96.0.2"), slice_of("other", pods[0].ip))
    assert {name for name, _ in await ask(pods[0].pid, VIP, count=5)} == {first[0][0]}
    # After the timeout, and not before a second has passed, the choice is free.
    await told(node, service("web", VIP, affinity=1))
    seen = {first[0][0]}
    async with asyncio.timeout(120):
        while len(seen) == 1:
            await asyncio.sleep(1.5)
            seen |= {name for name, _ in await ask(pods[0].pid, VIP)}


async def test_external_policy_local_keeps_the_client_s_address(node: Node, pods: list[Pod], neighbour: int) -> None:
    made = service("web", VIP, port("http", 80, node_port=30080), type="NodePort", external_traffic_policy="Local",
                   external_ips=["198.51.100.7"])
    ip("route add 10.244.2.0/24 dev up0")
    elsewhere = endpoint(NEIGHBOUR_IP, node="node-2")
    async with serving(neighbour, "elsewhere"):
        await told(node, made, slice_of("web", endpoint(pods[0].ip, node=NODE), elsewhere))
        for address, number in ((NODE_IP, 30080), ("198.51.100.7", 80)):
            assert set(await ask(neighbour, address, number, count=10)) == {(pods[0].ip, NEIGHBOUR_IP)}
        # From here it may go anywhere, as it would by way of a load balancer.
        assert {name for name, _ in await ask(pods[1].pid, NODE_IP, 30080, count=40)} == {pods[0].ip, "elsewhere"}
        assert {name for name, _ in await ask(None, NODE_IP, 30080, count=40)} == {pods[0].ip, "elsewhere"}
        # Without one here, what comes from outside is dropped, for a load balancer to try another node.
        await told(node, slice_of("web", elsewhere))
        assert await ask(neighbour, NODE_IP, 30080) == [("timeout", "")]
        assert await ask(pods[1].pid, VIP) == [("elsewhere", NODE_IP)]  # it is outside of the cluster


async def test_internal_policy_local(node: Node, pods: list[Pod], neighbour: int) -> None:
    made = service("web", VIP, internal_traffic_policy="Local")
    elsewhere = endpoint(NEIGHBOUR_IP, node="node-2")
    async with serving(neighbour, "elsewhere"):
        await told(node, made, slice_of("web", endpoint(pods[0].ip, node=NODE), elsewhere))
        assert {name for name, _ in await ask(pods[1].pid, VIP, count=20)} == {pods[0].ip}
        await told(node, slice_of("web", elsewhere))
        assert await ask(pods[1].pid, VIP) == [("timeout", "")]


async def test_the_last_endpoints_serve_while_they_end(node: Node, pods: list[Pod]) -> None:
    ending = [endpoint(pod.ip, ready=False, serving=True, terminating=True) for pod in pods[:2]]
    await told(node, service("web", VIP), slice_of("web", *ending, pods[2].ip))
    assert {name for name, _ in await ask(pods[0].pid, VIP, count=20)} == {pods[2].ip}
    await told(node, slice_of("web", *ending))
    assert {name for name, _ in await ask(pods[0].pid, VIP, count=30)} == {pods[0].ip, pods[1].ip}


async def test_load_balancers_addresses_and_source_ranges(node: Node, pods: list[Pod], neighbour: int) -> None:
    """The address is the node's, as it is without an outer load balancer."""
    made = service("web", VIP, port("http", 8000), type="LoadBalancer", ingress=[NODE_IP, "198.51.100.9"])
    await told(node, made, slice_of("web", pods[0].ip))
    for client in (neighbour, pods[1].pid, None):
        for address in (NODE_IP, "198.51.100.9"):
            assert (await ask(client, address, 8000))[0][0] == pods[0].ip
    closed = service("web", VIP, port("http", 8000), type="LoadBalancer", ingress=[NODE_IP, "198.51.100.9"],
                     load_balancer_source_ranges=["10.244.0.0/16"])
    await told(node, closed)
    assert await ask(neighbour, "198.51.100.9", 8000) == [("timeout", "")]
    assert await ask(neighbour, NODE_IP, 8000) == [("timeout", "")]
    assert (await ask(pods[1].pid, "198.51.100.9", 8000))[0][0] == pods[0].ip
    assert (await ask(pods[1].pid, VIP, 8000))[0][0] == pods[0].ip


async def test_changes_of_type_in_place(node: Node, pods: list[Pod], neighbour: int) -> None:
    await told(node, service("web", VIP, port("http", 80, node_port=30080), type="NodePort"),
               slice_of("web", pods[0].ip))
    assert (await ask(neighbour, NODE_IP, 30080))[0][0] == pods[0].ip
    await told(node, service("web", VIP, type="ClusterIP"))
    assert (await ask(neighbour, NODE_IP, 30080))[0][0] == "refused"
    assert (await ask(pods[1].pid, VIP))[0][0] == pods[0].ip
    await told(node, service("web", type="ExternalName", external_name="example.com", ip=""))
    assert "default/web" not in run(["iptables-save"])


@pytest.mark.parametrize("address", ["cluster", "node port"])
async def test_udp_clients_that_keep_their_port_find_the_next_endpoint(node: Node, pods: list[Pod], neighbour: int,
                                                                       address: str) -> None:
    """As resolvers and statsd clients do. N → N', N → 0 → N, and from no rule at all."""
    ports = [EndpointPort(name="dns", port=8080, protocol="UDP")]
    made = service("dns", VIP, port("dns", 53, "UDP", 30053), type="NodePort")
    target = (pods[2].pid, VIP, 53) if address == "cluster" else (neighbour, NODE_IP, 30053)

    async def answer() -> str:
        return (await ask(*target, protocol="udp", source_port=4444))[0][0]

    assert await answer() != pods[0].ip  # the kernel remembers that this was led nowhere
    await told(node, made, slice_of("dns", pods[0].ip, ports=ports))
    assert await answer() == pods[0].ip
    await told(node, slice_of("dns", pods[1].ip, ports=ports))
    assert await answer() == pods[1].ip
    await told(node, slice_of("dns", ports=ports))
    assert await answer() == "refused"
    await told(node, slice_of("dns", pods[0].ip, ports=ports))
    assert await answer() == pods[0].ip
    assert node.figures.value(figures.FORGOTTEN) >= 3


async def test_tcp_connections_outlive_changes_elsewhere_and_of_their_own_service(node: Node, pods: list[Pod]) -> None:
    await told(node, service("web", VIP), slice_of("web", pods[0].ip))
    sock = await asyncio.to_thread(netns.open_socket, pods[2].pid)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await loop.sock_connect(sock, (VIP, 80))

        async def still_there() -> None:
            await loop.sock_sendall(sock, b"?")
            assert pods[0].ip.encode() in await loop.sock_recv(sock, 1000)

        await still_there()
        await told(node, service("other", "10.96.0.2"), slice_of("other", pods[0].ip))
        await still_there()
        await told(node, slice_of("web", pods[1].ip))  # it has left, but what runs may end in peace
        await still_there()
        await node.stop()
        node.new()
        node.start()
        await node.synced()
        await still_there()
        sock.close()
