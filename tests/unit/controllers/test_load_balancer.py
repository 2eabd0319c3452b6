"""LoadBalancer Services are reached at the nodes' addresses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from master.controllers import load_balancer_plan as plans
from master.controllers.endpoints_plan import SERVICE_LABEL
from master.controllers.load_balancer import LoadBalancerController
from sampan.api.resources import SERVICES
from sampan.api.times import Time
from sampan.api.types.core_v1 import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Node,
    NodeAddress,
    NodeCondition,
    NodeStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from sampan.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointSlice
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.protocol import Patch
from tests.support.controllers import World, meta


def node(name: str, address: str, *, ready: bool = True, labels: Mapping[str, str] = MappingProxyType({})) -> Node:
    return Node(metadata=ObjectMeta(name=name, labels=dict(labels)), status=NodeStatus(
        addresses=[NodeAddress(type="InternalIP", address=address), NodeAddress(type="Hostname", address=name)],
        conditions=[NodeCondition(type="Ready", status="True" if ready else "False")]))


def service(name: str = "web", **spec: Any) -> Service:
    return Service(metadata=meta(name), spec=ServiceSpec(**{"type": "LoadBalancer"} | spec))


def endpoints(*ready: tuple[str, bool]) -> EndpointSlice:
    return EndpointSlice(metadata=meta("web-1", labels={SERVICE_LABEL: "web"}), address_type="IPv4", endpoints=[
        Endpoint(addresses=["10.244.0.5"], node_name=name, conditions=EndpointConditions(ready=good))
        for name, good in ready])


NODES = [node("n10", "192.168.56.10"), node("n9", "192.168.56.9"), node("ill", "192.168.56.8", ready=False),
         node("out", "192.168.56.7", labels={plans.EXCLUDED: ""}), node("odd", "not an address"),
         node("six", "fd00::1")]


def addresses(of: Service, *slices: EndpointSlice) -> list[str | None]:
    return [item.ip for item in plans.ingress(of, NODES, slices)]


def test_addresses() -> None:
    assert addresses(service()) == ["192.168.56.9", "192.168.56.10"]
    assert addresses(service(ip_families=["IPv6", "IPv4"])) == ["192.168.56.9", "192.168.56.10", "fd00::1"]
    assert addresses(service(load_balancer_class="example.com/other")) == []
    assert addresses(service(type="NodePort")) == []


def test_local_traffic_goes_where_endpoints_are() -> None:
    local = service(external_traffic_policy="Local")
    assert addresses(local) == []
    assert addresses(local, endpoints(("n9", True), ("n10", False), ("ill", True))) == ["192.168.56.9"]


def at(name: str, second: int, *ports: tuple[int, str], **spec: Any) -> Service:
    of = service(name, ports=[ServicePort(port=port, protocol=protocol) for port, protocol in ports], **spec)
    return replace(of, metadata=replace(of.metadata, creation_timestamp=Time.parse(f"2026-01-01T00:00:{second:02}Z")))


def test_the_oldest_has_the_port() -> None:
    first, second = at("b", 1, (80, "TCP"), (53, "UDP")), at("a", 2, (443, "TCP"), (80, "TCP"))
    others = [first, second, at("udp", 0, (80, "UDP")), at("inner", 0, (80, "TCP"), type="NodePort"),
              at("cloud", 0, (80, "TCP"), load_balancer_class="example.com/other")]
    assert plans.taken(first, others) == ""
    assert plans.taken(second, others) == "port 80/TCP is used by service default/b"
    assert plans.taken(at("c", 1, (53, "UDP")), others) == "port 53/UDP is used by service default/b"
    assert plans.taken(at("c", 1, (53, "TCP")), others) == ""


async def test_a_port_that_is_free_again_is_given_to_the_next() -> None:
    world = World()
    async with world.running(LoadBalancerController):
        async def shown() -> dict[str, list[str | None]]:
            await world.settle()
            return {item.metadata.name: [entry.ip for entry in item.status.load_balancer.ingress]
                    if item.status.load_balancer else [] for item in (await world.client.list(SERVICES)).items}

        world.client.put(node("n1", "192.168.56.1"))
        world.client.put(at("old", 1, (80, "TCP")))
        world.client.put(at("new", 2, (80, "TCP")))
        assert await shown() == {"old": ["192.168.56.1"], "new": []}
        assert [message for _, reason, message in await world.told() if reason == "SyncLoadBalancerFailed"] == [
            "Error syncing load balancer: failed to ensure load balancer: port 80/TCP is used by service default/old"]
        world.client.remove(SERVICES, "old", "default")
        assert await shown() == {"new": ["192.168.56.1"]}


async def test_the_story_of_a_load_balancer() -> None:
    world = World()
    async with world.running(LoadBalancerController):
        async def shown(name: str = "web") -> list[str | None]:
            await world.settle()
            balancer = (await world.client.get(SERVICES, name, "default")).status.load_balancer
            return [item.ip for item in balancer.ingress] if balancer else []

        async def spec(change: dict[str, Any]) -> None:
            await world.client.patch(SERVICES, "web", Patch("merge", {"spec": change}), "default")

        others = LoadBalancerStatus(ingress=[LoadBalancerIngress(ip="1.2.3.4")])
        world.client.put(Service(metadata=meta("cloud"), status=ServiceStatus(load_balancer=others),
                                 spec=ServiceSpec(type="LoadBalancer", load_balancer_class="example.com/other")))
        world.client.put(service())
        assert await shown() == []
        world.client.put(node("n1", "192.168.56.1"))
        assert await shown() == ["192.168.56.1"]
        world.client.put(node("n2", "192.168.56.2"))
        assert await shown() == ["192.168.56.1", "192.168.56.2"]
        world.client.put(node("n1", "192.168.56.1", ready=False))
        assert await shown() == ["192.168.56.2"]
        await spec({"externalTrafficPolicy": "Local"})
        world.client.put(endpoints(("n2", False)))
        assert await shown() == []
        world.client.put(endpoints(("n2", True)))
        assert await shown() == ["192.168.56.2"]
        await spec({"type": "ClusterIP"})
        assert await shown() == []
        assert await shown("cloud") == ["1.2.3.4"]
        reasons = [reason for _, reason, _ in await world.told()]
        assert {"EnsuringLoadBalancer", "EnsuredLoadBalancer", "UpdatedLoadBalancer",
                "UnAvailableLoadBalancer"} == set(reasons)
