"""The loop that keeps the Node object and its Lease fresh (KEP-589: cheap leases often, the status when it changes)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.engine.protocol import Engine, EngineError, EngineInfo
from agent.link.protocol import ClusterView, Reports
from agent.node.events import NodeEvents, changes, rebooted
from agent.node.facts import Health, HostFacts
from agent.node.status import NodeSettings, Runtime, differs, node_object
from sampan.api.resources import NODES
from sampan.api.times import MicroTime
from sampan.api.types import coordination_v1, core_v1, meta_v1
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
REPORT_SECONDS = 300.0
"""A status without news is reported that often."""
LEASE_SECONDS = 40
LEASE_NAMESPACE = "kube-node-lease"


class Heartbeat:
    """Looks at the host every ten seconds, and whenever `news` is set, and reports.

    `problems` are asked each time what else keeps pods from running here (the network is not set up yet, …); each
    answers "" or a sentence. `measure` reads the host's health. `annotations`: what else the Node says of this host.
    """

    def __init__(self, settings: NodeSettings, facts: HostFacts, measure: Callable[[Path], Health], engine: Engine,
                 view: ClusterView, reports: Reports, clock: Clock, *,
                 problems: Sequence[Callable[[], str]] = (), news: asyncio.Event | None = None,
                 annotations: Callable[[], Mapping[str, str]] = dict) -> None:
        self._settings = settings
        self._facts = facts
        self._measure = measure
        self._engine = engine
        self._view = view
        self._reports = reports
        self._clock = clock
        self._problems = problems
        self._annotations = annotations
        self._due = news or asyncio.Event()
        self._info: EngineInfo | None = None
        self._last: core_v1.Node | None = None
        self._reported = float("-inf")
        self._events = NodeEvents(reports, settings.name, clock)
        self._doubted = False
        self._unschedulable = False

    async def run(self) -> None:
        """Beat until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            while True:
                await self._due.wait()
                self._due.clear()
                await self.beat()

    async def _tick(self) -> None:
        while True:
            self._due.set()
            await self._clock.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Renew the lease, and report the node where something changed or it is time."""
        runtime = await self._runtime()
        root = Path(self._info.root_dir) if self._info else Path("/var/lib")
        previous = self._last or self._view.get(NODES, self._settings.name)
        node = node_object(self._settings, self._facts, self._measure(root), runtime, previous, self._clock.now(),
                           self._annotations())
        due = self._clock.monotonic() - self._reported >= REPORT_SECONDS
        if due or differs(self._last, node) or self._master_doubts(node):
            self._reports.node(node)
            self._reported = self._clock.monotonic()
        self._tell(previous, node, started=self._last is None)
        self._last = node
        self._reports.lease(self._lease())

    def _tell(self, before: core_v1.Node | None, node: core_v1.Node, *, started: bool) -> None:
        """Events about what has changed, here or in what the master thinks of this node."""
        if started:
            self._events.emit("Normal", "Starting", "Starting kubelet.")
            self._events.emit("Normal", "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
            if rebooted(before, node) and node.status.node_info:
                self._events.emit("Warning", "Rebooted", f"Node {self._settings.name} has been rebooted, boot id: "
                                  f"{node.status.node_info.boot_id}")
        reasons = changes(before, node, started=started)
        seen = self._view.get(NODES, self._settings.name)
        if seen is not None:
            doubted = any(item.type == "Ready" and item.status == "Unknown" for item in seen.status.conditions)
            if doubted and not self._doubted and "NodeReady" not in reasons and not started:
                reasons += [reason for reason in changes(seen, node, started=False) if reason == "NodeReady"]
            self._doubted = doubted
            if bool(seen.spec.unschedulable) != self._unschedulable:
                self._unschedulable = bool(seen.spec.unschedulable)
                reasons.append("NodeNotSchedulable" if self._unschedulable else "NodeSchedulable")
        for reason in reasons:
            self._events.state(reason)

    async def _runtime(self) -> Runtime:
        try:
            if self._info is None:
                self._info = await self._engine.info()
            else:
                await self._engine.ping()
        except EngineError as error:
            self._info = None
            return Runtime(None, f"container runtime is down: {error}")
        problem = next(filter(None, (ask() for ask in self._problems)), "")
        return Runtime(self._info, problem)

    def _master_doubts(self, node: core_v1.Node) -> bool:
        """Whether the master has other conditions than ours: it marks silent nodes Unknown, and may lose the Node.

        So may others with the annotations by which the other nodes find this one.
        """
        if not self._view.authoritative:
            return False
        seen = self._view.get(NODES, self._settings.name)
        if seen is None:
            return True
        if any(seen.metadata.annotations.get(key) != value for key, value in node.metadata.annotations.items()):
            return True
        theirs = {item.type: item.status for item in seen.status.conditions}
        return any(theirs.get(item.type) != item.status for item in node.status.conditions)

    def _lease(self) -> coordination_v1.Lease:
        return coordination_v1.Lease(
            metadata=meta_v1.ObjectMeta(name=self._settings.name, namespace=LEASE_NAMESPACE),
            spec=coordination_v1.LeaseSpec(holder_identity=self._settings.name, lease_duration_seconds=LEASE_SECONDS,
                                           renew_time=MicroTime.of(self._clock.now())))
