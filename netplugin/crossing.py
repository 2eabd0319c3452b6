"""The way to other nodes' pods, kept as wanted: device, routes, neighbours and forwarding entries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Network

from netplugin import names
from netplugin.kernel import links, overlay
from netplugin.kernel.monitor import Concern
from netplugin.overlay import VXLAN, Settings, Underlay, mtu, plan, reachable, wanted
from netplugin.protocol import NetworkError, Peer

log = logging.getLogger(__name__)


class Crossing:
    """Without settings it leads nowhere, and only knows the MTU."""

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings
        self._underlay = Underlay("", 0)
        self._lock = asyncio.Lock()
        self._left_out: frozenset[Peer] = frozenset()
        self.peers: frozenset[Peer] = frozenset()
        self.subnets: frozenset[IPv4Network] = frozenset()
        """Where the routes lead."""

    @property
    def device(self) -> str:
        """The VXLAN device, "" where there is none."""
        return self._settings.device if self._settings and self._settings.backend == VXLAN else ""

    @property
    def concern(self) -> Concern:
        """What the kernel should tell of."""
        return Concern(self._underlay.name, self.device, self.subnets)

    def measure(self) -> int:
        """The MTU that pods may have; that of the underlay may change at any time. Blocks."""
        if self._settings is None:
            return links.default_mtu()
        found = overlay.underlay(self._settings.node_ip)
        if found.name or not self._underlay.name:  # else it has lost its address, for a moment most likely
            self._underlay = found
        return mtu(self._settings, self._underlay)

    def follow(self, peers: Collection[Peer]) -> None:
        """From the next `repair` on, these are the other nodes."""
        self.peers = frozenset(peers)
        self.subnets = frozenset(IPv4Network(peer.subnet) for peer in self.peers)

    async def repair(self, pod_cidr: IPv4Network, run: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Look, and change what is not as wanted; `run` has a function run in a pool thread."""
        if self._settings is None:
            return
        self._tell_left_out(self._settings, pod_cidr)
        async with self._lock:
            await run(lambda: self._repair(pod_cidr))

    def announcement(self, pod_cidr: IPv4Network) -> Peer | None:
        """What the other nodes must know of this one."""
        if self._settings is None:
            return None
        mac = names.vtep_mac(pod_cidr.network_address) if self.device else ""
        return Peer("", str(self._settings.node_ip), str(pod_cidr), self._settings.backend, mac)

    def teardown(self) -> None:
        """Take everything away, also what an earlier process with another backend made. Blocks."""
        overlay.teardown(self._settings.device if self._settings else names.VXLAN)

    def _repair(self, pod_cidr: IPv4Network) -> None:
        if self._settings is None:
            raise NetworkError("no other nodes are led to")
        wish = wanted(self._settings, pod_cidr, self._underlay, self.peers)
        actions = plan(wish, overlay.observe(self._settings.device), self._settings.device)
        if actions:
            log.info("changing the way to other nodes: %s", ", ".join(dict.fromkeys(type(action).__name__
                                                                                    for action in actions)))
            overlay.apply(actions)

    def _tell_left_out(self, settings: Settings, pod_cidr: IPv4Network) -> None:
        left_out = self.peers - frozenset(reachable(settings, pod_cidr, self.peers).values())
        for peer in sorted(left_out - self._left_out, key=lambda peer: peer.name):
            log.warning("pods of node %s are not reached: it has backend %s, pod CIDR %s and MAC address %s",
                        peer.name, peer.backend, peer.subnet, peer.mac or "none")
        self._left_out = left_out
