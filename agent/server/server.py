"""The listener: TLS, who asks, whether they may, and the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.link.authority import Caller
from agent.server.access import Guard, certified
from agent.server.certificate import ServingCertificate
from agent.server.http import Handler, Request, Response, converse
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
CONNECTIONS = 128
"""At once; more are closed right away, so that nobody can fill the agent's memory with them."""
READ_SIZE = 65536

Observe = Callable[[Request, Response, float], None]
"""Told of each answer, and of the seconds that it took."""


class StreamWire:
    """A connection of asyncio's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See Wire."""
        return await self._reader.read(READ_SIZE)

    async def write(self, data: bytes) -> None:
        """See Wire."""
        self._writer.write(data)
        await self._writer.drain()


class NodeServer:
    """Serves `handle` to whom `guard` lets in. `port` is known once `started` is set."""

    def __init__(self, address: str, port: int, certificate: ServingCertificate, guard: Guard, handle: Handler,
                 clock: Clock, observe: Observe | None = None) -> None:
        self._address = address
        self.port = port
        self.started = asyncio.Event()
        self._certificate = certificate
        self._guard = guard
        self._handle = handle
        self._clock = clock
        self._observe = observe
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen until cancelled, once there is a certificate; a port that is taken is waited for."""
        await self._certificate.ready.wait()
        failures = 0
        async with asyncio.TaskGroup() as group:
            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if len(self._connections) >= CONNECTIONS:
                    writer.transport.abort()
                    return
                task = group.create_task(self._serve(reader, writer))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)

            while True:
                try:
                    server = await asyncio.start_server(connected, self._address, self.port, limit=READ_SIZE,
                                                        ssl=self._certificate.tls,
                                                        ssl_handshake_timeout=HANDSHAKE_SECONDS)
                    break
                except OSError as error:
                    failures += 1
                    log.warning("the node's port: %s", error)
                    await self._clock.sleep(Backoff(initial=1.0, maximum=60.0).delay(failures))
            self.port = server.sockets[0].getsockname()[1]
            self.started.set()
            log.info("serving on %s:%d", self._address, self.port)
            try:
                await asyncio.Event().wait()
            finally:
                self.started.clear()
                server.close()
                for task in self._connections:
                    task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("ssl_object")
        peer = certified(connection.getpeercert() if connection else None)
        try:
            await converse(StreamWire(reader, writer), lambda request: self.answer(request, peer))
        except OSError as error:  # ssl.SSLError is an OSError
            log.debug("a connection ended: %s", error)
        except Exception:  # whatever one client sends, the others are served
            log.exception("a connection failed")
        finally:
            writer.close()

    async def answer(self, request: Request, peer: Caller) -> Response:
        """One request of somebody: refused, or answered."""
        started = self._clock.monotonic()
        response = await self._guard.refusal(request, peer) or await self._handle(request)
        if self._observe:
            self._observe(request, response, self._clock.monotonic() - started)
        return response
