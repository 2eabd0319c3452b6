"""nodes/proxy: a request to a node's own port, carried over the line that its agent keeps open.

So `kubectl get --raw /api/v1/nodes/NAME/proxy/metrics` works from wherever the API server can be reached, without a way
from there to the node. The agent serves it as it serves its port; who may ask is decided here, by nodes/proxy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import h11
from aiohttp import web

from master.nodes.streams import NodeStream, StreamOpener
from sampan.api.errors import ApiError
from sampan.nodeline import STDIN
from sampan.pb.node_pb2 import Open, Proxy

_PREFIX = 6
"""Parts of the path before the target's own: "", api, v1, nodes, NAME, proxy."""
_PASSED = ("accept", "accept-encoding", "user-agent")
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer"))
"""About one connection, not about the answer (RFC 9110, 7.6.1)."""


def target(raw_path: str) -> str:
    """What follows ``/proxy`` in the request's target, encoded as it came, with its query."""
    path, mark, query = raw_path.partition("?")
    return "/" + "/".join(path.split("/")[_PREFIX:]) + mark + query


async def serve(request: web.BaseRequest, streams: StreamOpener, node: str, path: str) -> web.StreamResponse:
    """Ask the node and pass its answer on; ApiError 503 where none comes."""
    session = await streams.open(node, Open(proxy=Proxy()))
    connection = h11.Connection(h11.CLIENT)
    try:
        headers = [(name, request.headers[name]) for name in _PASSED if name in request.headers]
        data = connection.send(h11.Request(method=request.method, target=path, headers=[
            ("Host", node), ("Connection", "close"), *headers]))
        await session.send(STDIN, (data or b"") + (connection.send(h11.EndOfMessage()) or b""))
        async with aclosing(_events(connection, session)) as events:  # type: ignore[type-var]
            return await _pass_on(request, events)
    except h11.ProtocolError as error:
        raise _unreachable(str(error)) from error
    finally:
        await session.close()


async def _pass_on(request: web.BaseRequest, events: AsyncIterator[h11.Event]) -> web.StreamResponse:
    response: web.StreamResponse | None = None
    async for event in events:
        if isinstance(event, h11.Response):
            response = web.StreamResponse(status=event.status_code)
            for name, value in event.headers:
                if name not in _HOP_BY_HOP:
                    response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
            await response.prepare(request)
        elif isinstance(event, h11.Data) and response is not None:
            await response.write(event.data)
        elif isinstance(event, h11.EndOfMessage) and response is not None:
            await response.write_eof()
            return response
    if response is None:
        raise _unreachable("the connection to the node was lost")
    # It broke off within the body: without a proper end the client can tell.
    response.force_close()
    if request.transport is not None:
        request.transport.abort()
    return response


async def _events(connection: h11.Connection, session: NodeStream) -> AsyncIterator[h11.Event]:
    """What the node answers, until the end of its message or of the session."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            frame = await session.receive()
            kind = frame.WhichOneof("body") if frame is not None else None
            if frame is None or kind in ("failure", "exit"):
                return
            if kind == "data" and frame.data.data:
                connection.receive_data(frame.data.data)
        elif isinstance(event, h11.Event):
            yield event
            if isinstance(event, h11.EndOfMessage):
                return
        else:
            return


def _unreachable(why: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", f"error trying to reach service: {why}")
