"""How long containers have to end, and what their status says of one that could not begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from agent.engine.protocol import Container, EngineError
from agent.pods import steps
from agent.pods.model import Attempt, Desired, Observed
from agent.pods.plan import _Plan
from tests.support.pods import World, make_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("cause", "seconds"), [
    ("liveness", 7), ("startup", 3), ("stopping", 40), ("definition", 40), ("hook", 40), ("sandbox", 40)])
def test_a_probe_s_grace_is_for_what_the_probe_ends(cause: steps.KillCause, seconds: float) -> None:
    def probe(grace: int) -> dict[str, object]:
        return {"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": grace}

    pod = make_pod(terminationGracePeriodSeconds=40, containers=[
        {"name": "other", "image": "app:1", "livenessProbe": probe(5), "startupProbe": probe(5)},
        {"name": "app", "image": "app:1", "livenessProbe": probe(7), "startupProbe": probe(3)}])
    plan = _Plan(Desired(pod), Observed(), NOW)
    assert plan._grace(Attempt(cast("Container", None), "app", 0), cause) == seconds


async def test_a_command_that_is_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start = world.engine.start

    async def refuse(container_id: str) -> None:
        box = world.engine._containers[container_id]
        if "k8s_app" not in box.name:
            return await start(container_id)
        why = 'exec: "nothing": executable file not found in $PATH'
        world.engine._containers[container_id] = replace(box, error=why, exit_code=127)
        raise EngineError(why)

    monkeypatch.setattr(world.engine, "start", refuse)
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never"))
        await world.advance(1)
        status = world.status(pod)
        assert (status.phase, status.host_ip) == ("Failed", "192.0.2.10")
        [container] = status.container_statuses
        assert container.image == "app:1"
        assert container.image_id
        assert container.state is not None
        ended = container.state.terminated
        assert ended is not None
        assert (ended.reason, ended.exit_code) == ("ContainerCannotRun", 127)
        assert "executable file not found" in (ended.message or "")
        assert ended.started_at == ended.finished_at is not None


async def test_a_stop_that_fails_is_tried_again(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        world.engine.fail("stop", EngineError("context deadline exceeded"))
        world.delete(pod)
        await world.settle()
        assert (await world.running("app")).running
        assert "error killing pod: context deadline exceeded" in world.reports.messages("FailedKillPod")[0]
        await world.advance(3)
        assert world.reports.terminated == ["uid-web"]
