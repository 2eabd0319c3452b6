"""When a pod is over."""

from __future__ import annotations

from pathlib import Path

import pytest

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
