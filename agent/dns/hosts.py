"""Which upstream servers the host has: from its resolv.conf, followed as that changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from agent.dns.index import DNS_SERVICE, Index
from agent.dns.upstream import Server
from agent.pods.dns import Resolver
from sampan.clusterdns import cluster_ips
from sampan.loop.clock import Clock

LOOK = 2.0
"""Seconds for which the file is taken to be what it was; it is only read when somebody asks."""


class HostServers:
    """Callable: the servers, without those that are this cluster's DNS, which would ask itself for ever."""

    def __init__(self, resolver: Callable[[], Resolver], own: Callable[[], Collection[str]], clock: Clock) -> None:
        """`resolver` reads the host's configuration, `own` knows the addresses of the cluster's DNS."""
        self._resolver = resolver
        self._own = own
        self._clock = clock
        self._read: float | None = None
        self._servers: Sequence[Server] = ()

    def __call__(self) -> Sequence[Server]:
        """In the file's order."""
        now = self._clock.monotonic()
        if self._read is None or now - self._read >= LOOK:
            self._read = now
            own = self._own()
            self._servers = [Server(address) for address in dict.fromkeys(self._resolver().nameservers)
                             if address not in own]
        return self._servers


def own_addresses(index: Index) -> set[str]:
    """Every address at which an agent of this cluster answers."""
    service = index.service(*DNS_SERVICE)
    endpoints = {address for item in index.slices(*DNS_SERVICE) for endpoint in item.endpoints
                 for address in endpoint.addresses}
    return {*(cluster_ips(service) if service else ()), *endpoints}
