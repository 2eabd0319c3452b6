"""Lifecycle hooks: postStart right after the start, preStop before the stop signal."""

from __future__ import annotations

from agent.engine.protocol import Engine, EngineError, EngineTimeout
from agent.probes.protocol import HttpHook, ProbeTarget
from sampan.api.types import core_v1
from sampan.loop.clock import Clock

POST_START_LIMIT = 3600.0
"""Seconds; upstream sets no limit to postStart, an agent cannot keep a connection for ever."""


async def run_hook(handler: core_v1.LifecycleHandler, target: ProbeTarget, engine: Engine, http: HttpHook,
                   clock: Clock, timeout: float) -> str:
    """Run a hook to its end; "" for success, else what went wrong. Never raises."""
    if handler.exec is not None:
        return await _exec(handler.exec.command, target, engine, timeout)
    if handler.http_get is not None:
        return await http.get(target, handler.http_get, timeout)
    if handler.sleep is not None:
        await clock.sleep(min(float(handler.sleep.seconds), timeout))
        return ""
    return "invalid handler: a hook is one of exec, httpGet and sleep"


async def _exec(command: list[str], target: ProbeTarget, engine: Engine, timeout: float) -> str:
    try:
        result = await engine.run(target.container_id, command, timeout)
    except EngineTimeout:
        return f"command {command} timed out"
    except EngineError as error:
        return str(error)
    if result.exit_code == 0:
        return ""
    output = result.output.decode(errors="replace")
    return f"command {command} exited with {result.exit_code}: {output}"
