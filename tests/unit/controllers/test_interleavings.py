"""What somebody else does between a controller's look and its act, and what it hears of late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from master.controllers.account_tokens import NAME, TYPE, UID, AccountTokenController
from master.controllers.endpoints import EndpointsController
from master.controllers.endpoints_plan import SERVICE_LABEL
from master.controllers.load_balancer import LoadBalancerController
from master.controllers.namespace_content import NamespaceContentController
from master.controllers.node import NodeLifecycleController
from master.controllers.pods import is_ready
from master.controllers.role_aggregation import RoleAggregationController
from sampan.api import errors
from sampan.api.resources import (
    CLUSTERROLES,
    CONFIGMAPS,
    ENDPOINTS,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from sampan.api.types.core_v1 import (
    ConfigMap,
    Namespace,
    Node,
    NodeAddress,
    NodeCondition,
    NodeStatus,
    Secret,
    Service,
    ServiceAccount,
    ServiceSpec,
)
from sampan.api.types.discovery_v1 import Endpoint, EndpointSlice
from sampan.api.types.meta_v1 import LabelSelector, ObjectMeta
from sampan.api.types.rbac_v1 import AggregationRule, ClusterRole, PolicyRule
from sampan.client.fake import Call
from tests.support.controllers import World, meta, pod


def hold(world: World, resource: Resource[Any], monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The informer of a resource hears of nothing new until the event is set."""
    heard, watch = asyncio.Event(), world.client.watch

    async def held(wanted: Resource[Any], *place: Any, **options: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(watch(wanted, *place, **options)) as events:
            async for event in events:
                if wanted.key == resource.key:
                    await heard.wait()
                yield event

    monkeypatch.setattr(world.client, "watch", held)
    return heard


async def test_a_ca_that_somebody_else_published_first_is_put_right() -> None:
    """A backup that is restored brings its own cluster's."""
    world, restored = World(), list[Call]()

    def restore(call: Call) -> None:
        if (call.verb, call.plural) == ("create", CONFIGMAPS.plural) and not restored:
            restored.append(call)
            world.client.put(ConfigMap(metadata=meta("kube-root-ca.crt", namespace="work"), data={"ca.crt": "OLD"}))

    world.client.on_call = restore
    async with world.running(lambda deps: NamespaceContentController(deps, "PEM")):
        world.client.put(Namespace(metadata=ObjectMeta(name="work")))
        await world.settle()
        assert restored
        assert (await world.client.get(CONFIGMAPS, "kube-root-ca.crt", "work")).data == {"ca.crt": "PEM"}
        await world.client.get(SERVICEACCOUNTS, "default", "work")


async def test_a_role_that_loses_its_only_label_gives_no_more_rules() -> None:
    world, rule = World(), PolicyRule(verbs=["get"], resources=["pods"], api_groups=[""])
    world.client.put(ClusterRole(metadata=ObjectMeta(name="all"), aggregation_rule=AggregationRule(
        cluster_role_selectors=[LabelSelector(match_labels={"to": "all"})])))
    world.client.put(ClusterRole(metadata=ObjectMeta(name="part", labels={"to": "all"}), rules=[rule]))
    async with world.running(RoleAggregationController):
        await world.settle()
        assert (await world.client.get(CLUSTERROLES, "all")).rules == [rule]
        world.client.put(ClusterRole(metadata=ObjectMeta(name="part"), rules=[rule]))
        await world.settle()
        assert (await world.client.get(CLUSTERROLES, "all")).rules == []


async def test_a_secret_of_an_account_made_anew_outlives_late_news_of_the_account(
        monkeypatch: pytest.MonkeyPatch) -> None:
    class Maker:
        def legacy_token(self, namespace: str, account: str, uid: str, secret: str) -> str:
            return f"{namespace}/{account}/{uid}/{secret}"

    world = World()
    world.client.put(ServiceAccount(metadata=meta("bot", uid="first")))
    heard = hold(world, SERVICEACCOUNTS, monkeypatch)
    async with world.running(lambda deps: AccountTokenController(deps, Maker(), "PEM")):
        await world.settle()
        world.client.remove(SERVICEACCOUNTS, "bot", "default")
        world.client.put(ServiceAccount(metadata=meta("bot", uid="second")))
        world.client.put(Secret(metadata=meta("bot", annotations={NAME: "bot", UID: "second"}), type=TYPE))
        await world.settle()
        assert (await world.client.get(SECRETS, "bot", "default")).metadata.annotations[UID] == "second"
        world.client.put(Secret(metadata=meta("old", annotations={NAME: "bot", UID: "first"}), type=TYPE))
        heard.set()
        await world.settle()
        assert [item.metadata.name for item in (await world.client.list(SECRETS)).items] == ["bot"]


async def test_a_slice_that_somebody_takes_from_its_service_is_missed() -> None:
    world = World()
    world.client.put(Node(metadata=ObjectMeta(name="n1"), status=NodeStatus(
        addresses=[NodeAddress(type="InternalIP", address="192.0.2.1")],
        conditions=[NodeCondition(type="Ready", status="True")])))
    world.client.put(Service(metadata=meta("web"), spec=ServiceSpec(
        type="LoadBalancer", external_traffic_policy="Local")))

    def piece(service: str) -> EndpointSlice:
        return EndpointSlice(metadata=meta("web-1", labels={SERVICE_LABEL: service}), address_type="IPv4",
                             endpoints=[Endpoint(addresses=["10.244.0.5"], node_name="n1")])

    async def reached() -> int:
        await world.settle()
        status = (await world.client.get(SERVICES, "web", "default")).status
        return len(status.load_balancer.ingress) if status.load_balancer else 0

    async with world.running(LoadBalancerController):
        world.client.put(piece("web"))
        assert await reached() == 1
        world.client.put(piece("other"))
        assert await reached() == 0


async def test_endpoints_whose_making_was_never_confirmed_go_with_their_service(
        monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    heard, create = hold(world, ENDPOINTS, monkeypatch), world.client.create

    async def lost(resource: Resource[Any], *what: Any, **options: Any) -> Any:
        made = await create(resource, *what, **options)
        if resource.key == ENDPOINTS.key:
            world.client.remove(SERVICES, "web", "default")
            raise errors.ApiError(504, "Timeout", "the answer was lost")
        return made

    monkeypatch.setattr(world.client, "create", lost)
    async with world.running(EndpointsController):
        world.client.put(Service(metadata=meta("web"), spec=ServiceSpec(selector={"app": "web"})))
        await world.settle()
        assert world.client.count("create", "endpoints")
        heard.set()
        await world.settle()
        assert (await world.client.list(ENDPOINTS)).items == []


async def test_a_pod_that_became_ready_just_before_its_node_was_lost_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would come back for it: it would go on being an endpoint."""
    world = World()
    heard = hold(world, PODS, monkeypatch)
    world.client.put(Node(metadata=ObjectMeta(name="n1"), status=NodeStatus(
        conditions=[NodeCondition(type="Ready", status="True")])))
    started = world.client.put(pod("web", node="n1"))
    async with world.running(NodeLifecycleController):
        await world.settle()
        world.mark_ready(started)
        await world.clock.advance(60)
        world.controllers[0].queue.add("n1")  # its timer goes by the event loop's clock
        await world.settle()
        heard.set()
        await world.settle()
        assert not is_ready(await world.client.get(PODS, "web", "default"))
