"""Byte streams over upgraded HTTP connections: the raw one, and one inside WebSocket messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, cast

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

_HIGH = 256 * 1024
"""Bytes that may wait to be read before the peer is held back."""


class Wire(Protocol):
    """Bytes in both directions."""

    async def read(self) -> bytes:
        """The next bytes; b"" when the peer has gone."""

    async def write(self, data: bytes) -> None:
        """Send; waits while the peer does not read. What is written after the end is dropped."""

    async def close(self) -> None:
        """Send what is left, then close."""


class Upgraded(web.StreamResponse):
    """What a handler returns that has answered on the raw connection: nothing is left for aiohttp to send."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing to do."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to do."""


class RawWire(asyncio.Protocol):
    """The request's own connection, taken over from aiohttp.

    A 101 answered by aiohttp would leave its HTTP parser on the connection, so the protocol is replaced first.
    aiohttp's own protocol still hears of the end, and then cancels the handler.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        """Take over; ConnectionResetError where the client has gone already."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport = transport
        self._before = transport.get_protocol()
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        transport.set_protocol(self)

    def switch(self, headers: Iterable[tuple[str, str]]) -> None:
        """Write the 101."""
        lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade"]
        lines += [f"{name}: {value}" for name, value in headers]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def read(self) -> bytes:
        """See Wire."""
        while not self._buffer and not self._ended:
            self._news.clear()
            await self._news.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        if not self._ended:
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """See Wire."""
        if not self._transport.is_closing():
            self._transport.write(data)
            await self._writable.wait()

    async def close(self) -> None:
        """See Wire."""
        self._transport.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Keep the bytes until they are read."""
        self._buffer += data
        self._news.set()
        if len(self._buffer) > _HIGH:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has finished sending; close when all is written."""
        self._end()
        return False

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing comes or goes any more."""
        self._end()
        self._writable.set()
        self._before.connection_lost(exc)

    def _end(self) -> None:
        self._ended = True
        self._news.set()


class WebSocketWire:
    """Binary messages as one stream of bytes (KEP-4006's tunnel)."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        """See Wire."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY and message.data:
                return cast("bytes", message.data)
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return b""

    async def write(self, data: bytes) -> None:
        """See Wire."""
        try:
            await self._socket.send_bytes(data)
        except ConnectionError:
            return

    async def close(self) -> None:
        """See Wire."""
        await self._socket.close()
