"""Docker's streams on the event loop: what becomes of a connection after the SDK has opened it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agent.engine import translate
from agent.engine.protocol import EngineError, EngineTimeout, EngineUnavailable, LogLine, NotFound
from agent.engine.wire import BadStream, Dechunker, Demultiplexer, LineSplitter, StreamName, log_line
from sampan.loop.backoff import Backoff

_CHUNK = 64 * 1024
_TRIES = 12
"""How often a log that is followed is tried again where the engine does not answer: about half a minute."""
_RECENT = 1000
"""Lines that are known again when Docker gives them twice."""


@dataclass(slots=True)
class Handover:
    """A connection whose answer's head has been read: its socket, what came behind the head, how the body is coded."""

    sock: socket.socket
    early: bytes
    chunked: bool


def take_socket(response: Any) -> Handover:
    """Take the socket out of a `requests` response (in the thread that opened it).

    http.client reads through a buffer, which may hold the first bytes of the stream; they would be lost to whoever
    reads the bare socket. The response's own descriptor is closed: ours is a duplicate.
    """
    buffered = response.raw._fp.fp  # noqa: SLF001 - neither urllib3 nor http.client has a public way to it
    original: socket.socket = buffered.raw._sock  # noqa: SLF001 - as above
    original.setblocking(False)
    early = bytes(buffered.peek(1))
    sock = original.dup()
    sock.setblocking(False)
    response.close()
    return Handover(sock, early, response.headers.get("Transfer-Encoding") == "chunked")


class Connection:
    """One of Docker's long-lived connections, from our side."""

    def __init__(self, handover: Handover, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._early = handover.early
        self._dechunker = Dechunker() if handover.chunked else None

    @classmethod
    async def take(cls, handover: Handover) -> Connection:
        """Give the socket to the running loop."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=handover.sock, limit=_CHUNK)
        except BaseException:
            handover.sock.close()
            raise
        return cls(handover, reader, writer)

    async def read(self) -> bytes:
        """The next bytes of the body, as they come; b"" at its end. EngineUnavailable where it breaks off before."""
        while self._dechunker is None or not self._dechunker.finished:
            data, self._early = self._early, b""
            try:
                data = data or await self._reader.read(_CHUNK)
            except OSError as error:
                raise EngineUnavailable(f"the engine's stream broke: {error}") from error
            if self._dechunker is None:
                return data
            if not data:
                raise EngineUnavailable("the engine's stream broke off")
            body = self._dechunker.feed(data)
            if body:
                return body
        return b""

    async def read_all(self) -> bytes:
        """Everything up to the end."""
        parts = []
        while data := await self.read():
            parts.append(data)
        return b"".join(parts)

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """A body of JSON objects, one a line."""
        lines = LineSplitter()
        while data := await self.read():
            for line in lines.feed(data):
                if line.strip():
                    yield json.loads(line)

    async def write(self, data: bytes) -> None:
        """Send, waiting while the other side does not read."""
        self._writer.write(data)
        await self._writer.drain()

    def end_writing(self) -> None:
        """Half-close: the other side sees the end, and may go on writing."""
        self._writer.write_eof()

    async def aclose(self) -> None:
        """Close both directions, at once."""
        self._writer.transport.abort()


class DockerStream:
    """An exec or attach session."""

    def __init__(self, session_id: str, connection: Connection, *, tty: bool,
                 exit_code: Callable[[], Awaitable[int | None]],
                 resize: Callable[[int, int], Awaitable[None]]) -> None:
        """`exit_code` answers None while the process runs."""
        self.id = session_id
        self._connection = connection
        self._tty = tty
        self._exit_code = exit_code
        self._resize = resize

    async def output(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        """With a terminal the bytes are bare; else both outputs come in frames."""
        frames = Demultiplexer()
        while data := await self._connection.read():
            if self._tty:
                yield "stdout", data
                continue
            for frame in frames.feed(data):
                yield frame

    async def write(self, data: bytes) -> None:
        """Input for a process that has ended is dropped, as a pipe's would be; its output tells of the end."""
        try:
            await self._connection.write(data)
        except OSError:
            return

    async def close_stdin(self) -> None:
        """Output goes on."""
        try:
            self._connection.end_writing()
        except (OSError, RuntimeError):
            return  # the connection is already closed, and the process's input with it

    async def resize(self, width: int, height: int) -> None:
        """In characters."""
        await self._resize(width, height)

    async def exit_code(self) -> int:
        """Docker ends the stream a moment before it records the exit, so this may ask more than once."""
        backoff = Backoff(initial=0.005, maximum=1.0)
        attempts = 0
        while (code := await self._exit_code()) is None:
            attempts += 1
            await asyncio.sleep(backoff.delay(attempts))
        return code

    async def close(self) -> None:
        """Give up the connection; an exec'd process runs on."""
        await self._connection.aclose()


class Pulled:
    """The progress of an image pull."""

    def __init__(self, connection: Connection, idle: float) -> None:
        """`idle`: seconds without any progress after which to give up."""
        self._connection, self._idle = connection, idle

    async def finish(self) -> None:
        """Read to the end; EngineError with Docker's words for a failure, which comes inside a 200 answer."""
        messages = aiter(self._connection.messages())
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    message = await anext(messages, None)
            except TimeoutError as error:
                raise EngineTimeout(f"the pull made no progress for {self._idle:g} s") from error
            if message is None:
                return
            if "error" in message:
                text = str(message["error"])
                raise (NotFound if "not found" in text or "manifest unknown" in text else EngineError)(text)


async def follow_logs(opened: Callable[[str, str, bool], Awaitable[Connection]],
                      running: Callable[[], Awaitable[bool]] | None, *, tty: bool, since: str,
                      tail: str) -> AsyncGenerator[LogLine, None]:
    """A container's log lines; `opened` takes since, tail and whether to follow. With `running`, until it ends.

    Docker's own follow has its faults. It may end early, when the daemon restarts, or before the last lines of a
    container that ends; then the log is opened again from the last line's time on, and what comes twice is skipped.
    """
    backoff = Backoff(initial=0.05, maximum=5.0)
    failures, begun, following = 0, False, running is not None
    seen = _Seen()
    while True:
        try:
            if begun and running is not None and (following := await running()):
                await asyncio.sleep(backoff.delay(failures))
            connection = await opened(since, tail, following)
        except NotFound:
            if not begun:
                raise
            return  # the container has been removed, and its log with it
        except EngineUnavailable:
            failures += 1
            if not begun or failures > _TRIES:
                raise
            await asyncio.sleep(backoff.delay(failures))
            continue
        begun = True
        seen.reopened()
        try:
            async for line in _log_lines(connection, tty=tty):
                if seen.is_new(line):
                    failures = 0
                    yield line
        except EngineUnavailable:
            if running is None:
                raise
        finally:
            await connection.aclose()
        if not following:
            return
        failures += 1
        if seen.last:
            since, tail = translate.unix_time(seen.last), "all"


class _Seen:
    """Tells lines of a log that have not been given out from those that come again."""

    def __init__(self) -> None:
        self.last = ""
        self._count = 0  # lines given out with the time `last`
        self._skip = 0
        self._recent: dict[int, None] = {}  # hashes of whole lines, the oldest first

    def reopened(self) -> None:
        """The log is read again from `last` on, that time's lines included."""
        self._skip = self._count

    def is_new(self, line: LogLine) -> bool:
        """Whether to give it out."""
        if self._skip and line.time == self.last:
            self._skip -= 1
            return False
        self._skip = 0
        # When the file is rotated, a busy Docker's follow may read the new one twice: lines come again, to the
        # nanosecond. Parts of a long line have one time, and may be equal, but do not end with a line break.
        if line.data.endswith(b"\n"):
            known = hash(line)
            if known in self._recent:
                return False
            self._recent[known] = None
            if len(self._recent) > _RECENT:
                del self._recent[next(iter(self._recent))]
        self._count = self._count + 1 if line.time == self.last else 1
        self.last = line.time
        return True


async def _log_lines(connection: Connection, *, tty: bool) -> AsyncIterator[LogLine]:
    """Without a terminal a frame is an entry of the log: a line, or a part of one longer than 16 KiB."""
    frames, lines = Demultiplexer(), LineSplitter()
    while data := await connection.read():
        if not tty:
            try:
                entries = frames.feed(data)
            except BadStream as error:
                raise EngineError(f"unreadable log: {error}") from error
            for stream, frame in entries:
                yield log_line(stream, frame)
            continue
        for line in lines.feed(data):
            yield log_line("stdout", line)
    if tty and (rest := lines.rest()):
        yield log_line("stdout", rest)
