"""Deployments: arithmetic in tables, rollouts as properties of a simulated cluster, stories over the fake."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from master.controllers import rollout as sums
from master.controllers.deployment import DeploymentController
from master.controllers.deployment_plan import Plan, new_replica_set, plan
from master.controllers.pods import find
from sampan.api import errors
from sampan.api.resources import DEPLOYMENTS, REPLICASETS
from sampan.api.times import Time
from sampan.api.types.apps_v1 import Deployment, DeploymentCondition, ReplicaSet
from sampan.client.fake import Call
from sampan.client.protocol import Patch
from sampan.loop.clock import FakeClock
from tests.support.controllers import World, deployment, meta, replica_sets

NOW = FakeClock().now()


@pytest.mark.parametrize(("surge", "unavailable", "desired", "expected"), [
    ("25%", "25%", 10, (3, 2)), ("25%", "25%", 1, (1, 0)), (0, 0, 5, (0, 1)), ("0%", "10%", 5, (0, 1)),
    (2, 1, 5, (2, 1)), ("100%", "0%", 3, (3, 0)), ("25%", "25%", 0, (0, 1)),
])
def test_fenceposts(surge: int | str, unavailable: int | str, desired: int, expected: tuple[int, int]) -> None:
    assert sums.fenceposts(surge, unavailable, desired) == expected


def test_template_hashes_are_stable_and_differ() -> None:
    one, two = deployment(image="web:1").spec.template, deployment(image="web:2").spec.template
    again = deployment(image="web:1").spec.template
    assert sums.template_hash(one, 0) == sums.template_hash(again, 0) == "794686fc5b"
    assert len({sums.template_hash(one, 0), sums.template_hash(one, 1), sums.template_hash(two, 0)}) == 3
    assert sums.same_template(new_replica_set(deployment(), 0).spec.template, one)
    assert not sums.same_template(new_replica_set(deployment(), 0).spec.template, two)


def test_revision_history_keeps_what_fits() -> None:
    rs = ReplicaSet(metadata=meta("x", annotations={sums.REVISION: "1"}), spec=new_replica_set(deployment(), 0).spec)
    found = sums.new_set_annotations(deployment(), rs, 3, exists=True)
    assert (found[sums.REVISION], found[sums.REVISION_HISTORY]) == ("3", "1")
    rs = replace(rs, metadata=replace(rs.metadata, annotations=found | {sums.REVISION_HISTORY: ",".join(
        str(i) for i in range(100, 600))}))
    assert len(sums.new_set_annotations(deployment(), rs, 9, exists=True)[sums.REVISION_HISTORY]) <= 2000


def progress(of: Deployment) -> DeploymentCondition:
    condition = find(of.status.conditions, "Progressing")
    assert condition is not None
    return condition


class Simulation:
    """A Deployment and its ReplicaSets without a server: plans are applied, and pods come and go by chance."""

    def __init__(self, first: Deployment, rng: random.Random, *, hopeless: str = "") -> None:
        self.deployment = first
        self.sets: dict[str, ReplicaSet] = {}
        self.now: datetime = NOW
        self._rng = rng
        self._hopeless = hopeless

    def apply(self) -> Plan:
        steps = plan(self.deployment, list(self.sets.values()), self.now,
                     old_pods=any(rs.status.replicas for rs in self.old))
        if steps.create is not None:
            assert steps.create.metadata.name not in self.sets
            self.sets[steps.create.metadata.name] = replace(steps.create, metadata=replace(
                steps.create.metadata, creation_timestamp=Time.of(self.now), uid=steps.create.metadata.name))
        for rs in steps.update:
            assert rs.spec.replicas is not None
            assert rs.spec.replicas >= 0
            self.sets[rs.metadata.name] = rs
        for rs in steps.delete:
            del self.sets[rs.metadata.name]
        if steps.status is not None:
            self.deployment = replace(self.deployment, status=steps.status)
        return steps

    def pods_move(self) -> None:
        """Each ReplicaSet gets a little closer to its size; perhaps one of its pods becomes available, or fails."""
        self.now += timedelta(seconds=1)
        for name, rs in self.sets.items():
            have, free = rs.status.replicas, rs.status.available_replicas or 0
            have += max(-1, min(1, (rs.spec.replicas or 0) - have))
            works = not (self._hopeless and self._hopeless in str(rs.spec.template))
            free = min(have, free + (works and self._rng.random() < 0.7))
            self.sets[name] = replace(rs, status=replace(rs.status, replicas=have, ready_replicas=free,
                                                         available_replicas=free))

    @property
    def old(self) -> list[ReplicaSet]:
        new = sums.find_new(self.deployment, self.sets.values())
        return [rs for rs in self.sets.values() if rs is not new]

    def run(self, steps: int = 400) -> None:
        for _ in range(steps):
            done = self.apply()
            self.pods_move()
            status = self.deployment.status
            progressing = find(status.conditions, "Progressing")
            if (not done.create and not done.update and done.status is None and progressing is not None
                    and progressing.reason == "NewReplicaSetAvailable"):
                return
        raise AssertionError("the rollout never ends")


def change_image(before: Deployment, image: str) -> Deployment:
    return replace(before, metadata=replace(before.metadata, generation=(before.metadata.generation or 0) + 1),
                   spec=replace(before.spec, template=deployment(image=image).spec.template))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.sampled_from([0, 1, 2, "25%", "50%", "100%"]),
       st.sampled_from([0, 1, 3, "25%", "100%"]), st.integers(0, 10_000))
def test_a_rollout_stays_within_its_fenceposts(size: int, surge: int | str, unavailable: int | str,
                                               seed: int) -> None:
    world = Simulation(deployment(replicas=size, surge=surge, unavailable=unavailable), random.Random(seed))
    world.run()
    world.deployment = change_image(world.deployment, "web:2")
    more, fewer = sums.max_surge(world.deployment), sums.max_unavailable(world.deployment)
    for _ in range(400):
        world.apply()
        sets = list(world.sets.values())
        assert sums.total(sets) <= size + more
        # What is left once every surplus pod is gone, if the available ones go first.
        kept = sum(max(0, min(rs.spec.replicas or 0, rs.status.available_replicas or 0)) for rs in sets)
        assert kept >= size - fewer
        world.pods_move()
    world.run()
    new = sums.find_new(world.deployment, world.sets.values())
    assert new is not None
    assert new.spec.replicas == size
    assert sums.total(world.old) == 0
    assert sums.revision(new) == 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 16), st.integers(1, 6), st.integers(0, 10_000))
def test_scaling_midway_keeps_the_sum(size: int, later: int, steps: int, seed: int) -> None:
    world = Simulation(deployment(replicas=size, surge=1, unavailable=1), random.Random(seed))
    world.run()
    world.deployment = change_image(world.deployment, "web:2")
    for _ in range(steps):
        world.apply()
        world.pods_move()
    world.deployment = replace(world.deployment, spec=replace(world.deployment.spec, replicas=later))
    world.apply()
    assert sums.total(list(world.sets.values())) <= max(size, later) + 1
    world.run()
    assert sums.total(list(world.sets.values())) == later


def test_recreate_never_runs_two_versions() -> None:
    world = Simulation(deployment(replicas=3, strategy="Recreate"), random.Random(1))
    world.run()
    world.deployment = change_image(world.deployment, "web:2")
    for _ in range(60):
        world.apply()
        world.pods_move()
        running = [rs for rs in world.sets.values() if rs.status.replicas]
        assert len(running) <= 1
    assert sums.total(world.old) == 0
    assert (world.deployment.status.available_replicas, world.deployment.status.updated_replicas) == (3, 3)


def test_a_rollout_that_is_stuck_misses_its_deadline_and_recovers() -> None:
    world = Simulation(deployment(replicas=2, progress_deadline_seconds=60), random.Random(1), hopeless="web:broken")
    world.run()
    world.deployment = change_image(world.deployment, "web:broken")
    for _ in range(100):
        steps = world.apply()
        world.pods_move()
    condition = find(world.deployment.status.conditions, "Progressing")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "ProgressDeadlineExceeded")
    assert condition.message is not None
    assert "has timed out progressing." in condition.message
    assert steps.again is None
    assert world.deployment.status.available_replicas == 2, "the old pods stay"
    world.deployment = change_image(world.deployment, "web:1")
    world.run()
    newest = sums.find_new(world.deployment, world.sets.values())
    assert newest is not None
    assert newest.metadata.annotations[sums.REVISION] == "3"
    assert newest.metadata.annotations[sums.REVISION_HISTORY] == "1"


async def test_the_story_of_a_deployment() -> None:
    world = World()
    async with world.running(DeploymentController, replica_sets):
        world.client.put(deployment(replicas=3))
        await world.converge()
        found = await world.client.get(DEPLOYMENTS, "web", "default")
        assert found.metadata.annotations[sums.REVISION] == "1"
        assert (found.status.replicas, found.status.available_replicas, found.status.updated_replicas) == (3, 3, 3)
        assert {(item.type, item.status, item.reason) for item in found.status.conditions} == {
            ("Available", "True", "MinimumReplicasAvailable"), ("Progressing", "True", "NewReplicaSetAvailable")}
        await _set_image(world, "web:2")
        sets = {item.metadata.annotations[sums.REVISION]: item for item in (await world.client.list(REPLICASETS)).items}
        assert {number: item.spec.replicas for number, item in sets.items()} == {"1": 0, "2": 3}
        await _set_image(world, "web:1")  # what kubectl rollout undo does
        sets = {item.metadata.annotations[sums.REVISION]: item for item in (await world.client.list(REPLICASETS)).items}
        assert {number: item.spec.replicas for number, item in sets.items()} == {"2": 0, "3": 3}
        old, new = sets["2"].metadata.name, sets["3"].metadata.name
        messages = [message for _, reason, message in await world.told() if reason == "ScalingReplicaSet"]
        assert messages[0] == f"Scaled up replica set {new} from 0 to 3"
        assert f"Scaled up replica set {old} from 0 to 1" in messages
        assert f"Scaled down replica set {new} from 1 to 0" in messages
        found = await world.client.get(DEPLOYMENTS, "web", "default")
        assert found.status.observed_generation == found.metadata.generation == 3
        revision = world.client.revision
        world.controllers[0].queue.add(("default", "web"))
        await world.settle()
        assert world.client.revision == revision, "a Deployment at rest writes nothing"


async def _set_image(world: World, image: str) -> None:
    template = {"spec": {"containers": [{"name": "web", "image": image}]}}
    await world.client.patch(DEPLOYMENTS, "web", Patch("merge", {"spec": {"template": template}}), "default")
    await world.converge()


async def test_pause_scale_resume_and_history() -> None:
    world = World()
    async with world.running(DeploymentController, replica_sets):
        world.client.put(deployment(replicas=2, revision_history_limit=1))
        await world.converge()
        await world.client.patch(DEPLOYMENTS, "web", Patch("merge", {"spec": {"paused": True}}), "default")
        await _set_image(world, "web:2")
        assert len((await world.client.list(REPLICASETS)).items) == 1
        found = await world.client.get(DEPLOYMENTS, "web", "default")
        assert find(found.status.conditions, "Progressing").reason == "DeploymentPaused"  # type: ignore[union-attr]
        await world.client.patch(DEPLOYMENTS, "web", Patch("merge", {"spec": {"replicas": 4}}), "default")
        await world.converge()
        assert len(await world.pods()) == 4
        await world.client.patch(DEPLOYMENTS, "web", Patch("merge", {"spec": {"paused": False}}), "default")
        await world.converge()
        for number in (3, 4):
            await _set_image(world, f"web:{number}")
        sets = (await world.client.list(REPLICASETS)).items
        assert sorted(item.metadata.annotations[sums.REVISION] for item in sets) == ["3", "4"]
        assert len(await world.pods()) == 4


def test_a_rollout_that_is_over_is_not_looked_at_for_its_deadline() -> None:
    """Its pods may fail much later; that is no rollout that is late."""
    simulation = Simulation(deployment(replicas=3), random.Random(1))
    simulation.run()
    assert progress(simulation.deployment).reason == "NewReplicaSetAvailable"
    [rs] = simulation.sets.values()
    failing = replace(rs, status=replace(rs.status, available_replicas=1, ready_replicas=1))
    steps = plan(simulation.deployment, [failing], simulation.now + timedelta(days=1))
    assert steps.status is not None
    assert steps.status.unavailable_replicas == 2
    assert steps.again is None


async def test_a_replica_set_that_cannot_be_made_is_told_in_the_conditions() -> None:
    world = World()

    def refuse(call: Call) -> None:
        if (call.verb, call.plural) == ("create", "replicasets"):
            raise errors.forbidden_request("apps", "replicasets", "web-1", f"no. {len(world.client.calls)}")

    world.client.on_call = refuse
    async with world.running(DeploymentController, replica_sets):
        world.client.put(deployment(replicas=1))
        await world.settle(60)
        found = await world.client.get(DEPLOYMENTS, "web", "default")
        progressing = progress(found)
        assert (progressing.status, progressing.reason) == ("False", "ReplicaSetCreateError")
        assert (progressing.message or "").startswith('Failed to create new replica set "web-')
        assert world.client.count("update", "deployments", "status") == 1
        world.client.on_call = None
        world.controllers[0].queue.add(("default", "web"))  # rather than wait out the back-off
        await world.converge()
        found = await world.client.get(DEPLOYMENTS, "web", "default")
        assert progress(found).reason == "NewReplicaSetAvailable"


async def test_a_hash_collision_is_counted() -> None:
    world = World()
    twin = new_replica_set(deployment(), 0)
    world.client.put(replace(twin, metadata=replace(twin.metadata, owner_references=[]),
                             spec=replace(twin.spec, template=deployment(image="other").spec.template,
                                          selector=deployment("other").spec.selector)))
    async with world.running(DeploymentController):
        await world.settle()
        other = twin.metadata
        world.client.put(replace(twin, metadata=replace(other, owner_references=[replace(
            other.owner_references[0], uid="somebody-else")])))
        world.client.put(deployment())
        await world.settle()
        found = await world.client.get(DEPLOYMENTS, "web", "default")
        assert found.status.collision_count == 1
        assert sorted(item.metadata.name for item in (await world.client.list(REPLICASETS)).items) == sorted(
            [twin.metadata.name, new_replica_set(deployment(), 1).metadata.name])
