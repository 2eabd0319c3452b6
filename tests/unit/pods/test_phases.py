"""When a pod is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.engine.protocol import EngineError
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
