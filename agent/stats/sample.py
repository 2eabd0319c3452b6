"""One look at all pods of the node: what each container, pod and pod network has used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from agent.cgroups.protocol import CgroupError
from agent.cgroups.tree import Hierarchies
from agent.engine.protocol import Container
from agent.stats import cgroup
from sampan.api.types import core_v1
from sampan.loop.clock import Clock

FRESH = 1.0
"""Seconds for which one look serves everybody who asks: /metrics and /metrics/cadvisor are read together."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One network interface of a pod since it was made."""

    interface: str
    receive_bytes: int
    receive_packets: int
    receive_errors: int
    receive_dropped: int
    transmit_bytes: int
    transmit_packets: int
    transmit_errors: int
    transmit_dropped: int


@dataclass(frozen=True, slots=True)
class ContainerSample:
    """A running container's use; `log_bytes` is what its log takes on the disk."""

    name: str
    container: Container
    use: cgroup.Use
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PodSample:
    """A pod with something running. `use` is the pod's own cgroup's, None where it is not known."""

    pod: core_v1.Pod
    use: cgroup.Use | None
    containers: Sequence[ContainerSample]
    network: Sequence[Traffic] = ()


@dataclass(frozen=True, slots=True)
class PodBoxes:
    """What runs of a pod: its infra container and its containers by name."""

    pod: core_v1.Pod
    sandbox: Container | None
    containers: Mapping[str, Container]


class PodSource(Protocol):
    """Who knows the pods; the pod manager."""

    def boxes(self) -> Sequence[PodBoxes]:
        """The running containers of all pods."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All pods at one time."""

    time: datetime
    pods: Sequence[PodSample]


class Sampler:
    """Looks when asked."""

    def __init__(self, pods: PodSource, hierarchies: Hierarchies, clock: Clock) -> None:
        self._pods = pods
        self._hierarchies = hierarchies
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: tuple[float, Sample] | None = None

    async def sample(self) -> Sample:
        """A look that is not older than FRESH. The files are read in a thread: a pod's would hold up the others."""
        async with self._lock:
            if self._last and self._clock.monotonic() - self._last[0] < FRESH:
                return self._last[1]
            now, began = self._clock.now(), self._clock.monotonic()
            pods = await asyncio.to_thread(self._look, self._pods.boxes())
            self._last = began, Sample(now, pods)
            return self._last[1]

    def _look(self, everything: Sequence[PodBoxes]) -> list[PodSample]:
        return [self._pod(boxes) for boxes in everything]

    def _pod(self, boxes: PodBoxes) -> PodSample:
        samples, use = [], None
        for name, container in boxes.containers.items():
            try:
                paths = cgroup.paths_of(container.pid)
                samples.append(ContainerSample(name, container, cgroup.read(self._hierarchies, paths),
                                               log_size(container.log_path)))
            except CgroupError:
                continue  # it has just ended
        sandbox = boxes.sandbox or next(iter(boxes.containers.values()), None)
        if sandbox is not None:
            try:
                use = cgroup.read(self._hierarchies, cgroup.parent(cgroup.paths_of(sandbox.pid)))
            except CgroupError:
                use = None
        own_network = boxes.sandbox is not None and not boxes.pod.spec.host_network
        network = traffic(boxes.sandbox.pid) if own_network and boxes.sandbox else []
        return PodSample(boxes.pod, use, samples, network)


def traffic(pid: int) -> list[Traffic]:
    """The interfaces that a process sees, without loopback (proc(5), /proc/[pid]/net/dev); none where it has ended."""
    try:
        text = Path(f"/proc/{pid}/net/dev").read_text("ascii")
    except OSError:
        return []
    return parse_traffic(text)


def parse_traffic(text: str) -> list[Traffic]:
    """Read the table: eight columns for what came in, eight for what went out."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) >= 12 and all(word.isdigit() for word in words) and name.strip() != "lo":
            found.append(Traffic(name.strip(), *map(int, words[:4]), *map(int, words[8:12])))
    return found


def log_size(path: str) -> int:
    """Bytes of a container's log with its rotated parts (``….log.1``); 0 where there is none."""
    if not path:
        return 0
    total = 0
    try:
        with os.scandir(Path(path).parent) as entries:
            total = sum(entry.stat().st_size for entry in entries if entry.name.startswith(Path(path).name))
    except OSError:
        return total
    return total
