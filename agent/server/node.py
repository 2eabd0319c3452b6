"""Puts the node's port together from what the agent has: figures, pods, certificate, the master's verdicts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil
from prometheus_client.core import Metric

from agent.cgroups.tree import Hierarchies
from agent.link.files import NodeFiles
from agent.link.link import Link
from agent.node.facts import HostFacts
from agent.server.access import Guard
from agent.server.certificate import ServingCertificate
from agent.server.http import Request, Response
from agent.server.paths import Paths
from agent.server.server import NodeServer
from agent.stats import kubelet, node, pods
from agent.stats.metrics import AgentMetrics
from agent.stats.probes import MeasuredProber
from agent.stats.sample import PodBoxes, Sampler, parse_traffic
from agent.stats.summary import Disk, NodeUse, Rates, summary
from sampan.api.types import core_v1
from sampan.loop.clock import Clock
from sampan.pki.pair import CertificateError


class Pods(Protocol):
    """The pod manager, as far as it is needed here."""

    def pods(self) -> Sequence[core_v1.Pod]:
        """All pods of this node, with their newest status."""

    def boxes(self) -> Sequence[PodBoxes]:
        """Their running containers."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What the port shows. `disks` are the directories whose file systems count: the agent's own and the engine's."""

    name: str
    address: str
    port: int
    facts: HostFacts
    link: Link
    files: NodeFiles
    pods: Pods
    prober: MeasuredProber
    metrics: AgentMetrics
    hierarchies: Hierarchies
    disks: tuple[str, str]
    clock: Clock
    config: dict[str, Any]


class NodePort:
    """The certificate and the server; run both."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._rates = Rates()
        self._sampler = Sampler(parts.pods, parts.hierarchies, parts.clock)
        names = (parts.name, parts.facts.hostname, parts.address)
        self.certificate = ServingCertificate(parts.name, names, parts.files, parts.link.authority, parts.clock)
        self.paths = Paths({"/metrics": self._own, "/metrics/cadvisor": self._cadvisor,
                            "/metrics/resource": self._resource, "/metrics/probes": self._probes},
                           parts.pods.pods, self._summary, parts.config)
        self.server = NodeServer("0.0.0.0", parts.port, self.certificate, Guard(parts.link.authority),
                                 self.paths.handle, parts.clock, self._answered)
        parts.metrics.sample(lambda: kubelet.pods(parts.pods.pods()))
        parts.metrics.sample(lambda: kubelet.certificates(self._ends(), parts.clock.now()))
        parts.metrics.sample(lambda: kubelet.standing(self._standing))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.certificate.run())
            group.create_task(self.server.run())

    def _answered(self, request: Request, response: Response, seconds: float) -> None:
        if response.status not in (401, 403):
            self._parts.metrics.answered(request.method, self.paths.label(request.path), seconds)

    def _standing(self) -> kubelet.Standing:
        link = self._parts.link
        return kubelet.Standing(link.connected.is_set(), len(link.reports))

    def _ends(self) -> dict[str, datetime | None]:
        try:
            client: datetime | None = self._parts.files.expires()
        except CertificateError:
            client = None
        return {"client": client, "server": self.certificate.expires}

    async def _own(self) -> Iterable[Metric]:
        host = await asyncio.to_thread(node.collect, self._parts.disks)
        return [*self._parts.metrics.registry.collect(), *host]

    async def _cadvisor(self) -> Iterable[Metric]:
        facts = self._parts.facts
        return [*pods.cadvisor(await self._sampler.sample()), *kubelet.machine(facts.cpus, facts.memory)]

    async def _resource(self) -> Iterable[Metric]:
        return pods.resource(await self._sampler.sample(), node.cpu_seconds(), node.memory_working_set())

    async def _probes(self) -> Iterable[Metric]:
        return self._parts.prober.collect({pod.metadata.uid for pod in self._parts.pods.pods()})

    async def _summary(self, brief: bool) -> dict[str, Any]:
        sample = await self._sampler.sample()
        use = await asyncio.to_thread(node_use, self._parts.name, self._parts.disks)
        return summary(sample, use, self._rates, only_cpu_and_memory=brief)


def node_use(name: str, disks: tuple[str, str]) -> NodeUse:
    """Measure the host; blocks for a moment."""
    memory = psutil.virtual_memory()
    return NodeUse(
        name=name, boot=datetime.fromtimestamp(psutil.boot_time(), UTC), cpu=node.cpu_seconds(),
        memory_total=memory.total, memory_available=memory.available, memory_used=memory.total - memory.free,
        root=disk(disks[0]), images=disk(disks[1]),
        network=parse_traffic(Path("/proc/self/net/dev").read_text("ascii")), interface=default_interface(),
        processes=len(psutil.pids()), max_processes=int(Path("/proc/sys/kernel/pid_max").read_text("ascii")))


def disk(path: str) -> Disk:
    """The file system that holds a path, or would hold it."""
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    stat = os.statvfs(folder)
    return Disk(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize, stat.f_files, stat.f_ffree)


def default_interface(read: Callable[[], str] = lambda: Path("/proc/self/net/route").read_text("ascii")) -> str:
    """The interface of the default route; "" without one."""
    try:
        rows = [line.split() for line in read().splitlines()]
    except OSError:
        return ""
    return next((row[0] for row in rows if len(row) > 7 and row[1] == "00000000" and row[7] == "00000000"), "")
