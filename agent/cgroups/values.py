"""Limits as what the kernel's files and systemd's properties take; pure.

Sources: cgroup-v1/{memory,pids}.rst and cgroup-v2.rst of the kernel, systemd.resource-control(5), and KEP-2254 for
the conversion of shares into weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.cgroups.protocol import PodLimits

Version = Literal[1, 2]

_INFINITY = 2**64 - 1
_SECOND = 1_000_000
_PERCENT = 10_000
"""Microseconds per second in one percent: what systemd counts CPU quotas in."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One file of a controller, and its content."""

    controller: str
    file: str
    value: str


def weight(shares: int) -> int:
    """Version 1's shares, 2 to 262144, as version 2's weight, 1 to 10000 (KEP-2254)."""
    return 1 + (min(262_144, max(2, shares)) - 2) * 9999 // 262_142


def settings(limits: PodLimits, version: Version) -> list[Setting]:
    """The files to write. The period goes before the quota: together they must fit what is above and below."""
    if version == 2:
        quota = str(limits.cpu_quota) if limits.cpu_quota else "max"
        return [
            Setting("cpu", "cpu.weight", str(weight(limits.cpu_shares))),
            Setting("cpu", "cpu.max", f"{quota} {limits.cpu_period}"),
            Setting("memory", "memory.max", str(limits.memory or "max")),
            Setting("pids", "pids.max", str(limits.pids or "max")),
        ]
    return [
        Setting("cpu", "cpu.shares", str(limits.cpu_shares)),
        Setting("cpu", "cpu.cfs_period_us", str(limits.cpu_period)),
        Setting("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota or -1)),
        Setting("memory", "memory.limit_in_bytes", str(limits.memory or -1)),
        Setting("pids", "pids.max", str(limits.pids or "max")),
    ]


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a systemd unit; `kind` is its D-Bus type: t unsigned 64 bits, b boolean, s text."""

    name: str
    kind: Literal["t", "b", "s"]
    value: str


def properties(limits: PodLimits, version: Version) -> list[Property]:
    """A slice's properties. Limits go through systemd: it rewrites the files at a daemon-reload."""
    quota = _INFINITY
    if limits.cpu_quota:
        per_second = limits.cpu_quota * _SECOND // limits.cpu_period
        quota = -(-per_second // _PERCENT) * _PERCENT  # systemd keeps whole percents: up, never below the limit
    shares: Mapping[Version, Property] = {
        1: Property("CPUShares", "t", str(limits.cpu_shares)),
        2: Property("CPUWeight", "t", str(weight(limits.cpu_shares))),
    }
    return [
        shares[version],
        Property("CPUQuotaPerSecUSec", "t", str(quota)),
        Property("MemoryLimit" if version == 1 else "MemoryMax", "t", str(limits.memory or _INFINITY)),
        Property("TasksMax", "t", str(limits.pids or _INFINITY)),
    ]


ACCOUNTING: tuple[Property, ...] = tuple(
    Property(f"{what}Accounting", "b", "true") for what in ("CPU", "Memory", "Tasks"))
"""Have the controllers on from the slice's first moment."""

SLICE_BASICS: tuple[Property, ...] = (
    # Containers outlive the agent, and are ended by it in order, not by a shutdown's dependencies between slices.
    Property("DefaultDependencies", "b", "false"),
)
