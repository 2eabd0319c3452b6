"""The proxy as the agent runs it: rules, connections and health of this host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from agent.link.protocol import ClusterView
from agent.proxy import proxier
from agent.proxy.chains import NodeFacts
from agent.proxy.health import ProxyHealth
from agent.proxy.observer import Figures, Observer
from netplugin.host import HostFlows, HostTables, allow_local_node_ports
from netplugin.protocol import NetworkError
from sampan.api.resources import NODES
from sampan.loop.clock import Clock
from sampan.loop.tasks import supervise

log = logging.getLogger(__name__)

DRAINED = "ToBeDeletedByClusterAutoscaler"
"""The taint by which an autoscaler says that a node will go (KEP-3836)."""


class Services:
    """What one node does for all Services of the cluster."""

    def __init__(self, view: ClusterView, node: NodeFacts, clock: Clock, healthz: str,
                 observer: Observer | None = None) -> None:
        """`healthz`: HOST:PORT of the proxy's own health, "" for none."""
        self.observer = observer or Figures()
        self._view = view
        self._node = node
        self._clock = clock
        self._tables = HostTables()
        self._health = ProxyHealth(clock, healthz, eligible=self._eligible, observer=self.observer)
        self._proxier: proxier.Proxier | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(supervise("health of Services", self._health.run, self._clock))
            group.create_task(supervise("Services", self._rules, self._clock))

    async def close(self) -> None:
        """The rules stay."""
        await self._tables.close()

    async def _rules(self) -> None:
        if self._proxier is None:
            try:
                allow_local_node_ports()
            except NetworkError as error:
                log.warning("node ports will not answer on 127.0.0.1: %s", error)
            node = replace(self._node, random_fully=await self._tables.random_fully())
            self._proxier = proxier.Proxier(self._view, self._tables, HostFlows(), node, self._clock,
                                            health=self._health, observer=self.observer)
        await self._proxier.run()

    def _eligible(self) -> bool:
        node = self._view.get(NODES, self._node.name)
        if node is None:
            return True
        return node.metadata.deletion_timestamp is None and all(taint.key != DRAINED for taint in node.spec.taints)


async def cleanup(enter: Callable[[], HostTables] = HostTables) -> None:
    """Take all rules for Services away."""
    tables = enter()
    try:
        await proxier.cleanup(tables)
    finally:
        await tables.close()
