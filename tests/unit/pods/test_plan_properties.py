"""The plan against a world that does what it says, fails now and then, and is disturbed: what must always hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as with_fields

from agent.engine.protocol import Container
from agent.pods import labels, steps
from agent.pods.backoff import fail
from agent.pods.environment import NodeFacts
from agent.pods.memory import Memory
from agent.pods.model import Connection, Desired, Health, Observed
from agent.pods.plan import initialized, next_step, stopping
from agent.pods.probing import initial_health
from agent.pods.status import Situation, make_status
from sampan.api.times import Time
from sampan.api.types import core_v1
from tests.support.pods import NODE, make_pod

START = datetime(2026, 1, 1, tzinfo=UTC)


class ModelWorld:
    """An engine that is a dictionary, and a worker that is a loop: every step takes one tick."""

    def __init__(self, pod: core_v1.Pod) -> None:
        self.desired = Desired(pod)
        self.memory = Memory()
        self.now = START
        self.busy: dict[str, steps.Action] = {}
        self.finished = False
        self.numbers = iter(range(1, 10_000))
        self.ever_started: list[tuple[str, bool]] = []

    def observed(self) -> Observed:
        return self.memory.observed(self.busy.keys())

    def decide(self) -> None:
        """Start every step that is due, as the worker does."""
        for _ in range(50):
            if self.finished:
                return
            step = next_step(self.desired, self.observed(), self.now)
            if isinstance(step, steps.Wait):
                return
            if isinstance(step, steps.Finish):
                assert not self.memory.lost, "an address leaks"
                self.finished = True
                return
            if not isinstance(step, steps.KillContainer):
                assert step.key not in self.busy, "two steps with one key"
            else:
                self.memory.killing[step.id] = self.now + timedelta(seconds=step.grace)
            self.busy[step.key] = step
        raise AssertionError("the plan never comes to rest")

    def complete(self, key: str, *, fails: bool) -> None:
        step = self.busy.pop(key)
        if isinstance(step, steps.KillContainer):
            self.memory.killing.pop(step.id, None)
        if fails:
            self.memory.failures[key] = fail(self.memory.failures.get(key), self.now, "Failed", "no", initial=1)
            return
        self.memory.failures.pop(key, None)
        self._do(step)

    def _do(self, step: steps.Action) -> None:  # noqa: C901 - a table of what each step does
        memory = self.memory
        match step:
            case steps.PrepareVolumes():
                memory.volumes, memory.volumes_exist = {}, True
            case steps.TearDownVolumes():
                assert not self.observed().running()
                memory.volumes, memory.volumes_exist = None, False
            case steps.EnsureCgroup():
                memory.cgroup_ready = memory.cgroup_exists = True
            case steps.RemoveCgroup():
                assert not self.observed().running()
                memory.cgroup_ready = memory.cgroup_exists = False
            case steps.CreateSandbox():
                made = labels.sandbox_labels(self.desired.pod, NODE, step.attempt)
                self._see(Container(f"box{next(self.numbers)}", "", "", "", made, "created", created_at=self.now))
            case steps.ConnectSandbox():
                self._run(step.id)
                box = memory.container(step.id)
                if box and box.running:
                    memory.connections[step.id] = Connection("10.0.0.2", box.started_at)
            case steps.StopSandbox():
                memory.detach(step.id)
                self.exit(step.id, 137)
            case steps.PullImage():
                memory.images.add(labels.container_hash(self._spec(step.name)))
            case steps.CreateContainer():
                sandbox = self.observed().sandbox
                if sandbox is None or memory.volumes is None:
                    return
                memory.images.discard(labels.container_hash(self._spec(step.name)))
                made = labels.container_labels(self.desired.pod, self._spec(step.name), NODE, attempt=step.attempt,
                                               sandbox_id=sandbox.id, backoff=step.backoff, message_file="")
                self._see(Container(f"c{next(self.numbers)}", "", "", "", made, "created", created_at=self.now))
            case steps.StartContainer():
                self._run(step.id)
                if memory.container(step.id):
                    memory.health[step.id] = initial_health(self._spec(step.name))
                    self.ever_started.append((step.name, initialized(self.desired, self.observed())))
            case steps.RunPostStart():
                memory.starting.discard(step.id)
            case steps.KillContainer():
                self.exit(step.id, 143)
            case steps.RemoveContainers():
                for container_id in step.ids:
                    memory.lose(container_id, self.now)
            case steps.ReportTerminated():
                memory.final_reported = True
                self.desired = replace(self.desired, gone=True)

    def _spec(self, name: str) -> core_v1.Container:
        spec = self.desired.pod.spec
        return next(entry for entry in (*spec.containers, *spec.init_containers) if entry.name == name)

    def _see(self, box: Container) -> None:
        self.now += timedelta(microseconds=1)
        self.memory.see(box, self.now)

    def _run(self, container_id: str) -> None:
        box = self.memory.container(container_id)
        if box and box.status == "created":
            self._see(replace(box, status="running", pid=1, started_at=self.now))

    def exit(self, container_id: str, code: int) -> None:
        box = self.memory.container(container_id)
        if box and box.running:
            self._see(replace(box, status="exited", pid=0, exit_code=code, finished_at=self.now))

    def delete(self) -> None:
        meta = with_fields(self.desired.pod.metadata, deletion_timestamp=Time.of(self.now),
                           deletion_grace_period_seconds=5)
        self.desired = replace(self.desired, pod=with_fields(self.desired.pod, metadata=meta))

    def check(self) -> None:
        """What must hold at every moment."""
        observed = self.observed()
        names = [attempt.name for attempt in observed.running()]
        assert len(names) == len(set(names)), "two attempts of a container are alive"
        if any(isinstance(step, (steps.TearDownVolumes, steps.RemoveCgroup)) for step in self.busy.values()):
            assert not any(isinstance(step, steps.StartContainer) for step in self.busy.values())
        if self.desired.deleted and not observed.running():
            assert not any(isinstance(step, steps.CreateContainer) for step in self.busy.values()
                           if step not in self.before_deletion)

    before_deletion: tuple[steps.Action, ...] = ()


POLICIES = st.sampled_from(["Always", "OnFailure", "Never"])
SHAPES = st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans())
MOSTLY = ["complete"] * 10 + ["fail", "exit", "exit", "crash", "infra", "sick", "delete", "time"]
EVENTS = st.lists(st.tuples(st.sampled_from(MOSTLY), st.integers(0, 7)), min_size=10, max_size=60)


def _pod(policy: str, shape: tuple[int, int, bool]) -> core_v1.Pod:
    apps, inits, sidecar = shape
    init: list[dict[str, Any]] = [{"name": f"init{n}", "image": "a"} for n in range(inits)]
    if sidecar:
        init.insert(0, {"name": "side", "image": "a", "restartPolicy": "Always"})
    return make_pod(restartPolicy=policy, initContainers=init,
                    containers=[{"name": f"app{n}", "image": "a"} for n in range(apps)])


def _disturb(world: ModelWorld, kind: str, which: int) -> None:
    keys = sorted(world.busy)
    running = sorted(attempt.id for attempt in world.observed().running())
    if kind in ("complete", "fail") and keys:
        world.complete(keys[which % len(keys)], fails=kind == "fail")
    elif kind in ("exit", "crash") and running:
        world.exit(running[which % len(running)], 0 if kind == "exit" else 1)
    elif kind == "infra" and (sandbox := world.observed().sandbox):
        world.exit(sandbox.id, 137)
    elif kind == "sick" and running:
        world.memory.health[running[which % len(running)]] = Health(alive=False)
    elif kind == "delete" and which == 0 and not world.desired.deleted:
        world.before_deletion = tuple(world.busy.values())
        world.delete()
    elif kind == "time":
        world.now += timedelta(seconds=4 ** which)


def _settle(world: ModelWorld) -> None:
    """Let everything succeed, init containers end well, and time pass, until nothing is left to do."""
    for _ in range(400):
        world.decide()
        if world.finished:
            return
        for key in sorted(world.busy):
            if key in world.busy:
                world.complete(key, fails=False)
        inits = {entry.name for entry in world.desired.pod.spec.init_containers if entry.restart_policy != "Always"}
        for attempt in world.observed().running():
            if attempt.name in inits:
                world.exit(attempt.id, 0)
        world.check()
        if not world.busy:
            step = next_step(world.desired, world.observed(), world.now)
            if isinstance(step, steps.Wait) and step.until is None:
                return
            world.now += timedelta(seconds=400)
    raise AssertionError("it never settles")


def _status(world: ModelWorld) -> core_v1.PodStatus:
    return make_status(Situation(world.desired, world.observed(), world.now, NodeFacts(NODE, "192.0.2.1"),
                                 core_v1.PodStatus()))


@settings(max_examples=300, deadline=None)
@given(POLICIES, SHAPES, EVENTS)
def test_whatever_happens_the_pod_comes_to_rest(policy: str, shape: tuple[int, int, bool],
                                                events: list[tuple[str, int]]) -> None:
    world = ModelWorld(_pod(policy, shape))
    for kind, which in events:
        world.decide()
        world.check()
        _disturb(world, kind, which)
        world.check()
    _settle(world)
    observed = world.observed()
    status = _status(world)
    apps = {container.name for container in world.desired.pod.spec.containers}
    if world.desired.deleted:
        assert world.finished
        assert not observed.containers
        assert not observed.sandboxes
        assert not world.memory.volumes_exist
        assert not world.memory.cgroup_exists
    elif policy == "Always":
        assert {attempt.name for attempt in observed.running()} >= apps
        assert status.phase == "Running"
    elif stopping(world.desired, observed):
        assert not observed.running()
        assert status.phase in ("Succeeded", "Failed")
        assert not world.memory.volumes_exist
    else:
        assert {attempt.name for attempt in observed.running()} & apps


@settings(max_examples=150, deadline=None)
@given(POLICIES, SHAPES, EVENTS)
def test_no_app_container_starts_before_its_time(policy: str, shape: tuple[int, int, bool],
                                                 events: list[tuple[str, int]]) -> None:
    world = ModelWorld(_pod(policy, shape))
    for kind, which in events:
        world.decide()
        for step in world.busy.values():
            if isinstance(step, steps.StartContainer) and step.name.startswith("app"):
                observed = world.observed()
                sandbox = observed.sandbox
                plain = [entry for entry in world.desired.pod.spec.init_containers if entry.restart_policy != "Always"]
                for entry in plain:
                    attempts = observed.attempts(entry.name)
                    assert attempts, f"{entry.name} has not run"
                    assert any(attempt.state == "exited" and attempt.container.exit_code == 0 for attempt in attempts)
                assert sandbox is not None
        _disturb(world, kind, which)


@settings(max_examples=100, deadline=None)
@given(POLICIES, SHAPES, EVENTS)
@example("Always", (1, 0, False), [  # the second container is made, and goes with its sandbox before it has run
    *[("complete", 0)] * 7, ("sick", 0), *[("complete", 0)] * 2, ("infra", 0), *[("complete", 0)] * 5])
def test_every_moment_has_a_status(policy: str, shape: tuple[int, int, bool], events: list[tuple[str, int]]) -> None:
    world = ModelWorld(_pod(policy, shape))
    old = core_v1.PodStatus()
    for kind, which in events:
        world.decide()
        status = make_status(Situation(world.desired, world.observed(), world.now, NodeFacts(NODE, "192.0.2.1"), old))
        if old.phase in ("Succeeded", "Failed"):
            assert status.phase == old.phase, "an end is an end"
        for before, after in zip(old.container_statuses, status.container_statuses, strict=False):
            assert after.restart_count >= before.restart_count
        by_type = {condition.type: condition.status for condition in status.conditions}
        if by_type["Ready"] == "True":
            assert all(entry.ready for entry in status.container_statuses)
        old = status
        world.desired = replace(world.desired, pod=with_fields(world.desired.pod, status=status))
        _disturb(world, kind, which)
