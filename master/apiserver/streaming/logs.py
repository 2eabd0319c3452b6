"""pods/log: a container's output as a plain text stream, or as WebSocket messages."""

from __future__ import annotations

import asyncio
import base64

from aiohttp import WSMsgType, web

from master.apiserver.responses import streamed
from master.apiserver.streaming.upgrades import choose
from master.apiserver.websockets import PROTOCOLS, open_websocket, wants_websocket
from master.nodes.streams import NodeStream, StreamOpener
from sampan.pb.node_pb2 import Logs, Open

FORMS = ("binary.k8s.io", "base64.binary.k8s.io")


async def serve(request: web.BaseRequest, streams: StreamOpener, node: str, wanted: Logs) -> web.StreamResponse:
    """Nothing is sent before the node has found the container, so that its refusal is a Status."""
    protocol = choose(request, PROTOCOLS, FORMS, "") if wants_websocket(request) else ""
    session = await streams.open(node, Open(logs=wanted))
    try:
        if wants_websocket(request):
            return await _messages(request, session, protocol)
        return await _text(request, session)
    finally:
        await session.close()


async def _text(request: web.BaseRequest, session: NodeStream) -> web.StreamResponse:
    response = streamed(request, {"Content-Type": "text/plain", "Cache-Control": "no-cache, private"})
    await response.prepare(request)
    while (frame := await session.receive()) is not None:
        kind = frame.WhichOneof("body")
        if kind == "data":
            await response.write(frame.data.data)
        elif kind == "exit":
            await response.write_eof()
            return response
        else:
            break
    # The log broke off: without a proper end of the body, the client can tell.
    response.force_close()
    if request.transport is not None:
        request.transport.abort()
    return response


async def _messages(request: web.BaseRequest, session: NodeStream, protocol: str) -> web.StreamResponse:
    socket = await open_websocket(request, protocol)

    async def outbound() -> None:
        while (frame := await session.receive()) is not None and frame.WhichOneof("body") == "data":
            if protocol.startswith("base64"):
                await socket.send_str(base64.b64encode(frame.data.data).decode())
            else:
                await socket.send_bytes(frame.data.data)

    async def inbound() -> None:
        while (await socket.receive()).type in (WSMsgType.BINARY, WSMsgType.TEXT):
            pass  # a reader of logs has nothing to say

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outbound()), group.create_task(inbound())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    except* ConnectionError:
        pass  # the client has gone
    await socket.close()
    return socket
