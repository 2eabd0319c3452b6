"""Cgroups that are only remembered."""

from __future__ import annotations

from collections.abc import Collection

from agent.cgroups.protocol import PodLimits, QosClass


class FakeCgroups:
    """Remembers each pod's limits."""

    def __init__(self) -> None:
        self.pods: dict[str, PodLimits] = {}

    def parent(self, uid: str, qos: QosClass) -> str:
        """As the cgroupfs driver names it."""
        return f"/kubepods/{qos.lower()}/pod{uid}" if qos != "Guaranteed" else f"/kubepods/pod{uid}"

    async def ensure(self, uid: str, qos: QosClass, limits: PodLimits) -> None:
        """Remember the limits."""
        self.pods[uid] = limits

    async def remove(self, uid: str) -> None:
        """Forget the pod."""
        self.pods.pop(uid, None)

    async def live(self) -> Collection[str]:
        """The pods that are remembered."""
        return frozenset(self.pods)
