"""Nodes: silence, taints, address ranges; and the pods that have to go because of them."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from master.controllers import node_plan as plans
from master.controllers.node import NodeLifecycleController, NodeRangeController
from master.controllers.pod_cleanup import PodGarbageCollector, TaintEvictionController
from master.controllers.pods import find, is_ready
from sampan.api.resources import LEASES, NODES, PODS
from sampan.api.times import MicroTime, Time
from sampan.api.types.coordination_v1 import Lease, LeaseSpec
from sampan.api.types.core_v1 import Node, NodeCondition, NodeSpec, NodeStatus, Taint, Toleration
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.protocol import Patch
from sampan.loop.clock import FakeClock
from tests.support.controllers import World, pod

NOW = FakeClock().now()


def node(name: str = "n1", ready: str = "True", taints: tuple[Taint, ...] = (), **spec: Any) -> Node:
    kinds = {"Ready": ready, "MemoryPressure": "False"} if ready else {}
    conditions = [NodeCondition(type=kind, status=value, last_heartbeat_time=Time.of(NOW)) for kind, value in
                  kinds.items()]
    return Node(metadata=ObjectMeta(name=name, uid=f"uid-{name}"), spec=NodeSpec(taints=list(taints), **spec),
                status=NodeStatus(conditions=conditions))


def taint(key: str, effect: str = "NoSchedule", **more: Any) -> Taint:
    return Taint(key=key, effect=effect, **more)


TAINTS: list[tuple[str, Node, set[tuple[str, str]]]] = [
    ("healthy", node(taints=(taint(plans.NOT_READY), taint("mine"))), {("mine", "NoSchedule")}),
    ("not ready", node(ready="False"), {(plans.NOT_READY, "NoSchedule"), (plans.NOT_READY, "NoExecute")}),
    ("unknown", node(ready="Unknown", taints=(taint(plans.NOT_READY, "NoExecute"),)),
     {(plans.UNREACHABLE, "NoSchedule"), (plans.UNREACHABLE, "NoExecute")}),
    ("never reported", node(ready=""), {(plans.NOT_READY, "NoSchedule")}),
    ("cordoned", node(unschedulable=True), {(plans.UNSCHEDULABLE, "NoSchedule")}),
    ("under pressure", replace(node(), status=NodeStatus(conditions=[
        NodeCondition(type="Ready", status="True"), NodeCondition(type="DiskPressure", status="True")])),
     {("node.kubernetes.io/disk-pressure", "NoSchedule")}),
]


@pytest.mark.parametrize(("of", "expected"), [item[1:] for item in TAINTS], ids=[item[0] for item in TAINTS])
def test_taints_follow_the_state(of: Node, expected: set[tuple[str, str]]) -> None:
    taints = plans.wanted_taints(of, NOW)
    assert {(item.key, item.effect) for item in taints} == expected
    settled = replace(of, spec=replace(of.spec, taints=taints))
    assert plans.wanted_taints(settled, NOW + timedelta(hours=1)) == taints, "what is right stays as it is"


def test_eviction_times() -> None:
    def due(*tolerations: Toleration, taints: tuple[Taint, ...]) -> Any:
        of = pod("p", node="n1")
        of = replace(of, spec=replace(of.spec, tolerations=list(tolerations)))
        return plans.eviction(of, taints, NOW).at

    lost = taint(plans.UNREACHABLE, "NoExecute", time_added=Time.of(NOW - timedelta(seconds=100)))
    patient = Toleration(key=plans.UNREACHABLE, operator="Exists", effect="NoExecute", toleration_seconds=300)
    forever = Toleration(operator="Exists")
    assert due(taints=(taint("x"),)) is None
    assert due(taints=(lost,)) == NOW
    assert due(patient, taints=(lost,)) == NOW + timedelta(seconds=200)
    assert due(forever, taints=(lost,)) is None
    assert due(patient, taints=(lost, taint("other", "NoExecute"))) == NOW
    assert due(replace(patient, toleration_seconds=10), taints=(lost,)) == NOW - timedelta(seconds=90)


@given(st.integers(0, 20), st.sets(st.integers(0, 15)))
def test_ranges_are_never_given_twice(count: int, before: set[int]) -> None:
    cluster = ip_network("10.244.0.0/20")
    taken = {f"old-{i}": f"10.244.{i}.0/24" for i in before}
    for number in range(count):
        chosen = plans.allocate(cluster, 24, taken)
        if chosen is None:
            assert len(taken) == 16
            return
        assert chosen not in taken.values()
        taken[f"n{number}"] = chosen
    assert len(set(taken.values())) == len(taken)


async def test_every_node_gets_a_range() -> None:
    world = World()
    world.client.put(node("old", pod_cidr="10.244.0.0/24"))
    async with world.running(lambda deps: NodeRangeController(deps, "10.244.0.0/22")):
        for name in ("n1", "n2", "n3", "n4"):
            world.client.put(node(name))
        await world.settle()
        nodes = {item.metadata.name: item.spec for item in (await world.client.list(NODES)).items}
        given = [spec.pod_cidr for spec in nodes.values()]
        assert sorted(filter(None, given)) == [f"10.244.{i}.0/24" for i in range(4)]
        assert nodes["n1"].pod_cidrs == [nodes["n1"].pod_cidr]
        assert given.count(None) == 1
        assert "CIDRNotAvailable" in [reason for _, reason, _ in await world.told()]
        world.client.remove(NODES, "old")
        await world.settle()
        assert all(item.spec.pod_cidr for item in (await world.client.list(NODES)).items)


def beat(world: World, name: str = "n1") -> None:
    world.client.put(Lease(metadata=ObjectMeta(name=name, namespace="kube-node-lease"), spec=LeaseSpec(
        holder_identity=name, renew_time=MicroTime.of(world.clock.now()))))


async def look(world: World, seconds: float) -> None:
    """Let time pass; timers of the queue follow the event loop's clock, so the look is brought about by hand."""
    await world.clock.advance(seconds)
    world.controllers[0].queue.add("n1")
    await world.clock.settle(100)


async def test_a_silent_node_is_lost_and_found() -> None:
    world = World()
    world.client.put(node())
    world.client.put(replace(pod("p", node="n1", ready=True)))
    async with world.running(NodeLifecycleController):
        beat(world)
        await look(world, 30)
        beat(world)
        await look(world, 35)
        found = await world.client.get(NODES, "n1")
        assert find(found.status.conditions, "Ready").status == "True"  # type: ignore[union-attr]
        await look(world, 10)
        found = await world.client.get(NODES, "n1")
        ready = find(found.status.conditions, "Ready")
        assert ready is not None
        assert (ready.status, ready.reason, ready.message) == (
            "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
        assert find(found.status.conditions, "DiskPressure").reason == "NodeStatusNeverUpdated"  # type: ignore[union-attr]
        await look(world, 1)
        found = await world.client.get(NODES, "n1")
        assert {(item.key, item.effect) for item in found.spec.taints} == {
            (plans.UNREACHABLE, "NoSchedule"), (plans.UNREACHABLE, "NoExecute")}
        lost = await world.client.get(PODS, "p", "default")
        assert not is_ready(lost)
        world.mark_ready(lost)  # whoever says otherwise afterwards is not overruled again and again
        await look(world, 50)
        assert is_ready(await world.client.get(PODS, "p", "default"))
        told = await world.told()
        assert ("Node", "NodeNotReady", "Node n1 status is now: NodeNotReady") in told
        assert ("Node", "RegisteredNode", "Node n1 event: Registered Node n1 in Controller") in told
        conditions = [replace(item, status="True" if item.type == "Ready" else "False",
                              last_heartbeat_time=Time.of(world.clock.now())) for item in found.status.conditions]
        world.client.put(replace(found, status=NodeStatus(conditions=conditions)))  # the node is back
        await world.clock.settle(100)
        found = await world.client.get(NODES, "n1")
        assert found.spec.taints == []
        assert world.client.count("list", LEASES.plural) == 1


async def test_heartbeats_cost_no_requests() -> None:
    world = World()
    world.client.put(node())
    async with world.running(NodeLifecycleController):
        await world.settle()
        calls, reconciles = len(world.client.calls), world.controllers[0].counters.reconciles
        for _ in range(20):
            await world.clock.advance(10)
            beat(world)
        await world.clock.settle(100)
        assert len(world.client.calls) == calls
        assert world.controllers[0].counters.reconciles == reconciles


async def test_pods_of_a_node_that_is_gone_are_removed_after_a_while() -> None:
    world = World()
    world.client.put(node())
    world.client.put(pod("p", node="n1"))
    world.client.put(pod("elsewhere", node="n2"))
    world.client.put(node("n2"))
    async with world.running(PodGarbageCollector):
        await world.settle()
        world.client.remove(NODES, "n1")
        await look(world, 30)
        assert len(await world.pods()) == 2
        await look(world, 15)
        assert [item.metadata.name for item in await world.pods()] == ["elsewhere"]
        world.client.put(pod("late", node="n1"))
        await look(world, 30)
        assert len(await world.pods()) == 2, "the node may come back: a quarantine of its own"


async def test_taints_evict() -> None:
    world = World()
    world.client.put(node())
    world.client.put(pod("brittle", node="n1"))
    patient = pod("patient", node="n1")
    world.client.put(replace(patient, spec=replace(patient.spec, tolerations=[
        Toleration(operator="Exists", toleration_seconds=3600)])))
    async with world.running(TaintEvictionController):
        await world.settle()
        taints = [{"key": "x", "effect": "NoExecute", "timeAdded": str(Time.of(NOW))}]
        await world.client.patch(NODES, "n1", Patch("merge", {"spec": {"taints": taints}}))
        await world.settle()
        going = {item.metadata.name: item for item in await world.pods()}
        assert going["brittle"].metadata.deletion_timestamp is not None
        assert find(going["brittle"].status.conditions, "DisruptionTarget").reason == (  # type: ignore[union-attr]
            "DeletionByTaintManager")
        assert going["patient"].metadata.deletion_timestamp is None
        await world.client.patch(NODES, "n1", Patch("merge", {"spec": {"taints": None}}))
        await world.settle()
        assert ("Pod", "TaintManagerEviction", "Cancelling deletion of Pod default/patient") in await world.told()
