"""The pods' firewall rules: made from the addresses that are given out and the networks that are known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Network

from netplugin import rules
from netplugin.ipam import Lease
from netplugin.kernel.firewall import Firewall
from netplugin.overlay import cluster_networks

Leases = Callable[[], Awaitable[Sequence[Lease]]]


class PodRules:
    """`cluster_cidr`: what pods reach without masquerade, beside the CIDRs of all nodes that are known. `accept`: see
    `rules.Firewall`.
    """

    def __init__(self, cluster_cidr: str, leases: Leases, *, accept: bool = True) -> None:
        self._accept = accept
        self._cluster_cidr = cluster_cidr
        self._leases = leases
        self._firewall = Firewall()
        self._lock = asyncio.Lock()
        self._own = IPv4Network("0.0.0.0/32")
        self._others: Collection[IPv4Network] = ()
        self._device = ""

    @property
    def cluster(self) -> tuple[IPv4Network, ...]:
        """The networks in which pods are seen under their own addresses."""
        return cluster_networks(self._cluster_cidr, self._own, self._others)

    def know(self, own: IPv4Network, others: Collection[IPv4Network], device: str) -> None:
        """The pod CIDRs of this node and the others, and the device that leads to these ("" for the underlay)."""
        self._own, self._others, self._device = own, others, device

    async def apply(self) -> None:
        """Write all."""
        async with self._lock:
            await self._firewall.apply(await self._chains())

    async def update(self) -> None:
        """Write what is now wanted otherwise."""
        async with self._lock:
            await self._firewall.update(await self._chains())

    async def update_host_ports(self) -> None:
        """Write those alone: for a process that knows less of the rest than the agent does."""
        async with self._lock:
            await self._firewall.update([chain for chain in await self._chains() if chain.name == rules.HOSTPORTS])

    async def check(self) -> None:
        """Put back what others took away or changed."""
        async with self._lock:
            await self._firewall.check(await self._chains())

    async def remove(self) -> None:
        """Take all away."""
        async with self._lock:
            await self._firewall.remove(await self._chains())

    async def _chains(self) -> list[rules.Chain]:
        leases = tuple(lease for lease in await self._leases() if lease.host_ports)
        backend = await self._firewall.backend()
        return rules.chains(rules.Firewall(self._own, self.cluster, leases, self._device, self._accept,
                                           backend.random_fully))
