"""Brings up the node's pod network once the master has given the node its CIDR, and again when it changes."""

from __future__ import annotations

import asyncio
import logging

from agent.link.protocol import ClusterView
from netplugin.protocol import Network, NetworkError
from sampan.api import resources
from sampan.api.types import core_v1
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)


class NetworkSetup:
    """Follows this node's `spec.podCIDR`. `problem` says why pods cannot have a network yet, "" once they can.

    `news` is set when that changes.
    """

    def __init__(self, node: str, view: ClusterView, network: Network, clock: Clock, news: asyncio.Event) -> None:
        self._node = node
        self._view = view
        self._network = network
        self._clock = clock
        self._news = news
        self._wanted = ""
        self._changed = asyncio.Event()
        self._problem = "the node has no pod CIDR yet"
        self.ready = asyncio.Event()

    def problem(self) -> str:
        """For the node's Ready condition."""
        return self._problem

    async def run(self) -> None:
        """Until cancelled."""
        self._view.subscribe(resources.NODES, self._seen)
        node = self._view.get(resources.NODES, self._node)
        self._seen(None, node)
        done = ""
        failures = 0
        while True:
            if self._wanted in ("", done):
                self._changed.clear()
                await self._changed.wait()
                continue
            wanted = self._wanted
            try:
                await self._network.setup(wanted)
            except NetworkError as error:
                failures += 1
                self._problem = f"the pod network cannot be set up: {error}"
                self._news.set()
                log.warning("%s", self._problem)
                await self._clock.sleep(Backoff(initial=0.5).delay(failures))
                continue
            done, failures, self._problem = wanted, 0, ""
            self.ready.set()
            self._news.set()
            log.info("the pod network is up: %s", wanted)

    def _seen(self, old: core_v1.Node | None, new: core_v1.Node | None) -> None:
        if new is None or new.metadata.name != self._node:
            return
        cidr = new.spec.pod_cidr or next(iter(new.spec.pod_cidrs), "")
        if cidr and cidr != self._wanted:
            self._wanted = cidr
            self._changed.set()
