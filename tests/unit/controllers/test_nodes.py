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
from master.controllers.pod_cleanup import OUT_OF_SERVICE, PodGarbageCollector, TaintEvictionController
from master.controllers.pods import find, is_ready
from sampan.api.resources import LEASES, NODES, PODS
from sampan.api.times import MicroTime, Time
from sampan.api.types.coordination_v1 import Lease, LeaseSpec
from sampan.api.types.core_v1 import (
    Node,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    PodCondition,
    Taint,
    Toleration,
)
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


ZONE_RATES: list[tuple[int, int, float]] = [
    (3, 0, plans.RATE), (2, 1, plans.RATE), (1, 2, plans.RATE), (1, 3, 0.0), (3, 3, plans.RATE), (0, 5, plans.RATE),
    (20, 40, plans.RATE / 10)]


@pytest.mark.parametrize(("ready", "lost", "rate"), ZONE_RATES)
def test_most_of_a_zone_is_never_evicted_at_once(ready: int, lost: int, rate: float) -> None:
    assert plans.Zone(ready, lost).rate == rate


def test_zones() -> None:
    def within(name: str, zone: str, ready: str) -> Node:
        of = node(name, ready)
        return replace(of, metadata=replace(of.metadata, labels={"topology.kubernetes.io/zone": zone}))

    states = plans.zones([within("a", "x", "True"), within("b", "x", "Unknown"), within("c", "y", "")])
    assert states == {("", "x"): plans.Zone(1, 1), ("", "y"): plans.Zone(0, 1)}
    assert not plans.all_lost(states)
    assert plans.all_lost({("", "y"): plans.Zone(0, 1)})


def test_no_execute_waits_where_too_much_is_lost() -> None:
    lost = node(ready="Unknown")
    no_execute = {item: {taint.effect for taint in plans.wanted_taints(lost, NOW, item)} for item in plans.Evicting}
    assert no_execute == {plans.Evicting.ADD: {"NoSchedule", "NoExecute"}, plans.Evicting.KEEP: {"NoSchedule"},
                          plans.Evicting.REMOVE: {"NoSchedule"}}
    before = node(ready="Unknown", taints=(taint(plans.NOT_READY, "NoExecute"),))
    assert {(item.key, item.effect) for item in plans.wanted_taints(before, NOW, plans.Evicting.KEEP)} == {
        (plans.UNREACHABLE, "NoSchedule"), (plans.UNREACHABLE, "NoExecute")}, "one that is there follows the state"


async def test_nothing_is_evicted_while_all_nodes_are_lost() -> None:
    world = World()
    for name in ("n1", "n2", "n3"):
        world.client.put(node(name))
    async with world.running(NodeLifecycleController):
        async def evicting() -> set[str]:
            await world.clock.settle(200)
            return {item.metadata.name for item in (await world.client.list(NODES)).items
                    if any(taint.effect == "NoExecute" for taint in item.spec.taints)}

        for name in ("n1", "n2"):
            world.client.put(node(name, "False"))
            await world.clock.settle(200)
        assert await evicting() == {"n1"}, "one in ten seconds"
        await world.clock.advance(11)
        world.controllers[0].queue.add("n2")
        assert await evicting() == {"n1", "n2"}
        world.client.put(node("n3", "False"))
        assert await evicting() == set(), "it is rather the master that is cut off"
        world.client.put(node("n3"))
        assert await evicting() == {"n2"}, "it was its turn"
        await world.clock.advance(11)
        world.controllers[0].queue.add("n1")
        assert await evicting() == {"n1", "n2"}


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
    assert due(replace(patient, toleration_seconds=2**63 - 1), taints=(lost,)) is None
    late = pod("p", node="n1", creation_timestamp=Time.of(NOW - timedelta(seconds=20)))
    late = replace(late, spec=replace(late.spec, tolerations=[patient]))
    assert plans.eviction(late, (lost,), NOW).at == NOW + timedelta(seconds=280), "it came after the taint"
    bound = PodCondition(type="PodScheduled", status="True", last_transition_time=Time.of(NOW))
    late = replace(late, status=replace(late.status, conditions=[bound]))
    assert plans.eviction(late, (lost,), NOW).at == NOW + timedelta(seconds=300)


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


def test_ranges_of_another_size_do_not_overlap() -> None:
    cluster = ip_network("10.244.0.0/16")
    assert plans.allocate(cluster, 24, {"a": "10.244.0.0/23", "b": "10.244.2.128/25", "c": "fd00::/64",
                                        "d": "10.9.0.0/24"}) == "10.244.3.0/24"
    assert plans.allocate(cluster, 16, {}) == "10.244.0.0/16"
    assert plans.allocate(cluster, 17, {"a": "10.244.0.0/24", "b": "10.244.255.0/24"}) is None


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
    world.client.put(node("well"))
    world.client.put(pod("p", node="n1", ready=True))
    world.client.put(pod("going", node="n1", ready=True, deletion_timestamp=Time.of(NOW),
                         deletion_grace_period_seconds=30))
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
        assert not is_ready(await world.client.get(PODS, "going", "default")), "it would still count as serving"
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


async def test_a_node_that_says_that_it_is_not_ready_speaks_for_its_pods() -> None:
    world = World()
    world.client.put(node())
    world.client.put(pod("p", node="n1", ready=True))
    async with world.running(NodeLifecycleController):
        for word, ready in (("False", True), ("Unknown", False)):
            world.client.put(node("n1", word))
            await world.settle()
            await look(world, 1)
            assert is_ready(await world.client.get(PODS, "p", "default")) is ready


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


async def test_pods_that_nobody_will_end_are_removed() -> None:
    world = World()
    off = node("off", "Unknown", (taint(OUT_OF_SERVICE, "NoExecute"),))
    for of in (node(), off, node("back", taints=(taint(OUT_OF_SERVICE, "NoExecute"),)), node("lost", "Unknown")):
        world.client.put(of)
    for name, where in (("unplaced", ""), ("on-off", "off"), ("on-back", "back"), ("on-lost", "lost"), ("ok", "n1")):
        world.client.put(pod(name, node=where, deletion_timestamp=Time.of(NOW)))
    world.client.put(pod("stays", node="off"))
    for number in range(4):
        ended = pod(f"ended-{number}", node="n1", phase="Succeeded",
                    creation_timestamp=Time.of(NOW + timedelta(seconds=9 - number)))
        world.client.put(replace(ended, status=replace(ended.status, reason="Evicted" if number == 1 else None)))
    async with world.running(lambda deps: PodGarbageCollector(deps, threshold=2)):
        await world.settle()
        assert sorted(item.metadata.name for item in await world.pods()) == [
            "ended-0", "ended-2", "ok", "on-back", "on-lost", "stays"]


async def test_a_taint_without_a_time_counts_from_when_it_was_seen() -> None:
    world = World()
    world.client.put(node())
    patient = pod("patient", node="n1")
    world.client.put(replace(patient, spec=replace(patient.spec, tolerations=[
        Toleration(operator="Exists", toleration_seconds=60)])))
    async with world.running(TaintEvictionController):
        await world.settle()
        world.client.put(node(taints=(taint("x", "NoExecute"),)))
        for passed, going in ((0, False), (59, False), (2, True)):
            await world.clock.advance(passed)
            world.controllers[0].queue.add(("default", "patient"))
            await world.clock.settle(100)
            assert bool((await world.pods())[0].metadata.deletion_timestamp) is going


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
