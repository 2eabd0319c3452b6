"""What pods' workers and their manager tell of their own work. Counted in agent/stats."""

from __future__ import annotations

from typing import Literal, Protocol

Turn = Literal["create", "sync", "kill"]


class PodMetrics(Protocol):
    """Told as it happens; times in seconds."""

    def turned(self, kind: Turn, seconds: float) -> None:
        """A worker has looked at its pod and begun whatever could be begun."""

    def listed(self, seconds: float) -> None:
        """The engine's containers were listed, to find what its events missed."""

    def running(self, seconds: float) -> None:
        """A pod's phase became Running, so long after it was first seen."""


class Uncounted:
    """For whoever does not count."""

    def turned(self, kind: Turn, seconds: float) -> None:
        """See PodMetrics."""

    def listed(self, seconds: float) -> None:
        """See PodMetrics."""

    def running(self, seconds: float) -> None:
        """See PodMetrics."""
