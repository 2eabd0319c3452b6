"""ReplicationControllers: what ReplicaSets' controller does for them, under their own name."""

from __future__ import annotations

from msgspec.structs import replace

from sampan.api import errors
from sampan.api.resources import PODS, REPLICATIONCONTROLLERS
from sampan.api.types.core_v1 import ReplicationController, ReplicationControllerSpec
from sampan.client.fake import Call
from sampan.client.protocol import Patch
from tests.support.controllers import (
    LABELS,
    World,
    meta,
    pod,
    replica_set,
    replica_sets,
    replication_controllers,
    template,
)


def controller(replicas: int = 3) -> ReplicationController:
    return ReplicationController(metadata=meta("web", uid="rc-1", generation=1), spec=ReplicationControllerSpec(
        replicas=replicas, selector=LABELS, template=template()))


async def test_creates_reports_and_deletes() -> None:
    world = World()
    async with world.running(replication_controllers):
        world.client.put(controller(3))
        await world.converge()
        owners = [item.metadata.owner_references[0] for item in await world.pods()]
        assert {(owner.api_version, owner.kind, owner.uid) for owner in owners} == {
            ("v1", "ReplicationController", "rc-1")}
        found = await world.client.get(REPLICATIONCONTROLLERS, "web", "default")
        assert (found.status.replicas, found.status.ready_replicas, found.status.observed_generation) == (3, 3, 1)
        await world.client.patch(REPLICATIONCONTROLLERS, "web", Patch("merge", {"spec": {"replicas": 1}}), "default")
        await world.converge()
        [left] = await world.pods()
        told = await world.told()
        assert sum(kind == "ReplicationController" and reason == "SuccessfulDelete" for kind, reason, _ in told) == 2
        # It counts what fits, and only that.
        released = replace(left.metadata, labels={"app": "other"})
        world.client.put(replace(left, metadata=released))
        await world.converge()
        assert {item.metadata.name: len(item.metadata.owner_references) for item in await world.pods()}[
            left.metadata.name] == 0
        assert len(await world.pods()) == 2


async def test_a_refused_create_is_told() -> None:
    world = World()

    def refuse(call: Call) -> None:
        if call.verb == "create" and call.plural == "pods":
            raise errors.forbidden_request("", "pods", "", "exceeded quota: q")

    world.client.on_call = refuse
    async with world.running(replication_controllers):
        world.client.put(controller(1))
        for _ in range(200):
            await world.clock.settle()
            found = await world.client.get(REPLICATIONCONTROLLERS, "web", "default")
            if found.status.conditions:
                break
        [condition] = found.status.conditions
        assert (condition.type, condition.reason) == ("ReplicaFailure", "FailedCreate")
        world.client.on_call = None
        await world.converge()
        found = await world.client.get(REPLICATIONCONTROLLERS, "web", "default")
        assert (found.status.conditions, found.status.ready_replicas) == ([], 1)


async def test_neither_takes_the_other_kinds_pods() -> None:
    world = World()
    world.client.put(pod("orphan"))
    async with world.running(replica_sets, replication_controllers):
        world.client.put(controller(2))
        await world.converge()
        world.client.put(replica_set(replicas=2))
        await world.converge()
        kinds = [item.metadata.owner_references[0].kind for item in (await world.client.list(PODS)).items]
        assert sorted(kinds) == ["ReplicaSet", "ReplicaSet", "ReplicationController", "ReplicationController"]
