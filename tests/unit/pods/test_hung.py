"""Docker hangs on one container, which costs its pod and no other; or it is stopped, and answers nothing any more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NoReturn

import pytest

from agent.engine.protocol import Container, EngineUnavailable, Status
from agent.pods.memory import Memory
from sampan.api import resources
from sampan.api.types import core_v1
from tests.support.pods import World, make_pod

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = 120
"""Seconds after which there has been another list of all containers."""


async def unavailable(*_: object) -> NoReturn:
    """In place of any of the engine's calls."""
    raise EngineUnavailable("connection refused")


async def test_after_a_restart_the_other_pods_are_looked_after(world: World) -> None:
    async with world.agent():
        stuck, well = world.create(make_pod("stuck")), world.create(make_pod("well"))
        await world.settle()
    [hung] = [box for box in await world.boxes("app") if box.labels["io.kubernetes.pod.name"] == "stuck"]
    [other] = [box for box in await world.boxes("app") if box.labels["io.kubernetes.pod.name"] == "well"]
    world.engine.hung.add(hung.id)
    world.engine.exit(other.id, 1)
    world.reports.statuses.clear()
    async with world.agent():
        await world.advance(FAR)
        assert world.status(well).container_statuses[0].restart_count == 1
        assert stuck.metadata.uid not in world.reports.statuses, "nothing is said of a pod that cannot be seen"
        assert world.reports.messages("FailedSync")[0] == (
            f"error determining status: inspect {hung.id}: no answer from the engine after 30 s")
        assert ("create", hung.name) not in world.engine.calls[-20:]

        world.engine.hung.clear()
        await world.advance(10)
        assert world.status(stuck).container_statuses[0].container_id == f"docker://{hung.id}"
        assert world.status(stuck).container_statuses[0].restart_count == 0


async def test_while_nothing_happens_to_it_its_pod_goes_on(world: World) -> None:
    async with world.agent():
        stuck, well = world.create(make_pod("stuck")), world.create(make_pod("well"))
        await world.settle()
        for box in await world.boxes("app"):
            if box.labels["io.kubernetes.pod.name"] == "stuck":
                world.engine.hung.add(box.id)
        before = len(world.engine.calls)
        await world.advance(FAR)
        assert ("list", "") in world.engine.calls[before:]
        assert not world.reports.messages("FailedSync")
        assert {world.status(pod).phase for pod in (stuck, well)} == {"Running"}


async def test_what_is_left_of_a_pod_that_nobody_knows_goes_once_docker_answers(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
    world.engine.hung.update(box.id for box in await world.boxes())
    world.view.delete(resources.PODS, pod)
    world.view.confirm()
    async with world.agent():
        await world.advance(FAR)
        assert len(await world.boxes()) == 2
        world.engine.hung.clear()
        await world.advance(FAR)
        assert await world.empty()


async def test_a_docker_that_is_away_is_nothing_to_tell_of_each_pod(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod has a few events to tell: they would be used up when Docker comes back, and something happens to it."""
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        [box] = await world.boxes("app")
        with monkeypatch.context() as away:
            away.setattr(world.engine, "list", unavailable)
            away.setattr(world.engine, "inspect", unavailable)
            world.engine.exit(box.id, 1)
            await world.advance(FAR)
        assert not world.reports.messages("FailedSync")
        await world.advance(10)
        assert world.status(pod).container_statuses[0].restart_count == 1
        assert world.reports.reasons().count("Started") == 2


async def test_a_docker_that_is_stopped_says_what_died_and_answers_nothing(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pods must get no more requests, though nobody can look at them before it is back."""
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        assert condition(world, pod, "Ready") == "True"
        app = await world.running("app")
        with monkeypatch.context() as patch:
            for call in ("list", "inspect", "stop", "start", "create"):
                patch.setattr(world.engine, call, unavailable)
            world.engine.exit(app.id, 143)
            await world.settle()
            assert condition(world, pod, "Ready") == "False"
            state = world.status(pod).container_statuses[0].state
            assert state is not None
            assert state.terminated is not None
            assert state.terminated.exit_code == 143
            reports = len(world.reports.history)
            await world.advance(60)
            assert len(world.reports.history) == reports
        await world.advance(60)
        assert condition(world, pod, "Ready") == "True"
        assert world.status(pod).container_statuses[0].restart_count == 1


async def test_a_pod_whose_sandbox_has_ended_is_not_ready_while_its_containers_live_on(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        monkeypatch.setattr(world.engine, "stop", unavailable)
        world.engine.exit((await world.running("POD")).id, 137)
        await world.settle()
        assert (await world.running("app")).running
        assert condition(world, pod, "Ready") == "False"


def condition(world: World, pod: core_v1.Pod, kind: str) -> str:
    return next(item.status for item in world.status(pod).conditions if item.type == kind)


def listed(status: Status) -> Container:
    return Container("c1", "name", "image", "", {}, status, inspected=False)


def test_a_container_that_is_only_listed() -> None:
    """It must be looked at where nothing, or something else, is known of it."""
    memory = Memory()
    memory.see_all([listed("running")], START)
    assert memory.containers() == []
    assert memory.unclear() == ["c1"]
    known = Container("c1", "name", "image", "", {}, "running", pid=7)
    memory.see(known, START)
    assert memory.unclear() == []
    memory.see_all([listed("running")], START)
    assert memory.containers() == [known]
    assert memory.unclear() == []
    memory.see_all([listed("exited")], START)
    assert memory.containers() == [known]
    assert memory.unclear() == ["c1"]
