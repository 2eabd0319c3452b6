from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from master.metrics.scheduler import SchedulerMetrics
from master.scheduler import scheduler
from master.scheduler.decide import decide
from master.scheduler.scheduler import Scheduler
from sampan.api import errors
from sampan.api.resources import EVENTS, NODES, PODS
from sampan.api.types import core_v1, meta_v1
from sampan.client.events import EventRecorder
from sampan.client.fake import FakeClient
from sampan.client.informer import InformerFactory
from sampan.client.protocol import DeleteOptions
from sampan.loop.clock import FakeClock


def node(name: str, cpu: str = "1") -> core_v1.Node:
    return core_v1.Node(metadata=meta_v1.ObjectMeta(name=name),
                        status=core_v1.NodeStatus(allocatable={"cpu": cpu, "memory": "1Gi", "pods": "10"}))


def pod(name: str, cpu: str = "600m", **spec: object) -> core_v1.Pod:
    container = core_v1.Container(name="c", image="i",
                                  resources=core_v1.ResourceRequirements(requests={"cpu": cpu}))
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name=name, namespace="default"),
                       spec=core_v1.PodSpec(containers=[container], **spec))  # type: ignore[arg-type]


@asynccontextmanager
async def running(metrics: SchedulerMetrics | None = None) -> AsyncIterator[tuple[FakeClient, FakeClock]]:
    clock = FakeClock()
    client = FakeClient(clock)
    informers = InformerFactory(client, clock, rng=random.Random(1))
    recorder = EventRecorder(client, clock, "default-scheduler")
    part = Scheduler(client, informers, clock, recorder, random.Random(1), metrics)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run()) for run in (informers.run, recorder.run, part.run)]
        yield client, clock
        for task in tasks:
            task.cancel()


async def join(client: FakeClient, item: core_v1.Node) -> None:
    """A node comes, then its agent says what it has."""
    created = await client.create(NODES, item)
    await client.update(NODES, msgspec.structs.replace(created, status=item.status), subresource="status")


async def until(done: Callable[[core_v1.Pod], bool], client: FakeClient, name: str) -> core_v1.Pod:
    async with asyncio.timeout(60):
        while True:
            found = await client.get(PODS, name, "default")
            if done(found):
                return found
            await asyncio.sleep(0)


async def test_a_pod_is_bound_and_an_event_says_so() -> None:
    async with running() as (client, _):
        await join(client, node("n1"))
        await client.create(PODS, pod("web"))
        await until(lambda found: found.spec.node_name == "n1", client, "web")
        async with asyncio.timeout(60):
            while not (events := (await client.list(EVENTS, "default")).items):
                await asyncio.sleep(0)
    assert [(event.reason, event.message) for event in events] == [
        ("Scheduled", "Successfully assigned default/web to n1")]


async def test_reserved_room_is_not_given_twice_and_a_freed_one_goes_to_who_waits() -> None:
    async with running() as (client, _):
        await join(client, node("n1"))
        for name in ("one", "two"):
            await client.create(PODS, pod(name))
        await until(lambda found: bool(found.spec.node_name), client, "one")
        refused = await until(lambda found: bool(found.status.conditions), client, "two")
        condition = refused.status.conditions[0]
        assert (condition.type, condition.status, condition.reason) == ("PodScheduled", "False", "Unschedulable")
        assert "1 Insufficient cpu" in (condition.message or "")
        assert not refused.spec.node_name
        await client.delete(PODS, "one", "default", DeleteOptions(grace_period=0))
        await until(lambda found: found.spec.node_name == "n1", client, "two")


async def test_a_node_that_comes_later_takes_waiting_pods() -> None:
    async with running() as (client, _):
        await client.create(PODS, pod("early"))
        await until(lambda found: bool(found.status.conditions), client, "early")
        await join(client, node("late"))
        await until(lambda found: found.spec.node_name == "late", client, "early")


async def test_pods_of_other_schedulers_and_gated_ones_are_left_alone() -> None:
    async with running() as (client, _):
        await join(client, node("n1", cpu="4"))
        await client.create(PODS, pod("other", scheduler_name="mine"))
        await client.create(PODS, pod("gated", scheduling_gates=[core_v1.PodSchedulingGate(name="wait")]))
        await client.create(PODS, pod("plain"))
        await until(lambda found: bool(found.spec.node_name), client, "plain")
        assert not (await client.get(PODS, "other", "default")).spec.node_name
        assert not (await client.get(PODS, "gated", "default")).spec.node_name


async def test_a_pod_that_asks_for_the_impossible_harms_no_other() -> None:
    async with running() as (client, _):
        await join(client, node("n1"))
        for name, cpu in (("huge", "9999999999999999"), ("larger", "9E")):
            await client.create(PODS, pod(name, cpu))
            refused = await until(lambda found: bool(found.status.conditions), client, name)
            assert "Insufficient cpu" in (refused.status.conditions[0].message or "")
        await client.create(PODS, pod("web"))
        await until(lambda found: found.spec.node_name == "n1", client, "web")


async def test_a_fault_over_one_pod_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(item: core_v1.Pod, *rest: Any) -> Any:
        if item.metadata.name == "odd":
            raise ValueError(item.metadata.name)
        return decide(item, *rest)

    monkeypatch.setattr(scheduler, "decide", faulty)
    async with running() as (client, _):
        await join(client, node("n1"))
        await client.create(PODS, pod("odd"))
        await client.create(PODS, pod("web"))
        await until(lambda found: found.spec.node_name == "n1", client, "web")


async def test_a_fault_with_one_pod_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch,
                                                             caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (client, _):
        real, failed = client.post, []

        async def post(*args: Any) -> Any:
            if args[1] == "odd" and not failed:
                failed.append(args[1])
                raise ValueError("nobody thought of this")
            return await real(*args)

        monkeypatch.setattr(client, "post", post)
        monkeypatch.setattr("sampan.loop.queue.Backoff.delay", lambda *_: 0.01)
        await join(client, node("n1", cpu="4"))
        await client.create(PODS, pod("odd"))
        await client.create(PODS, pod("web"))
        for name in ("web", "odd"):
            await until(lambda found: found.spec.node_name == "n1", client, name)
    assert failed == ["odd"]
    assert "nobody thought of this" in caplog.text


async def test_room_that_was_reserved_in_vain_goes_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (client, _):
        real, go = client.post, asyncio.Event()

        async def post(*args: Any) -> Any:
            if args[1] == "one":
                await go.wait()
                raise errors.not_found("", "pods", "one")
            return await real(*args)

        monkeypatch.setattr(client, "post", post)
        monkeypatch.setattr("sampan.loop.queue.Backoff.delay", lambda *_: 0.01)
        await join(client, node("n1"))
        await client.create(PODS, pod("one"))
        await client.create(PODS, pod("two"))
        await until(lambda found: bool(found.status.conditions), client, "two")
        go.set()
        await until(lambda found: found.spec.node_name == "n1", client, "two")


async def test_a_binding_that_worked_although_it_failed_keeps_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (client, clock):
        real, lost = client.post, []

        async def post(*args: Any) -> Any:
            answer = await real(*args)
            if args[1] == "one":
                await clock.settle()  # the informer hears of it
                lost.append(args[1])
                raise errors.ApiError(504, "Timeout", "the answer was lost")
            return answer

        monkeypatch.setattr(client, "post", post)
        await join(client, node("n1"))
        await client.create(PODS, pod("one"))
        await until(lambda found: bool(lost and found.spec.node_name), client, "one")
        await client.create(PODS, pod("two"))
        refused = await until(lambda found: bool(found.status.conditions or found.spec.node_name), client, "two")
        assert not refused.spec.node_name


async def test_a_pod_that_still_fits_nowhere_keeps_the_time_of_its_condition() -> None:
    async with running() as (client, clock):
        await join(client, node("n1", cpu="100m"))
        await client.create(PODS, pod("web"))
        before = (await until(lambda found: bool(found.status.conditions), client, "web")).status.conditions[0]
        await clock.advance(60)
        changed = core_v1.Taint(key="busy", effect="NoSchedule")
        current = await client.get(NODES, "n1")
        await client.update(NODES, msgspec.structs.replace(current, spec=core_v1.NodeSpec(taints=[changed])))
        after = (await until(lambda found: "taint" in (found.status.conditions[0].message or ""), client,
                             "web")).status.conditions[0]
        assert after.last_transition_time == before.last_transition_time


async def test_a_pod_that_fits_nowhere_waits_in_one_queue() -> None:
    metrics = SchedulerMetrics(lambda: 0.0)
    async with running(metrics) as (client, clock):
        await client.create(PODS, pod("web"))
        await until(lambda found: bool(found.status.conditions), client, "web")
        await clock.settle()
        assert metrics.depths() == {"active": 0, "backoff": 0, "unschedulable": 1}
        await client.delete(PODS, "web", "default", DeleteOptions(grace_period=0))
        await clock.settle()
        assert metrics.depths() == {"active": 0, "backoff": 0, "unschedulable": 0}


async def test_a_scheduler_that_is_begun_anew_hears_of_each_pod_once() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    informers = InformerFactory(client, clock, rng=random.Random(1))
    part = Scheduler(client, informers, clock, EventRecorder(client, clock, "default-scheduler"), random.Random(1))
    async with asyncio.TaskGroup() as group:
        following = group.create_task(informers.run())
        for _ in range(2):
            run = group.create_task(part.run())
            await clock.settle()
            run.cancel()
            await asyncio.wait([run])
        await join(client, node("n1"))
        await client.create(PODS, pod("web"))
        run = group.create_task(part.run())
        await until(lambda found: found.spec.node_name == "n1", client, "web")
        await clock.settle()
        assert client.count("create", PODS.plural, "binding") == 1
        run.cancel()
        following.cancel()


async def test_room_that_was_reserved_for_a_pod_that_is_bound_elsewhere_goes_to_who_waits(
        monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (client, clock):
        real, go = client.post, asyncio.Event()

        async def post(*args: Any) -> Any:
            if args[1] == "one":
                await go.wait()
            return await real(*args)

        monkeypatch.setattr(client, "post", post)
        monkeypatch.setattr("sampan.loop.queue.Backoff.delay", lambda *_: 0.01)
        await join(client, node("n1"))
        await client.create(PODS, pod("one"))
        await client.create(PODS, pod("two"))
        await until(lambda found: bool(found.status.conditions), client, "two")
        one = await client.get(PODS, "one", "default")
        client.put(msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, node_name="another")))
        await clock.settle()  # the informer hears of it before the answer comes that the binding was refused
        go.set()
        await until(lambda found: found.spec.node_name == "n1", client, "two")


async def test_a_pod_that_has_lost_its_node_gets_one() -> None:
    """The server was restored from a backup of before the binding."""
    async with running() as (client, clock):
        await join(client, node("n1"))
        unbound = await client.create(PODS, pod("web"))
        await until(lambda found: found.spec.node_name == "n1", client, "web")
        await clock.settle()
        client.put(unbound)
        await until(lambda found: found.spec.node_name == "n1", client, "web")
