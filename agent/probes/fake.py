"""Probes whose answers a test decides."""

from __future__ import annotations

from agent.probes.protocol import ProbeResult, ProbeTarget
from sampan.api.types import core_v1


class FakeProber:
    """Answers success, or what `results` says for the container's name. Counts the runs."""

    def __init__(self) -> None:
        self.results: dict[str, ProbeResult] = {}
        self.runs: list[str] = []

    async def probe(self, target: ProbeTarget, probe: core_v1.Probe) -> ProbeResult:
        """The wanted answer at once."""
        self.runs.append(target.container.name)
        return self.results.get(target.container.name, ProbeResult("success"))


class FakeHttpHook:
    """Answers `error` ("" for success)."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.asked: list[str] = []

    async def get(self, target: ProbeTarget, action: core_v1.HTTPGetAction, timeout: float) -> str:
        """Remember who was asked."""
        self.asked.append(target.container.name)
        return self.error
