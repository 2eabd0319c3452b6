"""Brings up the node's pod network once the master has given the node its CIDR, and has it follow the other nodes."""

from __future__ import annotations

import asyncio
import logging

from agent.link.protocol import ClusterView
from agent.network.peers import peer, pod_cidr
from netplugin.protocol import Network, NetworkError, Peer
from sampan.api import resources
from sampan.api.types import core_v1
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)


class NetworkSetup:
    """Follows this node's `spec.podCIDR` and the other Nodes. `problem` says why pods cannot have a network yet, ""
    once they can.

    `news` is set when that changes, or what this node has to announce to the others.
    """

    def __init__(self, node: str, view: ClusterView, network: Network, clock: Clock, news: asyncio.Event) -> None:
        self._node = node
        self._view = view
        self._network = network
        self._clock = clock
        self._news = news
        self._wanted = ""
        self._peers: dict[str, Peer] = {}
        self._changed = asyncio.Event()
        self._problem = "the node has no pod CIDR yet"
        self.ready = asyncio.Event()

    def problem(self) -> str:
        """For the node's Ready condition."""
        return self._problem

    async def run(self) -> None:
        """Until cancelled. Nothing is done before the view is whole: of half a node map, routes would be taken away."""
        await self._view.loaded()
        self._view.subscribe(resources.NODES, self._seen)
        for node in self._view.list(resources.NODES):
            self._seen(None, node)
        if self._wanted or self._peers:
            self._changed.set()  # an earlier run, which has failed, may have seen them all
        done = ""
        failures = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            try:
                await self._network.follow(list(self._peers.values()))
                if wanted not in ("", done):
                    await self._network.setup(wanted)
                    self._is_up(wanted)
                    done = wanted
                failures = 0
            except NetworkError as error:
                failures += 1
                self._failed(error, up=done == wanted)
                done = done if done == wanted else ""  # nothing is known of what has been done
                self._changed.set()
                await self._clock.sleep(Backoff(initial=0.5).delay(failures))

    def _is_up(self, cidr: str) -> None:
        self._problem = ""
        self.ready.set()
        self._news.set()
        log.info("the pod network is up: %s", cidr)

    def _failed(self, error: NetworkError, *, up: bool) -> None:
        """A node whose network is up stays ready while it fails to follow another one: most pods do well."""
        if up:
            log.warning("the pod network cannot follow the other nodes: %s", error)
            return
        self._problem = f"the pod network cannot be set up: {error}"
        self._news.set()
        log.warning("%s", self._problem)

    def _seen(self, old: core_v1.Node | None, new: core_v1.Node | None) -> None:
        node = new or old
        if node is None:
            return
        if node.metadata.name == self._node:
            cidr = pod_cidr(new) if new else ""
            if cidr and cidr != self._wanted:
                self._wanted = cidr
                self._changed.set()
            return
        now = peer(new) if new else None
        if now == self._peers.get(node.metadata.name):
            return
        if now is None:
            del self._peers[node.metadata.name]
        else:
            self._peers[node.metadata.name] = now
        self._changed.set()
