"""The pools of ClusterIPs and node ports, kept in line with what the Services hold.

They live in memory and are rebuilt at start. A look every three minutes finds what got lost since, and tells of
Services that cannot both be right (kube-apiserver's repair controllers of ClusterIPs and node ports).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from master.apiserver.kinds.allocator import ClusterIPs, Fault, NodePorts
from master.apiserver.registry import Registry
from sampan.api.codec import from_tree
from sampan.api.errors import ApiError
from sampan.api.resources import SERVICES
from sampan.client.events import EventRecorder

log = logging.getLogger(__name__)

INTERVAL = 180.0  # seconds between two looks
_TRIES = 5


class PoolRepair:
    """Looks at both pools; what is wrong becomes events about the Services."""

    def __init__(self, registry: Registry, cluster_ips: ClusterIPs, node_ports: NodePorts,
                 events: EventRecorder) -> None:
        """Whoever made `events` runs it."""
        self._registry = registry
        self.cluster_ips = cluster_ips
        self.node_ports = node_ports
        self._addresses = events.named("ipallocator-repair-controller")
        self._ports = events.named("portallocator-repair-controller")

    async def rebuild(self) -> None:
        """Learn from the Services what is taken; before anything is written."""
        await self._look(self.cluster_ips.repair, self.node_ports.repair)

    async def run(self) -> None:
        """Look now and then until cancelled."""
        while True:
            await self._registry.clock.sleep(INTERVAL)
            try:
                await self._look(self.cluster_ips.check, self.node_ports.check)
            except ApiError as error:
                log.warning("ClusterIPs and node ports are not checked: %s", error)

    async def _look(self, *pools: Callable[[Iterable[dict[str, object]]], list[Fault]]) -> None:
        """Compare with a list as new as the store: from an older one, what was just given back would look lost."""
        cache = self._registry.of(SERVICES).cache
        for _ in range(_TRIES):
            listing = await cache.list()
            if listing.revision >= self._registry.store.revision:
                break
        else:
            return  # so much is written that the next look will do
        services = [entry.decode() for entry in listing.entries]
        for compare, recorder in zip(pools, (self._addresses, self._ports), strict=True):
            for fault in compare(services):
                recorder.warning(from_tree(SERVICES.type, fault.service), fault.reason, fault.message)
