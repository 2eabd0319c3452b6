"""When probes run and what their answers mean: a pure count of answers, and one task per probe of a running container.

Upstream's rules: until the startup probe has succeeded, the others do not run; a failed liveness or startup probe is
told once and then rests until the next container; readiness goes on for as long as the container runs, also while it
is being ended: only then does a Service know whether it still serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from agent.pods.model import Health
from agent.probes.protocol import Outcome, Prober, ProbeTarget
from sampan.api.types import core_v1
from sampan.loop.clock import Clock

Kind = Literal["startup", "liveness", "readiness"]
_TITLES: dict[Kind, str] = {"startup": "Startup", "liveness": "Liveness", "readiness": "Readiness"}


@dataclass(frozen=True, slots=True)
class ProbeState:
    """The verdict so far (None before the first), and how often in a row the newest answer has come."""

    verdict: bool | None
    answer: Outcome = "unknown"
    streak: int = 0


def advance(state: ProbeState, answer: Outcome, probe: core_v1.Probe) -> ProbeState:
    """Count an answer; the verdict changes after successThreshold or failureThreshold of them in a row."""
    if answer == "unknown":
        return state
    streak = state.streak + 1 if answer == state.answer else 1
    needed = (probe.success_threshold or 1) if answer == "success" else (probe.failure_threshold or 3)
    verdict = (answer == "success") if streak >= needed else state.verdict
    return ProbeState(verdict, answer, streak)


def first_delay(probe: core_v1.Probe, started_at: datetime | None, now: datetime) -> float:
    """Seconds until the first run: initialDelaySeconds count from the container's start."""
    passed = (now - started_at).total_seconds() if started_at else 0.0
    return max(0.0, (probe.initial_delay_seconds or 0) - max(0.0, passed))  # less than 0: the clock was set back


def initial_health(container: core_v1.Container) -> Health:
    """What holds before any probe has answered: alive, not yet started or ready where a probe has to say so."""
    return Health(alive=True, started=None if container.startup_probe else True,
                  ready=container.readiness_probe is None)


class ContainerProbes:
    """The probes of one running container. `changed` is called with each new Health, `tell` with events to emit."""

    def __init__(self, target: ProbeTarget, prober: Prober, clock: Clock, started_at: datetime | None,
                 changed: Callable[[Health], None], tell: Callable[[str, str], None],
                 known: Health | None = None, *, ending: bool = False) -> None:
        """`known` is what an earlier agent reported of this very container: it holds until a probe says otherwise.

        `ending`: the container is being ended, and only its readiness is still of interest.
        """
        self._target = target
        self._prober = prober
        self._clock = clock
        self._started_at = started_at
        self._changed = changed
        self._tell = tell
        self._ending = ending
        self.health = known or initial_health(target.container)

    async def run(self) -> None:
        """Until cancelled, or nothing is left to ask."""
        container = self._target.container
        if container.startup_probe and self.health.started is not True:
            if self._ending:
                return
            verdict = await self._ask("startup", container.startup_probe, stop_at=(True, False))
            if not verdict:
                return
        async with asyncio.TaskGroup() as group:
            if container.liveness_probe and not self._ending:
                group.create_task(self._ended(self._ask("liveness", container.liveness_probe, stop_at=(False,))))
            if container.readiness_probe:
                group.create_task(self._ended(self._ask("readiness", container.readiness_probe, stop_at=())))

    @staticmethod
    async def _ended(asking: Awaitable[bool]) -> None:
        await asking

    async def _ask(self, kind: Kind, probe: core_v1.Probe, stop_at: tuple[bool, ...]) -> bool:
        """Ask again and again, until the verdict is one of `stop_at`."""
        state = ProbeState(self._verdict(kind))
        period = float(probe.period_seconds or 10)
        # A container that is told to end is not asked at that very moment: most are gone in the next.
        await self._clock.sleep(period if self._ending else first_delay(probe, self._started_at, self._clock.now()))
        while True:
            begun = self._clock.monotonic()
            result = await self._prober.probe(self._target, probe)
            if result.outcome == "failure":
                self._tell("Unhealthy", f"{_TITLES[kind]} probe failed: {result.message}")
            elif result.outcome == "unknown":
                self._tell("Unhealthy", f"{_TITLES[kind]} probe errored: {result.message}")
            elif result.message:
                self._tell("ProbeWarning", f"{_TITLES[kind]} probe warning: {result.message}")
            state = advance(state, result.outcome, probe)
            if state.verdict is not None:
                self._set(kind, state.verdict)
                if state.verdict in stop_at:
                    return state.verdict
            taken = self._clock.monotonic() - begun  # the period is from one beginning to the next
            await self._clock.sleep(max(0.0, period - taken))

    def _verdict(self, kind: Kind) -> bool | None:
        if kind == "startup":
            return None
        return self.health.alive if kind == "liveness" else self.health.ready

    def _set(self, kind: Kind, verdict: bool) -> None:
        old = self.health
        health = Health(alive=verdict if kind == "liveness" else old.alive,
                        started=verdict if kind == "startup" else old.started,
                        ready=verdict if kind == "readiness" else old.ready)
        if health != old:
            self.health = health
            self._changed(health)
