"""LoadBalancer Services are reached at the nodes' addresses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from master.controllers import load_balancer_plan as plans
from master.controllers.endpoints_plan import SERVICE_LABEL
from master.controllers.load_balancer import LoadBalancerController
from sampan.api.resources import SERVICES
from sampan.api.types.core_v1 import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Node,
    NodeAddress,
    NodeCondition,
    NodeStatus,
    Service,
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
