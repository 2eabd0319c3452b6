"""What pods' workers are given: the rooms of the house that they act through, and what they know of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent.cgroups.protocol import Cgroups
from agent.engine.protocol import Engine
from agent.images.puller import ImagePuller
from agent.link.protocol import ClusterView, Reports
from agent.pods.dns import DnsConfig, DnsSettings
from agent.pods.environment import NodeFacts
from agent.pods.events import PodEvents
from agent.pods.files import PodFiles
from agent.pods.metrics import PodMetrics, Uncounted
from agent.probes.protocol import HttpHook, Prober
from agent.volumes.protocol import Volumes
from netplugin.protocol import Network
from sampan.loop.clock import Clock


class OomFloor:
    """The lowest oom_score_adj that this host's kernel allows its engine; learnt from the first refusal."""

    def __init__(self, value: int = -1000) -> None:
        self.value = value

    def refuse_negative(self) -> bool:
        """Note a refusal; False where nothing negative was asked for any more."""
        if self.value >= 0:
            return False
        self.value = 0
        return True


@dataclass(frozen=True, slots=True)
class Rooms:
    """Constructed once by main and shared by all workers.

    `infra_image(missing)` returns the infra image's reference; told that the engine misses it, it has it there first.
    `slots` bounds how many containers are made or started at once on the node.
    """

    node: NodeFacts
    engine: Engine
    network: Network
    volumes: Volumes
    cgroups: Cgroups
    prober: Prober
    http_hook: HttpHook
    images: ImagePuller
    view: ClusterView
    reports: Reports
    events: PodEvents
    files: PodFiles
    clock: Clock
    infra_image: Callable[[bool], Awaitable[str]]
    memory_capacity: int
    dns: DnsSettings = field(default_factory=DnsConfig)
    pod_pids_limit: int = 0
    metrics: PodMetrics = field(default_factory=Uncounted)
    oom_floor: OomFloor = field(default_factory=OomFloor)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
