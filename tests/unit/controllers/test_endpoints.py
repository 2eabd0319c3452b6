"""EndpointSlices and Endpoints."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from master.controllers import endpoints_plan as plans
from master.controllers.endpoints import EndpointsController
from sampan.api import errors
from sampan.api.resources import ENDPOINTS, ENDPOINTSLICES, NODES, SERVICES
from sampan.api.times import Time
from sampan.api.types.core_v1 import ContainerPort, Node, Pod, PodIP, Service, ServicePort, ServiceSpec
from sampan.api.types.discovery_v1 import EndpointConditions, EndpointSlice
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.protocol import Patch
from sampan.loop.clock import FakeClock
from tests.support.controllers import LABELS, World, meta, pod

NOW = Time.of(FakeClock().now())


def service(name: str = "web", **spec: Any) -> Service:
    defaults: dict[str, Any] = {"selector": LABELS, "ip_families": ["IPv4"], "cluster_ip": "10.0.0.1",
                                "ports": [ServicePort(name="http", port=80, target_port=8080, protocol="TCP")]}
    return Service(metadata=meta(name, uid="s-1", labels={"team": "a"}, creation_timestamp=NOW),
                   spec=ServiceSpec(**defaults | spec))


def backend(name: str, ip: str, *, ready: bool = True, **more: Any) -> Pod:
    result = pod(name, node="n1", ready=ready, since=NOW, **more)
    return replace(result, status=replace(result.status, pod_ip=ip, pod_ips=[PodIP(ip=ip)]))


CONDITIONS = {
    "ready": (backend("a", "10.1.0.1"), False, (True, True, False)),
    "not ready": (backend("a", "10.1.0.1", ready=False), False, (False, False, False)),
    "published nevertheless": (backend("a", "10.1.0.1", ready=False), True, (True, False, False)),
    "terminating, still serving": (backend("a", "10.1.0.1", deletion_timestamp=NOW), False, (False, True, True)),
    "terminating": (backend("a", "10.1.0.1", ready=False, deletion_timestamp=NOW), False, (False, False, True)),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_conditions(case: str) -> None:
    of, publish, expected = CONDITIONS[case]
    found = plans.endpoint(service(publish_not_ready_addresses=publish), of, "10.1.0.1", None)
    assert found.conditions == EndpointConditions(**dict(zip(("ready", "serving", "terminating"), expected,
                                                             strict=True)))
    assert found.node_name == "n1"
    assert found.target_ref is not None
    assert (found.target_ref.kind, found.target_ref.name, found.target_ref.uid) == ("Pod", "a", "uid-a")


def test_named_ports_differ_by_pod() -> None:
    named = service(ports=[ServicePort(name="http", port=80, target_port="web", protocol="TCP")])

    def offering(name: str, ip: str, port: int) -> Pod:
        result = backend(name, ip)
        container = replace(result.spec.containers[0], ports=[ContainerPort(name="web", container_port=port)])
        return replace(result, spec=replace(result.spec, containers=[container]))

    pods = [offering("a", "10.1.0.1", 8080), offering("b", "10.1.0.2", 9090), backend("c", "10.1.0.3")]
    plan = plans.plan_slices(named, pods, [])
    assert sorted([port.port for port in item.ports] for item in plan.create) == [[], [8080], [9090]]
    subsets = plans.endpoints_object(named, pods).subsets
    assert sorted(subset.ports[0].port for subset in subsets) == [8080, 9090], "a pod without the port is left out"


def apply(slices: list[EndpointSlice], plan: plans.SlicePlan, names: Any) -> list[EndpointSlice]:
    changed = {item.metadata.name: item for item in plan.update}
    gone = {item.metadata.name for item in plan.delete}
    assert not set(changed) & gone
    kept = [changed.get(item.metadata.name, item) for item in slices if item.metadata.name not in gone]
    return kept + [replace(item, metadata=replace(item.metadata, name=f"web-{next(names)}")) for item in plan.create]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 260), max_size=260), min_size=1, max_size=5))
def test_slices_always_show_exactly_the_pods(rounds: list[set[int]]) -> None:
    slices: list[EndpointSlice] = []
    names = iter(range(1000))
    for chosen in rounds:
        pods = [backend(f"p{i}", f"10.1.{i // 250}.{i % 250 + 1}") for i in sorted(chosen)]
        plan = plans.plan_slices(service(), pods, slices)
        slices = apply(slices, plan, names)
        shown = [item.addresses[0] for one in slices for item in one.endpoints]
        assert sorted(shown) == sorted(str(one.status.pod_ip) for one in pods)
        assert all(len(one.endpoints) <= 100 for one in slices)
        assert len(slices) >= 1
        assert plans.plan_slices(service(), pods, slices).empty, "what is right is left alone"


def test_a_change_of_one_pod_touches_one_slice() -> None:
    pods = [backend(f"p{i}", f"10.1.0.{i + 1}") for i in range(200)]
    slices = apply([], plans.plan_slices(service(), pods, []), iter(range(9)))
    assert len(slices) == 2
    plan = plans.plan_slices(service(), [*pods[1:], backend("new", "10.1.1.1")], slices)
    assert (len(plan.create), len(plan.update), len(plan.delete)) == (0, 1, 0)


def test_labels_and_ownership() -> None:
    item = plans.plan_slices(service(cluster_ip="None"), [], []).create[0]
    assert item.metadata.labels == {
        "team": "a", "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    owner = item.metadata.owner_references[0]
    assert (owner.kind, owner.uid, owner.controller, owner.block_owner_deletion) == ("Service", "s-1", True, True)


def test_slices_of_an_earlier_service_of_that_name_are_not_used() -> None:
    """They go with their owner, and what they show would go with them."""
    before, now = service(), service()
    now = replace(now, metadata=replace(now.metadata, uid="s-2"))
    pods = [backend("a", "10.1.0.1")]
    slices = apply([], plans.plan_slices(before, pods, []), iter(range(9)))
    plan = plans.plan_slices(now, pods, slices)
    assert plan.delete == slices
    assert [item.metadata.owner_references[0].uid for item in plan.create] == ["s-2"]
    assert not plan.update


def test_the_time_of_an_earlier_change_does_not_stay() -> None:
    before, now = service(), service()
    now = replace(now, metadata=replace(now.metadata, labels={"team": "b"}))
    pods = [backend("a", "10.1.0.1")]
    slices = apply([], plans.plan_slices(before, pods, [], trigger_time="then"), iter(range(9)))
    assert [item.metadata.annotations for item in slices] == [{plans.TRIGGER_TIME: "then"}]
    assert [item.metadata.annotations for item in plans.plan_slices(now, pods, slices).update] == [{}]
    older = plans.endpoints_object(before, pods, "then")
    assert older.metadata.annotations == {plans.TRIGGER_TIME: "then"}
    assert plans.endpoints_object(now, pods, "", older).metadata.annotations == {}


def test_what_is_published_whatever_its_state_stays_until_it_has_ended() -> None:
    going = [backend("a", "10.1.0.1", deletion_timestamp=NOW)]
    assert plans.endpoints_object(service(), going).subsets == []
    subsets = plans.endpoints_object(service(publish_not_ready_addresses=True), going).subsets
    assert [entry.ip for subset in subsets for entry in subset.addresses] == ["10.1.0.1"]


def test_both_families() -> None:
    one = backend("a", "10.1.0.1")
    both = replace(one, status=replace(one.status, pod_ips=[PodIP(ip="10.1.0.1"), PodIP(ip="fd00::1")]))
    plan = plans.plan_slices(service(ip_families=["IPv4", "IPv6"]), [both], [])
    assert {item.address_type: item.endpoints[0].addresses for item in plan.create} == {
        "IPv4": ["10.1.0.1"], "IPv6": ["fd00::1"]}


def test_too_many_are_cut_and_said() -> None:
    pods = [backend(f"p{i:04}", f"10.1.{i // 250}.{i % 250 + 1}") for i in range(1001)]
    found = plans.endpoints_object(service(), pods)
    assert len(found.subsets[0].addresses) == 1000
    assert found.metadata.annotations["endpoints.kubernetes.io/over-capacity"] == "truncated"
    pods[0] = backend("p0000", "10.1.0.1", ready=False)
    found = plans.endpoints_object(service(), pods)
    assert (len(found.subsets[0].addresses), found.subsets[0].not_ready_addresses) == (1000, []), "ready ones first"


def test_close_endpoints_are_hinted_at() -> None:
    close = service(traffic_distribution="PreferClose")
    hints = plans.endpoint(close, backend("a", "10.1.0.1"), "10.1.0.1", "west").hints
    assert hints is not None
    assert [zone.name for zone in hints.for_zones] == ["west"]
    assert plans.endpoint(close, backend("a", "10.1.0.1"), "10.1.0.1", None).hints is None
    assert plans.endpoint(service(), backend("a", "10.1.0.1"), "10.1.0.1", "west").hints is None


async def test_slices_follow_the_nodes() -> None:
    world = World()
    async with world.running(EndpointsController):
        world.client.put(service())
        world.client.put(service("all", publish_not_ready_addresses=True))
        world.client.put(backend("a", "10.1.0.1"))

        async def shown() -> dict[str, list[str | None]]:
            await world.settle()
            return {item.metadata.labels[plans.SERVICE_LABEL]: [endpoint.zone for endpoint in item.endpoints]
                    for item in (await world.client.list(ENDPOINTSLICES)).items}

        assert await shown() == {"web": [], "all": [None]}, "a pod on a node that is not there is nowhere"
        for zone in ("west", "east"):
            world.client.put(Node(metadata=ObjectMeta(name="n1", labels={plans.ZONE: zone})))
            assert await shown() == {"web": [zone], "all": [zone]}
        world.client.remove(NODES, "n1")
        assert await shown() == {"web": [], "all": [None]}


async def test_the_story_of_a_service() -> None:
    world = World()
    async with world.running(EndpointsController):
        world.client.put(Node(metadata=ObjectMeta(name="n1")))
        world.client.put(service())
        await world.settle()
        slices = (await world.client.list(ENDPOINTSLICES)).items
        assert [item.endpoints for item in slices] == [[]]
        world.client.put(backend("a", "10.1.0.1"))
        world.client.put(backend("b", "10.1.0.2", ready=False))
        await world.settle()
        slices = (await world.client.list(ENDPOINTSLICES)).items
        assert {item.addresses[0]: item.conditions and item.conditions.ready for one in slices
                for item in one.endpoints} == {"10.1.0.1": True, "10.1.0.2": False}
        found = await world.client.get(ENDPOINTS, "web", "default")
        assert [entry.ip for entry in found.subsets[0].addresses] == ["10.1.0.1"]
        assert [entry.ip for entry in found.subsets[0].not_ready_addresses] == ["10.1.0.2"]
        assert "endpoints.kubernetes.io/last-change-trigger-time" in found.metadata.annotations
        revision = world.client.revision
        world.controllers[0].queue.add(("default", "web"))
        await world.settle()
        assert world.client.revision == revision, "at rest nothing is written"
        await world.client.patch(SERVICES, "web", Patch("merge", {"spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": 9000, "protocol": "TCP"}]}}), "default")
        await world.settle()
        slices = (await world.client.list(ENDPOINTSLICES)).items
        assert [port.port for item in slices for port in item.ports] == [9000]
        await world.client.delete(SERVICES, "web", "default")
        await world.settle()
        with pytest.raises(errors.ApiError):
            await world.client.get(ENDPOINTS, "web", "default")


async def test_a_slice_that_lost_its_label_is_replaced() -> None:
    world = World()
    async with world.running(EndpointsController):
        world.client.put(service())
        await world.settle()
        [item] = (await world.client.list(ENDPOINTSLICES)).items
        await world.client.patch(ENDPOINTSLICES, item.metadata.name, Patch("merge", {"metadata": {"labels": {
            plans.SERVICE_LABEL: None}}}), "default")
        await world.settle()
        assert len((await world.client.list(ENDPOINTSLICES, label_selector=f"{plans.SERVICE_LABEL}=web")).items) == 1


async def test_services_without_selector_are_left_alone() -> None:
    world = World()
    async with world.running(EndpointsController):
        world.client.put(service("manual", selector={}))
        world.client.put(service("outside", type="ExternalName", external_name="example.com"))
        world.client.put(plans.endpoints_object(service("manual", selector={}), []))
        await world.settle()
        assert (await world.client.list(ENDPOINTSLICES)).items == []
        assert [item.metadata.name for item in (await world.client.list(ENDPOINTS)).items] == ["manual"]


async def test_endpoints_that_wait_for_their_service_may_be_changed() -> None:
    world = World()
    async with world.running(EndpointsController):
        await world.settle()
        world.client.put(plans.endpoints_object(service("manual", selector={}), []))
        await world.settle()
        await world.client.patch(ENDPOINTS, "manual", Patch("merge", {"metadata": {"labels": {"a": "b"}}}), "default")
        await world.settle()
        assert (await world.client.get(ENDPOINTS, "manual", "default")).metadata.labels["a"] == "b"


async def test_a_service_that_goes_at_once_leaves_no_endpoints() -> None:
    world = World()
    async with world.running(EndpointsController):
        await world.settle()
        informer = world.informers.get(ENDPOINTS)
        apply, late = informer._apply, []
        informer._apply = late.append  # type: ignore[method-assign] # the news of the Endpoints come late
        world.client.put(service())
        await world.clock.settle(100)
        assert world.client.count("create", ENDPOINTS.plural) == 1
        world.client.remove(SERVICES, "web", "default")
        await world.clock.settle(100)
        informer._apply = apply  # type: ignore[method-assign]
        for event in late:
            apply(event)
        async with asyncio.timeout(60):
            while (await world.client.list(ENDPOINTS)).items:
                await asyncio.sleep(0.01)


def test_labels_of_a_plain_object() -> None:
    assert plans.endpoints_object(service(), []).metadata == ObjectMeta(name="web", namespace="default",
                                                                        labels={"team": "a"})


async def test_all_labels_and_the_namespace_count() -> None:
    world = World()
    async with world.running(EndpointsController):
        world.client.put(Node(metadata=ObjectMeta(name="n1")))
        world.client.put(service(selector={"tier": "front", "app": "web"}))

        def labelled(name: str, ip: str, labels: dict[str, str], namespace: str = "default") -> Pod:
            of = backend(name, ip)
            return replace(of, metadata=replace(of.metadata, labels=labels, namespace=namespace))

        both = {"app": "web", "tier": "front", "more": "x"}
        world.client.put(labelled("a", "10.1.0.1", both))
        world.client.put(labelled("b", "10.1.0.2", {"app": "web"}))
        world.client.put(labelled("c", "10.1.0.3", both, "other"))

        async def shown() -> list[str]:
            await world.settle()
            return sorted(address for item in (await world.client.list(ENDPOINTSLICES)).items
                          for one in item.endpoints for address in one.addresses)

        assert await shown() == ["10.1.0.1"]
        world.client.put(labelled("b", "10.1.0.2", both))
        assert await shown() == ["10.1.0.1", "10.1.0.2"]
        world.client.put(labelled("a", "10.1.0.1", {"app": "web"}))
        assert await shown() == ["10.1.0.2"]
        world.client.put(service(selector={"tier": "other"}))
        assert await shown() == []
