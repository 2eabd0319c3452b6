"""Listens, over UDP and TCP; one loop, no thread. What comes in while nobody reads waits in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine
from typing import Any

from agent.dns.messages import Query
from agent.dns.resolver import Resolver
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

BATCH = 64
"""Datagrams read in one go, before others of the process have their turn."""
LARGEST = 65535
CONNECTIONS = 128
"""TCP connections at a time; more wait in the kernel."""
IDLE = 10.0
"""Seconds that a client may take for its next message over TCP."""
PIPELINED = 16
"""Messages of one connection that are being answered at a time; the next one is read after that."""
MOST_PENDING = 256
"""Datagrams waiting for upstream at a time; more are dropped, and their clients ask again."""
LAST_WORDS = 0.5
"""Seconds that answers under way have at the end: what comes in meanwhile waits for the next agent."""

log = logging.getLogger(__name__)


class DnsServer:
    """Serves one pair of sockets, which its caller made and closes."""

    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._pending: set[asyncio.Task[None]] = set()
        self._forwarding = 0

    async def serve(self, udp: socket.socket, tcp: socket.socket) -> None:
        """Until cancelled; then nothing more is read, and what was read is still answered."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            loop.add_reader(udp, self._readable, udp, group)
            accepting = group.create_task(self._accept(tcp, group))
            try:
                await loop.create_future()  # until cancelled
            finally:
                loop.remove_reader(udp)
                accepting.cancel()
                if self._pending:
                    await asyncio.wait(self._pending, timeout=LAST_WORDS)

    def _readable(self, sock: socket.socket, group: asyncio.TaskGroup) -> None:
        for _ in range(BATCH):
            try:
                data, client = sock.recvfrom(LARGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.debug("reading a datagram: %s", error)
                return
            answer = self._resolver.quick(data)
            if isinstance(answer, bytes):
                _send(sock, answer, client)
            elif self._forwarding < MOST_PENDING:
                self._forwarding += 1
                self._later(self._forward(sock, answer, client), group)

    async def _forward(self, sock: socket.socket, query: Query, client: Any) -> None:
        try:
            _send(sock, await self._resolver.resolve(query), client)
        finally:
            self._forwarding -= 1

    async def _accept(self, tcp: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(CONNECTIONS)
        failures = 0
        while True:
            await slots.acquire()
            try:
                connection, _ = await loop.sock_accept(tcp)
            except OSError as error:
                slots.release()
                failures += 1
                log.warning("accepting a connection: %s", error)
                await self._clock.sleep(Backoff(initial=0.1, maximum=5.0).delay(failures))
                continue
            failures = 0
            group.create_task(self._connection(connection, slots, group))

    async def _connection(self, connection: socket.socket, slots: asyncio.Semaphore,
                          group: asyncio.TaskGroup) -> None:
        """One client. What takes long does not hold up the answers to its other messages (RFC 7766, 6.2.1.1)."""
        answers: set[asyncio.Task[None]] = set()
        turn = asyncio.Lock()
        with connection:
            try:
                connection.setblocking(False)
                while (message := await _message(connection)) is not None:
                    task = self._later(self._answer(connection, message, turn), group)
                    answers.add(task)
                    task.add_done_callback(answers.discard)
                    if len(answers) >= PIPELINED:
                        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            except (OSError, TimeoutError) as error:
                log.debug("a client over TCP: %s", error)
            finally:
                slots.release()
                if answers:
                    await asyncio.wait(answers)

    async def _answer(self, connection: socket.socket, message: bytes, turn: asyncio.Lock) -> None:
        answer = self._resolver.quick(message, stream=True)
        if not isinstance(answer, bytes):
            answer = await self._resolver.resolve(answer)
        if not answer:
            return
        try:
            async with turn, asyncio.timeout(IDLE):
                await asyncio.get_running_loop().sock_sendall(connection, len(answer).to_bytes(2, "big") + answer)
        except (OSError, TimeoutError):  # what is sent in part leaves nothing to go on with
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _later(self, work: Coroutine[Any, Any, None], group: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Have work done that is finished even when the server ends."""
        task = group.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return task


def _send(sock: socket.socket, answer: bytes, client: Any) -> None:
    if not answer:
        return
    try:
        sock.sendto(answer, client)
    except OSError as error:  # the client's port is closed, or the buffer is full: it asks again if it still wants
        log.debug("answering %s: %s", client, error)


async def _message(connection: socket.socket) -> bytes | None:
    """The next message, without its length; None where the client is done. OSError, TimeoutError."""
    async with asyncio.timeout(IDLE):
        head = await _exactly(connection, 2)
        return await _exactly(connection, int.from_bytes(head, "big")) if head is not None else None


async def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(connection, count - len(data))
        if not more:
            return None
        data += more
    return data
