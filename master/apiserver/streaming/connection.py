"""A SPDY connection with its streams, from the server's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from master.apiserver.streaming import spdy
from master.apiserver.streaming.wires import Wire
from sampan.nodeline import CHUNK

_BUFFER = 1024 * 1024
"""Bytes that one stream may hold unread; beyond that the whole connection waits, as with every SPDY server in use."""
UNREAD = 16 * _BUFFER
"""Bytes that all streams of a connection may hold unread together: one client must not fill the master's memory."""
MAX_STREAMS = 1000
"""Streams open at one time on one connection."""


class SpdyStream:
    """One stream that the client has opened."""

    def __init__(self, connection: SpdyConnection, number: int, headers: Mapping[str, str]) -> None:
        self.number = number
        self.headers = headers
        self._connection = connection
        self._buffer = bytearray()
        self._counted = 0
        self._news = asyncio.Event()
        self._ended = False
        self._finished = False
        self._discarding = False
        self.was_reset = asyncio.Event()
        """Set when the client has given the stream up, or the connection is lost."""

    async def read(self) -> bytes:
        """The next bytes; b"" when the client will send no more."""
        while not self._buffer and not self._ended:
            self._news.clear()
            await self._news.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        self._release()
        return data

    async def write(self, data: bytes) -> None:
        """Send; dropped where the stream is finished or was given up."""
        for start in range(0, len(data), CHUNK):
            if self._finished or self.was_reset.is_set():
                return
            await self._connection.send(spdy.Data(self.number, data[start:start + CHUNK]))

    async def finish(self) -> None:
        """Send no more: an empty frame with FIN, which clients expect rather than a reset."""
        if not self._finished and not self.was_reset.is_set():
            self._finished = True
            await self._connection.send(spdy.Data(self.number, fin=True))
            self._connection.retire(self)

    async def reset(self, status: int = spdy.INTERNAL_ERROR) -> None:
        """Give the stream up."""
        if not self.was_reset.is_set():
            self.abandon()
            await self._connection.send(spdy.RstStream(self.number, status))
            self._connection.retire(self)

    def discard(self) -> None:
        """Nobody reads any more: drop what comes, so that other streams are not held up."""
        self._discarding = True
        self._buffer.clear()
        self._release()

    @property
    def done(self) -> bool:
        """Whether both directions have ended."""
        return self.was_reset.is_set() or (self._ended and self._finished)

    # For the connection

    async def take(self, data: bytes, *, fin: bool) -> None:
        """Bytes that have arrived; waits while too many are unread."""
        connection = self._connection
        while (len(self._buffer) > _BUFFER or connection.unread > UNREAD) and not self._discarding and not self._ended:
            connection.space.clear()
            await connection.space.wait()
        if not self._discarding and not self._ended:  # nothing comes after the end
            self._buffer += data
            self._counted += len(data)
            connection.unread += len(data)
        if fin:
            self._ended = True
        self._news.set()

    def abandon(self) -> None:
        """The stream is no more."""
        self._ended = True
        self.was_reset.set()
        self._news.set()
        self._release()

    def _release(self) -> None:
        """What is held does not hold the connection back any more."""
        self._connection.unread -= self._counted
        self._counted = 0
        self._connection.space.set()


class SpdyConnection:
    """Reads frames and hands them to their streams; `run` it beside what uses `accept`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._framer = spdy.Framer()
        self._lock = asyncio.Lock()
        self._streams: dict[int, SpdyStream] = {}
        self._opened: asyncio.Queue[SpdyStream | None] = asyncio.Queue()
        self._last = 0
        self.unread = 0
        """Bytes that the streams hold; `space` is set when they become fewer."""
        self.space = asyncio.Event()
        self.closed = asyncio.Event()
        """Set when the client has gone."""

    async def run(self) -> None:
        """Until the client goes away or breaks the protocol."""
        try:
            while data := await self._wire.read():
                for frame in self._framer.feed(data):
                    await self._handle(frame)
        except spdy.SpdyError:
            await self.send(spdy.GoAway(self._last, spdy.PROTOCOL_ERROR))
        finally:
            self.closed.set()
            for stream in self._streams.values():
                stream.abandon()
            self._streams.clear()
            self._opened.put_nowait(None)

    async def accept(self) -> AsyncIterator[SpdyStream]:
        """The streams that the client opens, each already answered, until it goes away."""
        while (stream := await self._opened.get()) is not None:
            yield stream

    async def send(self, frame: spdy.Frame) -> None:
        """Send one frame; waits while the client reads too slowly."""
        async with self._lock:
            await self._wire.write(self._framer.encode(frame))

    async def close(self) -> None:
        """Say goodbye and close."""
        await self.send(spdy.GoAway(self._last))
        await self._wire.close()

    def retire(self, stream: SpdyStream) -> None:
        """Forget a stream whose both ends are closed."""
        if stream.done:
            self._streams.pop(stream.number, None)

    async def _handle(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.SynStream(number, headers, fin):
                await self._open(number, headers, fin=fin)
            case spdy.Data(number, data, fin):
                stream = self._streams.get(number)
                if stream is not None:
                    await stream.take(data, fin=fin)
                    self.retire(stream)
            case spdy.RstStream(number, _):
                stream = self._streams.pop(number, None)
                if stream is not None:
                    stream.abandon()
            case spdy.Ping(number) if number % 2:  # the client's; even ones would be answers to ours
                await self.send(frame)
            case _:
                pass

    async def _open(self, number: int, headers: Mapping[str, str], *, fin: bool) -> None:
        if number <= self._last or number % 2 == 0:
            raise spdy.SpdyError(f"stream {number} after {self._last}")
        self._last = number
        if len(self._streams) >= MAX_STREAMS:
            await self.send(spdy.RstStream(number, spdy.REFUSED_STREAM))
            return
        stream = SpdyStream(self, number, headers)
        self._streams[number] = stream
        await stream.take(b"", fin=fin)
        await self.send(spdy.SynReply(number))
        self._opened.put_nowait(stream)
