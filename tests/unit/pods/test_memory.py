"""What a worker remembers of events and looks that cross each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec.structs import replace

from agent.engine.protocol import Container, EngineEvent
from agent.pods.memory import Memory
from agent.pods.worker import PodWorker
from sampan.api import resources
from tests.support.pods import World, make_pod

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def box(status: str = "created") -> Container:
    return Container("c1", "name", "image", "", {}, status)


def event(action: str, seconds: float) -> EngineEvent:
    return EngineEvent(action, "c1", {}, at(seconds))


def test_an_event_of_what_one_does_oneself_wakes_nobody() -> None:
    memory = Memory()
    memory.see(box(), at(0))
    with memory.attending("c1"):
        assert not memory.hear(event("start", 1))
        assert memory.unclear() == []
        memory.see(box("running"), at(2))
    assert memory.unclear() == []


def test_what_happens_after_the_look_is_looked_at_again() -> None:
    memory = Memory()
    memory.see(box(), at(0))
    with memory.attending("c1"):
        memory.hear(event("die", 3))
        memory.see(box("running"), at(2))
    assert memory.unclear() == ["c1"]
    memory.see(box("exited"), at(4))
    assert memory.unclear() == []


def test_a_start_that_failed_leaves_its_events_to_be_looked_at() -> None:
    memory = Memory()
    memory.see(box(), at(0))
    with memory.attending("c1"):
        memory.hear(event("die", 1))
    assert memory.unclear() == ["c1"]


def test_what_is_later_by_a_clock_that_was_set_back_counts() -> None:
    memory = Memory()
    memory.see(box("running"), at(3600))
    assert memory.hear(event("die", 10))
    memory.see(box("exited"), at(11))
    assert memory.unclear() == []
    assert [container.status for container in memory.containers()] == ["exited"]
    memory.see_all([], at(9))
    assert memory.containers(), "the list is from before that look"
    memory.see_all([], at(12))
    assert memory.containers() == []


async def test_a_report_that_comes_back_is_no_news(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.begin()
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        worker: PodWorker = world.manager._workers[pod.metadata.uid]
        known = world.view.get(resources.PODS, "web", "default")
        assert known is not None
        world.view.put(resources.PODS, replace(known, metadata=replace(known.metadata, resource_version="7")))
        assert not worker._wake.is_set()
        assert worker.pod.metadata.resource_version == "7"
        world.view.put(resources.PODS, replace(known, metadata=replace(known.metadata, labels={"a": "b"})))
        assert worker._wake.is_set()
    await world.engine.close()
