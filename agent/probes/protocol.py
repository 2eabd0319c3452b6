"""What the pods' worker asks of probes: one run at a time. When to run them is decided in agent/pods/probing.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sampan.api.types import core_v1

Outcome = Literal["success", "failure", "unknown"]


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """The running container that is asked, and the address of its pod (the node's for hostNetwork)."""

    pod: core_v1.Pod
    container: core_v1.Container
    container_id: str
    pod_ip: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer. `message` is upstream's text after ``Readiness probe failed: ``; of a success it is a warning.

    "unknown" is a probe that could not be run (the engine does not answer): it counts neither way, but a Warning
    event says ``Readiness probe errored: message``.
    """

    outcome: Outcome
    message: str = ""


class Prober(Protocol):
    """Runs probes: exec, httpGet, tcpSocket (grpc answers "unknown" until it is supported)."""

    async def probe(self, target: ProbeTarget, probe: core_v1.Probe) -> ProbeResult:
        """Ask once, for at most the probe's timeoutSeconds (1 by default). Never raises."""


class HttpHook(Protocol):
    """Runs the httpGet of a lifecycle hook."""

    async def get(self, target: ProbeTarget, action: core_v1.HTTPGetAction, timeout: float) -> str:
        """Ask once; "" where an answer came, else what went wrong. Never raises."""
