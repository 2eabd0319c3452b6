"""exec and attach: a client's WebSocket or SPDY connection on one side, the node's session on the other."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from master.apiserver.streaming.connection import SpdyConnection, SpdyStream
from master.apiserver.streaming.upgrades import VERSION_HEADER, choose, open_spdy, upgrade_required, wants_spdy
from master.apiserver.streaming.wires import Upgraded
from master.apiserver.websockets import PROTOCOLS, open_websocket, wants_websocket
from master.nodes.streams import NodeRefusal, NodeStream, StreamOpener
from sampan.nodeline import ERROR, RESIZE, STDERR, STDIN, STDOUT
from sampan.pb.node_pb2 import Attach, Data, Exec, Open, Resize

Tree = dict[str, Any]
Input = Data | Resize
"""What a client sends: bytes or the end of its input, or the terminal's size."""
Take = Callable[[Input], Awaitable[None]]

WEBSOCKET_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io",
                       "base64.channel.k8s.io")
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
STREAMS_TIMEOUT = 30.0
"""Seconds that a SPDY client has to open all its streams (upstream: 30)."""
SETTLE = 0.02
"""Seconds between the switch of protocols and the first output over a WebSocket.

Go clients up to 1.33 start to read before they have made their streams, and throw away what comes in between ("Unknown
stream id"). A kubelet's command only starts after the switch, which takes longer; here it may have written already.
"""
_CLOSE = 255


class Client(Protocol):
    """The client's side of a session."""

    async def inputs(self, take: Take) -> None:
        """Hand on what it sends, until it goes away."""

    async def output(self, channel: int, data: bytes) -> None:
        """Bytes of stdout or stderr."""

    async def finish(self, status: Tree) -> None:
        """How it ended; then close."""


def exit_status(code: int) -> Tree:
    """A process's end as the v1 Status that clients read the exit code from (v4.channel.k8s.io)."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    text = f"command terminated with exit code {code}"
    return {"metadata": {}, "status": "Failure", "message": f"command terminated with non-zero exit code: {text}",
            "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


def failure_status(message: str) -> Tree:
    """A session that broke."""
    return {"metadata": {}, "status": "Failure", "message": f"Internal error occurred: {message}",
            "reason": "InternalError", "details": {"causes": [{"message": message}]}, "code": 500}


def status_bytes(status: Tree, *, structured: bool) -> bytes:
    """The status as it goes over channel 3; before v4 a failure was plain text, and success nothing."""
    if structured:
        return json.dumps(status, separators=(",", ":")).encode()
    return b"" if status["status"] == "Success" else str(status["message"]).encode()


def parse_resizes(text: str) -> list[Resize]:
    """Terminal sizes: JSON objects one after another; what is something else is passed over."""
    decoder, sizes, position = json.JSONDecoder(), [], 0
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError:
            break
        if isinstance(value, dict):
            width, height = value.get("Width", 0), value.get("Height", 0)
            if isinstance(width, int) and isinstance(height, int) and 0 < width < 65536 and 0 < height < 65536:
                sizes.append(Resize(width=width, height=height))
        while position < len(text) and text[position].isspace():
            position += 1
    return sizes


class WebSocketClient:
    """Messages whose first byte is the channel, plain or in base64 text."""

    def __init__(self, socket: web.WebSocketResponse, protocol: str) -> None:
        self._socket = socket
        self._base64 = "base64" in protocol
        self._structured = protocol.startswith(("v4.", "v5."))
        self._closes = protocol.startswith("v5.")

    async def greet(self, channel: int) -> None:
        """An empty message on the lowest channel that is written: the client sees that the connection stands."""
        await self._send(channel, b"")

    async def inputs(self, take: Take) -> None:
        """See Client."""
        while True:
            message = await self._socket.receive()
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                return
            for item in self._parse(message.data):
                await take(item)

    async def output(self, channel: int, data: bytes) -> None:
        """See Client."""
        await self._send(channel, data)

    async def finish(self, status: Tree) -> None:
        """See Client."""
        data = status_bytes(status, structured=self._structured)
        if data:
            await self._send(ERROR, data)
        await self._socket.close()

    async def _send(self, channel: int, data: bytes) -> None:
        if self._base64:
            await self._socket.send_str(chr(ord("0") + channel) + base64.b64encode(data).decode())
        else:
            await self._socket.send_bytes(bytes((channel,)) + data)

    def _parse(self, message: bytes | str) -> Sequence[Input]:
        if not message:
            return ()
        if isinstance(message, str) and not self._base64:
            message = message.encode()  # the Python client sends its input as text
        elif isinstance(message, str):
            try:
                message = bytes((ord(message[0]) - ord("0") & 0xFF,)) + base64.b64decode(message[1:])
            except binascii.Error:
                return ()
        channel, data = message[0], message[1:]
        if channel == _CLOSE and self._closes:
            return [Data(channel=data[0], end=True)] if data else ()
        if channel == RESIZE:
            return parse_resizes(data.decode("utf-8", "replace"))
        return [Data(channel=STDIN, data=data)] if channel == STDIN and data else ()


class SpdyClient:
    """A SPDY stream for each channel."""

    def __init__(self, connection: SpdyConnection, streams: dict[str, SpdyStream], protocol: str) -> None:
        self._connection = connection
        self._streams = streams
        self._structured = protocol.startswith("v4.")

    async def inputs(self, take: Take) -> None:
        """See Client."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pass_on(self._streams[name], take))
                     for name, pass_on in (("stdin", self._stdin), ("resize", self._resizes)) if name in self._streams]
            await self._connection.closed.wait()
            for task in tasks:
                task.cancel()

    @staticmethod
    async def _stdin(stream: SpdyStream, take: Take) -> None:
        while data := await stream.read():
            await take(Data(channel=STDIN, data=data))
        await take(Data(channel=STDIN, end=True))

    @staticmethod
    async def _resizes(stream: SpdyStream, take: Take) -> None:
        while data := await stream.read():
            for size in parse_resizes(data.decode("utf-8", "replace")):
                await take(size)

    async def output(self, channel: int, data: bytes) -> None:
        """See Client."""
        stream = self._streams.get("stderr" if channel == STDERR else "stdout")
        if stream is not None:
            await stream.write(data)

    async def finish(self, status: Tree) -> None:
        """See Client."""
        error = self._streams.get("error")
        data = status_bytes(status, structured=self._structured)
        if error is not None and data:
            await error.write(data)
        for stream in self._streams.values():
            await stream.finish()
        await self._connection.close()


async def serve(request: web.BaseRequest, streams: StreamOpener, node: str,
                wanted: Exec | Attach) -> web.StreamResponse:
    """Open the session on the node, then switch protocols."""
    ask = Open(exec=wanted) if isinstance(wanted, Exec) else Open(attach=wanted)
    if wants_websocket(request):
        protocol = choose(request, PROTOCOLS, WEBSOCKET_PROTOCOLS, "")
    elif wants_spdy(request):
        protocol = choose(request, VERSION_HEADER, SPDY_PROTOCOLS, "")
    else:
        raise upgrade_required()
    try:
        session = await streams.open(node, ask)
    except NodeRefusal as refusal:
        return await _refused(request, wanted, protocol, refusal)
    try:
        if wants_websocket(request):
            return await _over_websocket(request, session, wanted, protocol)
        return await _over_spdy(request, session, wanted, protocol)
    finally:
        await session.close()


async def _over_websocket(request: web.BaseRequest, session: NodeStream, wanted: Exec | Attach,
                          protocol: str) -> web.StreamResponse:
    socket = await open_websocket(request, protocol)
    with suppress(ConnectionError):  # the client has gone: closing the session is all there is to do
        await interact(await _greeted(socket, wanted, protocol), session)
    return socket


async def _greeted(socket: web.WebSocketResponse, wanted: Exec | Attach, protocol: str) -> WebSocketClient:
    """The client, once it is ready to read."""
    client = WebSocketClient(socket, protocol)
    await client.greet(STDOUT if wanted.stdout else STDERR if wanted.stderr else ERROR)
    await asyncio.sleep(SETTLE)
    return client


async def _refused(request: web.BaseRequest, wanted: Exec | Attach, protocol: str,
                   refusal: NodeRefusal) -> web.StreamResponse:
    """The node's refusal in the form in which upstream's clients know it, so that the words users see are the same.

    For v5 upstream's API server has taken the handshake before it asks the kubelet: the refusal comes on the error
    channel (StreamTranslatorHandler). In the older dialects the kubelet's own answer is passed on, which is plain
    text; clients put "unable to upgrade connection" before it.
    """
    if not protocol.startswith("v5."):
        return web.Response(status=refusal.code, text=refusal.message)
    socket = await open_websocket(request, protocol)
    with suppress(ConnectionError):
        client = await _greeted(socket, wanted, protocol)
        await client.finish(failure_status(f"unable to upgrade connection: {refusal.message}"))
    return socket


def _expected(wanted: Exec | Attach, protocol: str) -> set[str]:
    names = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(wanted, name)}
    resizes = wanted.tty and protocol not in ("", "channel.k8s.io", "v2.channel.k8s.io")
    return names | ({"resize"} if resizes else set())


async def _over_spdy(request: web.BaseRequest, session: NodeStream, wanted: Exec | Attach,
                     protocol: str) -> web.StreamResponse:
    connection = open_spdy(request, protocol)
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(connection.run())
        try:
            async with asyncio.timeout(STREAMS_TIMEOUT):
                streams = await _collect(connection, _expected(wanted, protocol))
            if streams is not None:
                await interact(SpdyClient(connection, streams, protocol), session)
        except TimeoutError:
            await connection.close()
        finally:
            reader.cancel()
    return Upgraded()


async def _collect(connection: SpdyConnection, expected: set[str]) -> dict[str, SpdyStream] | None:
    """The client's streams by their type; None where it goes away before all are there."""
    found: dict[str, SpdyStream] = {}
    async for stream in connection.accept():
        found[stream.headers.get("streamtype", "").lower()] = stream
        if expected <= found.keys():
            return found
    return None


async def interact(client: Client, session: NodeStream) -> None:
    """Pass everything both ways until the process ends or the client goes away."""
    async def take(item: Input) -> None:
        if isinstance(item, Resize):
            await session.resize(item.width, item.height)
        elif item.end:
            await session.end(item.channel)
        else:
            await session.send(item.channel, item.data)

    async with asyncio.TaskGroup() as group:
        outbound = group.create_task(_outbound(client, session))
        listener = group.create_task(client.inputs(take))
        await asyncio.wait((outbound, listener), return_when=asyncio.FIRST_COMPLETED)
        listener.cancel()
        outbound.cancel()
    if not outbound.cancelled() and (status := outbound.result()) is not None:
        await client.finish(status)


async def _outbound(client: Client, session: NodeStream) -> Tree | None:
    """Pass on what the process writes; returns how it ended, None where the client has gone."""
    while (frame := await session.receive()) is not None:
        kind = frame.WhichOneof("body")
        if kind == "data" and frame.data.data:
            try:
                await client.output(frame.data.channel, frame.data.data)
            except ConnectionError:
                return None
        elif kind == "exit":
            return exit_status(frame.exit.code)
        elif kind == "failure":
            return failure_status(frame.failure.message)
    return failure_status("the connection to the node was lost")
