"""port-forward in its three dialects: SPDY, SPDY inside WebSocket messages, and bare WebSocket channels.

Go's clients open, for each connection, a SPDY stream of type error and one of type data with the same port and
request id. The Python client opens one WebSocket with ``?ports=`` and speaks two channels a port.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from master.apiserver.request import Query
from master.apiserver.streaming.connection import SpdyConnection, SpdyStream
from master.apiserver.streaming.upgrades import VERSION_HEADER, choose, open_spdy, upgrade_required, wants_spdy
from master.apiserver.streaming.wires import Upgraded, WebSocketWire
from master.apiserver.websockets import PROTOCOLS, open_websocket, wants_websocket
from master.nodes.streams import NodeStream, StreamOpener
from sampan.api.errors import ApiError, bad_request
from sampan.nodeline import STDIN
from sampan.pb.node_pb2 import Open, PodRef, PortForward

TUNNEL = "SPDY/3.1+portforward.k8s.io"
SPDY_PROTOCOL = "portforward.k8s.io"
CHANNELS = ("v4.channel.k8s.io", "v5.channel.k8s.io")
_PAIR_TIMEOUT = 30.0
_CLOSE = 255


@dataclass(frozen=True, slots=True)
class Target:
    """The pod whose ports are forwarded, and its node."""

    streams: StreamOpener
    node: str
    pod: PodRef

    async def connect(self, port: int) -> NodeStream:
        """A connection to a port of the pod; ApiError where there is none."""
        return await self.streams.open(self.node, Open(port_forward=PortForward(pod=self.pod, port=port)))

    def failed(self, port: int, why: str) -> bytes:
        """What the client shows."""
        return f"error forwarding port {port} to pod {self.pod.name}, uid {self.pod.uid}: {why}".encode()


async def serve(request: web.BaseRequest, target: Target, query: Query) -> web.StreamResponse:
    """Whichever dialect the client speaks."""
    if wants_websocket(request):
        protocol = choose(request, PROTOCOLS, (TUNNEL, *CHANNELS), CHANNELS[0])
        if protocol == TUNNEL:
            return await _tunnel(request, target)
        return await _channels(request, target, query)
    if wants_spdy(request):
        choose(request, VERSION_HEADER, (SPDY_PROTOCOL,), SPDY_PROTOCOL)
        await _forward_all(open_spdy(request, SPDY_PROTOCOL), target)
        return Upgraded()
    raise upgrade_required()


async def _tunnel(request: web.BaseRequest, target: Target) -> web.StreamResponse:
    socket = await open_websocket(request, TUNNEL)
    await _forward_all(SpdyConnection(WebSocketWire(socket)), target)
    return socket


# SPDY


async def _forward_all(connection: SpdyConnection, target: Target) -> None:
    """Serve stream pairs until the client goes away."""
    waiting: dict[str, dict[str, SpdyStream]] = {}
    async with asyncio.TaskGroup() as connections, asyncio.TaskGroup() as group:
        reader = group.create_task(connection.run())
        async for stream in connection.accept():
            kind, port = stream.headers.get("streamtype", ""), stream.headers.get("port", "")
            if kind not in ("error", "data") or not _port(port):
                await stream.reset()
                continue
            # Clients older than request ids open the pair one after the other.
            number = stream.number if kind == "error" else stream.number - 2
            pair = waiting.setdefault(stream.headers.get("requestid", f"stream {number}"), {})
            pair[kind] = stream
            if len(pair) == 2:
                waiting = {name: other for name, other in waiting.items() if other is not pair}
                connections.create_task(_forward(target, int(port), pair["data"], pair["error"]))
        reader.cancel()


def _port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


async def _forward(target: Target, port: int, data: SpdyStream, error: SpdyStream) -> None:
    """One connection."""
    try:
        session = await target.connect(port)
    except ApiError as refusal:
        await error.write(target.failed(port, refusal.message))
    else:
        try:
            problem = await _copy(data, session)
            if problem:
                await error.write(target.failed(port, problem))
        finally:
            await session.close()
    data.discard()
    error.discard()
    await data.finish()
    await error.finish()


async def _copy(data: SpdyStream, session: NodeStream) -> str:
    """Both ways, until both sides have ended or the client gives up; returns what went wrong."""
    async def inbound() -> None:
        while chunk := await data.read():
            await session.send(STDIN, chunk)
        if not data.was_reset.is_set():
            await session.end(STDIN)

    async def outbound() -> str:
        while (frame := await session.receive()) is not None:
            kind = frame.WhichOneof("body")
            if kind == "failure":
                return str(frame.failure.message)
            if kind == "data" and frame.data.end:
                await data.finish()
            elif kind == "data":
                await data.write(frame.data.data)
        return ""

    async with asyncio.TaskGroup() as group:
        sender = group.create_task(inbound())
        receiver = group.create_task(outbound())
        given_up = group.create_task(_wait(data.was_reset))
        await asyncio.wait((receiver, given_up), return_when=asyncio.FIRST_COMPLETED)
        for task in (sender, receiver, given_up):
            task.cancel()
    return "" if receiver.cancelled() else receiver.result()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


# Channels


def parse_ports(query: Query) -> list[int]:
    """``?ports=80,443&ports=8080``; 400 where there are none or one is no port."""
    texts = [text.strip() for value in query.all("ports") for text in value.split(",") if text.strip()]
    if not texts:
        raise bad_request('query parameter "ports" is required')
    for text in texts:
        if not _port(text):
            raise bad_request(f'invalid port "{text}"')
    if len(texts) > _CLOSE // 2:
        raise bad_request("too many ports")
    return [int(text) for text in texts]


async def _channels(request: web.BaseRequest, target: Target, query: Query) -> web.StreamResponse:
    ports = parse_ports(query)
    protocol = choose(request, PROTOCOLS, CHANNELS, CHANNELS[0])
    socket = await open_websocket(request, protocol)
    try:
        for index, port in enumerate(ports):
            for channel in (2 * index, 2 * index + 1):
                await socket.send_bytes(struct.pack("<BH", channel, port))
        await _Channels(socket, target, ports, closes=protocol.startswith("v5.")).run()
        await socket.close()
    except ConnectionError:
        pass  # the client has gone
    return socket


class _Channels:
    """One connection a port, all over one WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, target: Target, ports: list[int], *, closes: bool) -> None:
        self._socket = socket
        self._target = target
        self._ports = ports
        self._closes = closes
        # Bounded: a port that does not take its data holds up the others, as one WebSocket has one flow.
        self._queues: list[asyncio.Queue[bytes | None]] = [asyncio.Queue(16) for _ in ports]
        self._over: set[int] = set()  # ports whose connections have ended, by index

    async def run(self) -> None:
        """Until the client goes away or every port's connection has ended."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            ports = [group.create_task(self._port(index)) for index in range(len(self._ports))]
            reader.add_done_callback(lambda _: [task.cancel() for task in ports])
            await asyncio.wait(ports)
            reader.cancel()

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                return
            data = message.data if isinstance(message.data, bytes) else message.data.encode()
            if not data:
                continue
            channel, payload = data[0], data[1:]
            if channel == _CLOSE and self._closes:
                channel, payload = payload[0] if payload else _CLOSE, b""
            elif not payload:
                continue
            index = channel // 2
            if channel % 2 == 0 and index < len(self._queues) and index not in self._over:
                await self._queues[index].put(payload or None)

    async def _port(self, index: int) -> None:
        port = self._ports[index]
        try:
            session = await self._target.connect(port)
        except ApiError as refusal:
            with suppress(ConnectionError):  # the client has gone
                await self._fail(index, refusal.message)
            return
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(self._send(index, session))
                while (frame := await session.receive()) is not None:
                    kind = frame.WhichOneof("body")
                    if kind == "failure":
                        await self._fail(index, frame.failure.message)
                        break
                    if kind == "data" and frame.data.end:
                        break
                    if kind == "data":
                        await self._socket.send_bytes(bytes((2 * index,)) + frame.data.data)
                sender.cancel()
        except* ConnectionError:
            pass  # the client has gone
        finally:
            self._drain(index)
            await session.close()

    async def _send(self, index: int, session: NodeStream) -> None:
        while (data := await self._queues[index].get()) is not None:
            await session.send(STDIN, data)
        await session.end(STDIN)

    def _drain(self, index: int) -> None:
        """Nobody takes it any more: what comes is dropped, and the reader waits for room here no longer."""
        self._over.add(index)
        while not self._queues[index].empty():
            self._queues[index].get_nowait()

    async def _fail(self, index: int, why: str) -> None:
        self._drain(index)
        text = self._target.failed(self._ports[index], why)
        await self._socket.send_bytes(bytes((2 * index + 1,)) + text)
