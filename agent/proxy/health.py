"""What load balancers ask a node: whether it has endpoints of a Service, and whether its proxy works.

As kube-proxy answers: a port of its own for each Service with `healthCheckNodePort`, and /healthz and /livez on
:10256.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from agent.proxy import observer as figures
from agent.proxy.model import ServiceKey
from agent.proxy.observer import Figures, Observer
from agent.server.http import Handler, Request, Response, converse
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

PORT = 10256
_STALE = 60.0
"""Seconds after which changes that are not in the kernel yet make the proxy unhealthy: upstream's two sync periods."""
_IDLE = 15.0
_RETRY = 10.0


class HealthPort(NamedTuple):
    """A Service's `healthCheckNodePort`, and how many ready endpoints it has on this node."""

    port: int
    service: ServiceKey
    endpoints: int


class ProxyHealth:
    """The servers. `eligible`: whether load balancers may send new connections to this node at all."""

    def __init__(self, clock: Clock, address: str = f"0.0.0.0:{PORT}", *, eligible: Callable[[], bool] = lambda: True,
                 observer: Observer | None = None) -> None:
        """`address`: where the proxy's own health is told; "" for nowhere."""
        self._clock = clock
        self._host, _, port = address.rpartition(":")
        self._port = int(port) if port else None
        self._eligible = eligible
        self._observer = observer or Figures()
        self._updated = clock.now()
        self._waiting_since: float | None = clock.monotonic()
        self._wanted: dict[int, HealthPort] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                self._changed.clear()
                failed = await self._follow()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY if failed else None):
                        await self._changed.wait()
        finally:
            for server in self._servers.values():
                server.close()
            self._servers.clear()

    def serve(self, ports: Iterable[HealthPort]) -> None:
        """These Services have health check ports now."""
        wanted = {port.port: port for port in ports}
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def queued(self) -> None:
        """There are changes that the kernel has not."""
        if self._waiting_since is None:
            self._waiting_since = self._clock.monotonic()

    def synced(self) -> None:
        """The kernel has all changes."""
        self._waiting_since = None
        self._updated = self._clock.now()

    @property
    def healthy(self) -> bool:
        """Whether the kernel has all changes, or has them soon."""
        return self._waiting_since is None or self._clock.monotonic() - self._waiting_since < _STALE

    async def _follow(self) -> bool:
        """Listen where it is wanted, and nowhere else; whether a port could not be had."""
        failed = False
        wanted = self._wanted  # it may be another one after each port
        for port in self._servers.keys() - wanted.keys() - {self._port}:
            self._servers.pop(port).close()
        for port in [*([] if self._port is None else [self._port]), *wanted]:
            if port in self._servers:
                continue
            own = port == self._port
            handler = self._proxy if own else partial(self._service, port)
            try:
                self._servers[port] = await asyncio.start_server(partial(self._connected, handler),
                                                                 self._host if own else "0.0.0.0", port)
            except OSError as error:
                failed = True
                whose = "the proxy" if own else "Service {0.namespace}/{0.name}".format(wanted[port].service)
                log.warning("the health of %s cannot be told on port %d: %s", whose, port, error)
        return failed

    def listening(self) -> dict[int, int]:
        """Ports that are served, by the ports that were asked for: 0 is any."""
        return {wanted: server.sockets[0].getsockname()[1] for wanted, server in self._servers.items()}

    async def _connected(self, handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await converse(_Streams(reader, writer), handler, idle=_IDLE)
        except OSError:
            pass  # the client has gone
        finally:
            writer.close()

    async def _service(self, port: int, _: Request) -> Response:
        wanted = self._wanted.get(port)
        if wanted is None:
            return Response.text(503, "no such Service")
        name = {"namespace": wanted.service.namespace, "name": wanted.service.name}
        body = {"service": name, "localEndpoints": wanted.endpoints, "serviceProxyHealthy": self.healthy}
        return Response(200 if wanted.endpoints and self.healthy else 503, json.dumps(body).encode(),
                        "application/json", {"X-Load-Balancing-Endpoint-Weight": str(wanted.endpoints)})

    async def _proxy(self, request: Request) -> Response:
        if request.path not in ("/healthz", "/livez"):
            return Response.text(404, "404 page not found")
        now = self._clock.now()
        body: dict[str, object] = {"lastUpdated": self._updated.isoformat(), "currentTime": now.isoformat()}
        well = self.healthy
        if request.path == "/healthz":
            body["nodeEligible"] = eligible = self._eligible()
            well = well and eligible
        if well:
            body["lastUpdated"] = now.isoformat()  # upstream's rule: what is well is up to date
        code = 200 if well else 503
        self._observer.add(figures.HEALTHZ if request.path == "/healthz" else figures.LIVEZ, code=str(code))
        return Response(code, json.dumps(body).encode(), "application/json")


class _Streams:
    """A Wire over asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(1 << 14)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
