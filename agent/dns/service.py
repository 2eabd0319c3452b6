"""The cluster's DNS on this node: sockets on the bridge's address, kept over restarts of the agent.

Pods reach it at the Service kube-dns, which leads to the bridge of the node that they are on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_network

from agent.dns.forward import Forwarder
from agent.dns.hosts import HostServers, own_addresses
from agent.dns.index import Index
from agent.dns.resolver import Counters, Resolver
from agent.dns.server import DnsServer
from agent.dns.upstream import Exchange, SocketExchange
from agent.link.protocol import ClusterView
from agent.pods.dns import Resolver as HostResolver
from sampan.api import resources
from sampan.api.types.core_v1 import Node
from sampan.clusterdns import PORT
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.loop.kept import KeptSockets

UDP, TCP = "dns-udp", "dns-tcp"
"""The sockets' names where they are kept while the agent is restarted."""
BACKLOG = 512
BUFFER = 4 * 1024 * 1024
"""Bytes of datagrams that may wait, while the agent is restarted above all."""
_SO_RCVBUFFORCE = 33  # socket(7): beyond net.core.rmem_max, for root
_IP_FREEBIND = 15  # ip(7): before the bridge is there
CANNOT_LISTEN = "FailedToStartClusterDNS"
"""The event's reason, worded as kube-proxy's are (FailedToStartProxierHealthcheck)."""
REMIND_SECONDS = 300.0
"""A complaint that stays true is repeated that often."""
WAIT_FOR_MASTER = 1.0
"""Seconds at start to hear from the master before answering from the checkpoint."""

log = logging.getLogger(__name__)


class DnsService:
    """Answers at the first address of the node's pod network, wherever that is."""

    def __init__(self, node: str, view: ClusterView, host: Callable[[], HostResolver], kept: KeptSockets,
                 clock: Clock, *, port: int = PORT, exchange: Exchange | None = None,
                 warn: Callable[[str, str], None] = lambda _reason, _message: None) -> None:
        """`host` reads the host's resolver configuration. `warn` takes reason and message of a Warning event."""
        self._node = node
        self._view = view
        self._kept = kept
        self._clock = clock
        self._port = port
        self._warn = warn
        self._warned: dict[str, float] = {}
        self._address = ""
        self._moved = asyncio.Event()
        self.counters = Counters()
        index = Index(view)
        servers = HostServers(host, lambda: {self._address, *own_addresses(index)}, clock)
        forwarder = Forwarder(servers, exchange or SocketExchange(), clock)
        self._resolver = Resolver(index, forwarder, clock, self.counters)
        view.subscribe(resources.NODES, self._seen)
        self._seen(None, view.get(resources.NODES, node))

    async def run(self) -> None:
        """Until cancelled. Nothing is answered before there is a view: a name that is not known yet is no error."""
        await self._view.loaded()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_FOR_MASTER):
                await self._view.synced()
        failures = 0
        while True:
            self._moved.clear()
            if not self._address:
                await self._moved.wait()
                continue
            try:
                udp, tcp = self._sockets(self._address)
            except OSError as error:
                failures += 1
                self._complain(error)
                await self._clock.sleep(Backoff(initial=0.5, maximum=15.0).delay(failures))
                continue
            failures = 0
            with udp, tcp:
                log.info("cluster DNS answers at %s port %d", self._address, self._port)
                await self._serve(DnsServer(self._resolver, self._clock), udp, tcp)

    def _complain(self, error: OSError) -> None:
        """To the log at each try, to the operator by an event now and then."""
        said = f"cluster DNS cannot listen on {self._address}:{self._port}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            said += "; a DNS server of this host that listens on every address must be told to listen on its own only"
        log.warning("%s", said)
        now = self._clock.monotonic()
        if now - self._warned.get(said, float("-inf")) >= REMIND_SECONDS:
            self._warned = {said: now}
            self._warn(CANNOT_LISTEN, said)

    async def _serve(self, server: DnsServer, udp: socket.socket, tcp: socket.socket) -> None:
        """Until the node has another address."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(udp, tcp))
            await self._moved.wait()
            serving.cancel()

    def _seen(self, old: Node | None, new: Node | None) -> None:
        if new is None or new.metadata.name != self._node:
            return
        cidr = new.spec.pod_cidr or next(iter(new.spec.pod_cidrs), "")
        address = str(ip_network(cidr, strict=False)[1]) if cidr else ""
        if address and address != self._address:
            self._address = address
            self._moved.set()

    def _sockets(self, address: str) -> tuple[socket.socket, socket.socket]:
        """Those that were kept, or new ones; OSError."""
        udp = self._adopt(UDP, address) or self._open(UDP, socket.SOCK_DGRAM, address)
        try:
            tcp = self._adopt(TCP, address) or self._open(TCP, socket.SOCK_STREAM, address)
        except OSError:
            udp.close()
            raise
        return udp, tcp

    def _adopt(self, name: str, address: str) -> socket.socket | None:
        """The socket that an earlier run of the agent had, if it is at that address."""
        found = None
        for sock in self._kept.take(name):
            if found is None and sock.getsockname() == (address, self._port):
                found = sock
                sock.setblocking(False)
            else:
                sock.close()
        if found is None:
            self._kept.drop(name)
        return found

    def _open(self, name: str, kind: socket.SocketKind, address: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind is socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                _enlarge(sock)
            sock.bind((address, self._port))
            if kind is socket.SOCK_STREAM:
                sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self._kept.keep(name, sock)
        return sock


def _enlarge(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
