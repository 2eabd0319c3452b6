"""ReplicaSets: the plan in tables and properties, the controller over the fake."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from master.controllers import replicaset as controller
from master.controllers.replicaset_plan import plan, rank_for_deletion, status
from sampan.api import errors
from sampan.api.resources import PODS, REPLICASETS
from sampan.api.times import Time
from sampan.api.types.core_v1 import ContainerStatus, Pod
from sampan.client.fake import Call
from sampan.client.informer import Informer
from sampan.client.protocol import Patch
from sampan.loop.clock import FakeClock
from tests.support.controllers import World, pod, replica_set, replica_sets

NOW = FakeClock().now()


def ago(seconds: float) -> Time:
    return Time.of(NOW - timedelta(seconds=seconds))


def restarts(of: Pod, count: int) -> Pod:
    status = ContainerStatus(name="web", image="", image_id="", ready=True, restart_count=count)
    return replace(of, status=replace(of.status, container_statuses=[status]))


RUNNING = pod("running", node="n1", ready=True, since=ago(100), creation_timestamp=ago(200))

FIRST_TO_GO = {
    "unassigned": (pod("x", phase="Running"), RUNNING),
    "pending": (pod("x", node="n1", phase="Pending"), RUNNING),
    "not ready": (pod("x", node="n1"), RUNNING),
    "cheap": (pod("x", node="n1", ready=True, since=ago(100),
                  annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"}), RUNNING),
    "ready for a much shorter time": (pod("x", node="n1", ready=True, since=ago(10)), RUNNING),
    "restarted": (restarts(pod("x", node="n1", ready=True, since=ago(100)), 3), RUNNING),
    "much younger": (pod("x", node="n1", ready=True, since=ago(100), creation_timestamp=ago(20)), RUNNING),
}


@pytest.mark.parametrize("case", FIRST_TO_GO)
def test_which_pod_goes_first(case: str) -> None:
    worse, better = FIRST_TO_GO[case]
    for order in ((worse, better), (better, worse)):
        assert rank_for_deletion(order, order, NOW)[0] is worse


def test_a_node_with_several_of_them_loses_one_first() -> None:
    pods = [pod(name, node=node, ready=True, since=ago(100)) for name, node in (("a", "n1"), ("b", "n2"), ("c", "n2"))]
    assert rank_for_deletion(pods, pods, NOW)[-1].metadata.name == "a"


@given(st.integers(0, 20), st.integers(0, 20), st.randoms(use_true_random=False))
def test_the_plan_reaches_what_is_wanted(wanted: int, have: int, rng: random.Random) -> None:
    pods = [pod(f"p{i}", node=rng.choice(["", "n1", "n2"]), ready=rng.random() < 0.5, since=ago(rng.randint(0, 9999)),
                phase=rng.choice(["Pending", "Running"]), creation_timestamp=ago(rng.randint(0, 9999)))
            for i in range(have)]
    change = plan(replica_set(replicas=wanted), pods, pods, NOW)
    assert have + change.create - len(change.delete) == wanted
    assert not (change.create and change.delete)
    assert len({item.metadata.name for item in change.delete}) == len(change.delete)
    shuffled = rng.sample(pods, len(pods))
    again = plan(replica_set(replicas=wanted), shuffled, shuffled, NOW)
    assert {item.metadata.name for item in again.delete} == {item.metadata.name for item in change.delete}


def test_a_pod_is_available_after_min_ready_seconds() -> None:
    rs = replica_set(min_ready_seconds=30)
    pods = [pod("old", ready=True, since=ago(31)), pod("new", ready=True, since=ago(5)), pod("unready")]
    found = status(rs, pods, "", NOW)
    assert (found.replicas, found.ready_replicas, found.available_replicas) == (3, 2, 1)
    assert found.fully_labeled_replicas == 3


async def test_creates_reports_and_deletes() -> None:
    world = World()
    async with world.running(replica_sets):
        rs = world.client.put(replica_set(replicas=5))
        await world.converge()
        pods = await world.pods()
        assert len(pods) == 5
        assert all(item.metadata.name.startswith("web-") and item.metadata.owner_references[0].uid == "rs-1"
                   for item in pods)
        rs = await world.client.get(REPLICASETS, "web", "default")
        assert (rs.status.replicas, rs.status.ready_replicas, rs.status.available_replicas) == (5, 5, 5)
        assert rs.status.observed_generation == 1
        await world.client.patch(REPLICASETS, "web", Patch("merge", {"spec": {"replicas": 2}}), "default")
        await world.converge()
        assert len(await world.pods()) == 2
        told = await world.told()
        assert sum(reason == "SuccessfulCreate" for _, reason, _ in told) == 5
        assert sum(reason == "SuccessfulDelete" for _, reason, _ in told) == 3
        assert world.client.count("create", "pods") == 5


def hold_back_news(world: World) -> tuple[Informer[Pod], Callable[[Any], None], list[Any]]:
    """The informer of pods learns of nothing from now on; what passes it the news, and the news."""
    informer, late = world.informers.get(PODS), list[Any]()
    apply, informer._apply = informer._apply, late.append  # type: ignore[method-assign]
    return informer, apply, late


async def test_a_stale_copy_makes_no_extra_pods() -> None:
    """Pods are created, but the informer does not learn of it: nothing may happen until it does."""
    world = World()
    async with world.running(replica_sets):
        await world.settle()
        informer, apply, late = hold_back_news(world)
        world.client.put(replica_set(replicas=3))
        await world.clock.settle(200)
        for _ in range(5):
            world.controllers[0].queue.add(("default", "web"))
            await world.clock.settle(50)
        assert world.client.count("create", "pods") == 3
        informer._apply = apply  # type: ignore[method-assign] # and now lets it pass
        for event in late:
            apply(event)
        await world.converge()
        assert len(await world.pods()) == 3


async def test_news_that_come_while_a_pod_is_adopted_make_no_extra_pods() -> None:
    """The list of pods is from before the news; that they have come since does not make it fresh."""
    world = World()
    async with world.running(replica_sets):
        await world.settle()
        informer, apply, late = hold_back_news(world)
        world.client.put(pod("orphan"))
        world.client.put(replica_set(replicas=3))
        await world.clock.settle(200)
        assert world.client.count("create", "pods") == 3

        def adopting(call: Call) -> None:
            if (call.verb, call.plural) == ("get", "replicasets"):
                informer._apply = apply  # type: ignore[method-assign]
                while late:
                    apply(late.pop(0))

        world.client.on_call = adopting
        apply(late.pop(0))
        await world.converge()
        assert not late
        assert len(await world.pods()) == 3
        assert world.client.count("create", "pods") == 3


async def test_a_pod_of_which_the_informer_never_hears_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was created and deleted between two lists."""
    monkeypatch.setattr(controller, "CATCH_UP", 0.02)
    world = World()
    async with world.running(replica_sets):
        await world.settle()
        informer = world.informers.get(PODS)
        apply = informer._apply
        informer._apply = lambda _: None  # type: ignore[method-assign] # the watch is broken
        world.client.put(replica_set(replicas=1))
        await world.clock.settle(200)
        [first] = await world.pods()
        world.client.remove(PODS, first.metadata.name, "default")
        await world.clock.settle(200)
        informer._apply = apply  # type: ignore[method-assign]
        informer._replace([])
        informer.revision = world.client.revision
        async with asyncio.timeout(60):
            while not await world.pods():
                await asyncio.sleep(0.01)


async def test_adopts_orphans_and_releases_strangers() -> None:
    world = World()
    world.client.put(pod("orphan"))
    stranger = pod("stranger", owner=replica_set())
    world.client.put(replace(stranger, metadata=replace(stranger.metadata, labels={"app": "other"})))
    world.client.put(pod("foreign", owner=replica_set("other", uid="rs-2")))
    async with world.running(replica_sets):
        world.client.put(replica_set(replicas=2))
        await world.converge()
        owners = {item.metadata.name: [owner.uid for owner in item.metadata.owner_references]
                  for item in await world.pods()}
        assert owners["orphan"] == ["rs-1"]
        assert owners["stranger"] == []
        assert owners["foreign"] == ["rs-2"]
        assert sum(value == ["rs-1"] for value in owners.values()) == 2


async def test_a_refused_create_is_told_and_tried_again() -> None:
    world = World()

    def refuse(call: Call) -> None:
        if call.verb == "create" and call.plural == "pods":
            raise errors.forbidden_request("", "pods", "", "exceeded quota: q")

    world.client.on_call = refuse
    async with world.running(replica_sets):
        world.client.put(replica_set(replicas=8))
        for _ in range(200):
            await world.clock.settle()
            rs = await world.client.get(REPLICASETS, "web", "default")
            if rs.status.conditions:
                break
        assert world.client.count("create", "pods") <= 3, "a failing batch stops the next"
        assert rs.status.conditions[0].reason == "FailedCreate"
        assert ("ReplicaSet", "FailedCreate", "Error creating: pods is forbidden: exceeded quota: q") in (
            await world.told())
        world.client.on_call = None
        await world.converge()
        assert len(await world.pods()) == 8
        rs = await world.client.get(REPLICASETS, "web", "default")
        assert rs.status.conditions == []


async def test_a_refusal_that_is_worded_anew_each_time_is_tried_again_with_back_off() -> None:
    """A refusal names the pod, whose name is drawn for each try: a status that followed it would mean a next try."""
    world = World()

    def refuse(call: Call) -> None:
        if call.verb == "create" and call.plural == "pods":
            name = f"web-{world.client.count('create', 'pods')}"
            raise errors.forbidden_request("", "pods", name, 'serviceaccount "missing" not found')

    world.client.on_call = refuse
    async with world.running(replica_sets):
        world.client.put(replica_set(replicas=1))
        await world.settle(60)
        rs = await world.client.get(REPLICASETS, "web", "default")
        assert rs.status.conditions[0].reason == "FailedCreate"
        assert world.client.count("update", "replicasets", "status") == 1


async def test_no_pods_in_a_namespace_that_is_going() -> None:
    world = World()

    def refuse(call: Call) -> None:
        if call.verb == "create" and call.plural == "pods":
            error = errors.forbidden_request("", "pods", "", "it is being terminated")
            error.causes = (errors.Cause("NamespaceTerminating", ""),)
            raise error

    world.client.on_call = refuse
    async with world.running(replica_sets):
        world.client.put(replica_set(replicas=3))
        await world.settle()
        assert [item for item in await world.told() if item[1] == "FailedCreate"] == []
