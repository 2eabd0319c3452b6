"""What the pods' worker asks of cgroups: one parent per pod below its QoS class. A fake: agent/cgroups/fake.py."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

QosClass = Literal["Guaranteed", "Burstable", "BestEffort"]


class CgroupError(Exception):
    """The kernel or systemd refused; the message says what."""


@dataclass(frozen=True, slots=True)
class PodLimits:
    """A pod's cgroup settings: shares as on cgroup v1, quota in µs per `cpu_period`, bytes; 0 for no limit."""

    cpu_shares: int = 2
    cpu_quota: int = 0
    cpu_period: int = 100_000
    memory: int = 0
    pids: int = 0


class Cgroups(Protocol):
    """The pod cgroups of this node, with the cgroupfs driver (v1, v2) or systemd. Calls may be repeated."""

    def parent(self, uid: str, qos: QosClass) -> str:
        """What a container of the pod gets as its cgroup parent: a path, or a slice's name with systemd."""

    async def ensure(self, uid: str, qos: QosClass, limits: PodLimits) -> None:
        """Make the pod's cgroup and set its limits."""

    async def remove(self, uid: str) -> None:
        """Take the pod's cgroup away, in whichever QoS class it is; CgroupError while processes are in it."""

    async def live(self) -> Collection[str]:
        """UIDs of pods that have a cgroup."""
