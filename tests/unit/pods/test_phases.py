"""When a pod is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.engine.protocol import EngineError
from agent.pods import labels
from tests.support.pods import World, make_pod


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (1, "Failed")])
async def test_a_pod_is_over_only_when_its_sidecars_have_ended(tmp_path: Path, code: int, phase: str) -> None:
    world = World(tmp_path)
    await world.begin()
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never", initContainers=[
            {"name": "side", "image": "app:1", "command": ["pause"], "restartPolicy": "Always"}]))
        await world.settle()
        world.engine.exit((await world.running("app")).id, code)
        await world.settle()
        phases = [(status.phase, bool(status.init_container_statuses and status.init_container_statuses[0].state
                                      and status.init_container_statuses[0].state.running))
                  for status in world.reports.history]
        assert phases[-1] == (phase, False)
        assert (phase, True) not in phases
        assert world.status(pod).phase == phase
    await world.engine.close()


async def test_sidecars_end_within_the_pods_grace(tmp_path: Path) -> None:
    """What the app containers take of it, and the sidecars that end before, is gone."""
    world = World(tmp_path)
    await world.begin()
    slow = {"image": "app:1", "command": ["pause"], "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", **slow}], initContainers=[
            {"name": name, "restartPolicy": "Always", **slow} for name in ("first", "second")]))
        await world.settle()
        world.delete(pod, grace=30)
        await world.advance(29)
        assert len(await world.boxes("app")) == 1
        for _ in range(5):
            await world.advance(1)
        assert world.reports.terminated == ["uid-web"]
    await world.engine.close()


async def test_a_sidecar_alone_has_all_of_the_pods_grace(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.begin()
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never", initContainers=[
            {"name": "side", "image": "app:1", "command": ["pause"], "restartPolicy": "Always",
             "lifecycle": {"preStop": {"sleep": {"seconds": 20}}}}]))
        await world.settle()
        world.engine.exit((await world.running("app")).id, 0)
        await world.advance(19)
        assert (await world.running("side")).running
        await world.advance(2)
        assert world.status(pod).phase == "Succeeded"
    await world.engine.close()


async def test_a_pod_deleted_before_it_began_has_failed(tmp_path: Path) -> None:
    """Who waits for its end (a Job, by its finalizer) would else wait for ever."""
    world = World(tmp_path)
    await world.begin()
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "none:1"}]))
        await world.advance(3)
        assert world.status(pod).phase == "Pending"
        world.delete(pod)
        await world.advance(3)
        assert world.reports.terminated == ["uid-web"]
        assert world.status(pod).phase == "Failed"
    await world.engine.close()


async def test_a_message_outlives_its_file(tmp_path: Path) -> None:
    """The files of a pod that is over go with its volumes; an agent that starts later finds the message as reported."""
    world = World(tmp_path)
    await world.begin()
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never"))
        await world.settle()
        app = await world.running("app")
        Path(app.labels[labels.MESSAGE_FILE]).write_text("all done", "utf-8")
        world.engine.exit(app.id, 0)
        await world.settle()
        assert not Path(app.labels[labels.MESSAGE_FILE]).exists()
        before = world.status(pod)
    async with world.agent():
        await world.advance(70)
        assert world.status(pod) == before
        state = before.container_statuses[0].state
        assert state
        assert state.terminated
        assert state.terminated.message == "all done"
    await world.engine.close()


async def test_a_sandbox_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing piles up, and the containers that waited for it have not been restarted."""
    world = World(tmp_path)
    await world.begin()

    async def refuse(container_id: str) -> None:
        refused.append(container_id)
        box = world.engine._containers[container_id]
        world.engine._containers[container_id] = replace(box, error="no profile", exit_code=128)
        raise EngineError("no profile")

    refused: list[str] = []
    async with world.agent():
        with monkeypatch.context() as patch:
            patch.setattr(world.engine, "start", refuse)
            pod = world.create(make_pod())
            for _ in range(40):
                await world.advance(1)
                assert len(await world.boxes("POD")) <= 1
        assert 3 <= len(refused) < 12
        await world.advance(60)
        assert world.status(pod).phase == "Running"
        assert world.status(pod).container_statuses[0].restart_count == 0
        assert len(await world.boxes()) == 2
    await world.engine.close()
