"""HTTP/1.1 on any two-way stream of bytes (RFC 9112), for requests that only read. h11 does the parsing.

The node's port uses it over TLS, and requests that come through the API server over the line to the master.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

import h11

log = logging.getLogger(__name__)

IDLE_SECONDS = 90.0
"""How long a connection may stay without a whole request: Prometheus keeps its own between scrapes."""
HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 64 * 1024
"""Bytes of a body that are read and thrown away: nothing here takes one."""
ANSWER_SECONDS = 60.0
WRITE_SECONDS = 30.0
_COMPRESS_FROM = 1024
_PIECE = 256 * 1024
TEXT = "text/plain; charset=utf-8"


class Wire(Protocol):
    """One connection."""

    async def read(self) -> bytes:
        """Some bytes; b"" at the end."""

    async def write(self, data: bytes) -> None:
        """Send; waits while the other side is slow. OSError once it has gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body. Header names are in lower case; of a header that comes twice the last counts."""

    method: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, status: int, message: str) -> Response:
        """Plain text, as upstream's kubelet words its refusals."""
        return cls(status, message.encode())

    @classmethod
    def json(cls, tree: Any) -> Response:
        """A JSON document."""
        return cls(200, json.dumps(tree).encode(), "application/json")


Handler = Callable[[Request], Awaitable[Response]]


async def converse(wire: Wire, handle: Handler, *, idle: float = IDLE_SECONDS) -> None:
    """Answer the requests of one connection until it ends; OSError where it breaks."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    while True:
        try:
            async with asyncio.timeout(idle):
                request = await _read_request(connection, wire)
        except TimeoutError:
            return
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                status = max(error.error_status_hint, 400)
                await _send(connection, wire, Response.text(status, f"{HTTPStatus(status).phrase}: {error}"), b"GET")
            return
        if request is None:
            return
        method, response = await _answer(request, handle)
        await _send(connection, wire, response, method)
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _answer(event: h11.Request, handle: Handler) -> tuple[bytes, Response]:
    if event.method not in (b"GET", b"HEAD"):
        return event.method, Response(405, b"Method Not Allowed", headers={"Allow": "GET, HEAD"})
    request = _parse(event)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            response = await handle(request)
    except TimeoutError:
        response = Response.text(504, f"no answer within {ANSWER_SECONDS:.0f} s")
    except Exception:  # one request's fault must not end the server
        log.exception("%s %s failed", request.method, request.path)
        response = Response.text(500, "Internal Server Error")
    if len(response.body) >= _COMPRESS_FROM and accepts_gzip(request.headers.get("accept-encoding", "")):
        body = await asyncio.to_thread(gzip.compress, response.body, 1)
        headers = {**response.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        response = Response(response.status, body, response.content_type, headers)
    return event.method, response


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header names gzip and does not refuse it (RFC 9110, 12.5.3)."""
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _parse(event: h11.Request) -> Request:
    target = event.target.decode("ascii", "replace")
    if target.startswith(("http://", "https://")):  # the absolute form (RFC 9112, 3.2.2)
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    path, _, query = target.partition("?")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        fields = {}
    return Request(event.method.decode("ascii"), unquote(path), fields, headers)


async def _read_request(connection: h11.Connection, wire: Wire) -> h11.Request | None:
    """The next request, its body read and dropped; None where the other side has closed the connection.

    The body of a method that is refused anyway is not waited for: the connection ends after the answer.
    """
    request, size = None, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await wire.read())
        elif isinstance(event, h11.Request):
            request = event
            if event.method not in (b"GET", b"HEAD"):
                return request
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > BODY_LIMIT:
                raise h11.RemoteProtocolError("the request's body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            return request
        else:  # closed, or paused behind a request that we have not answered
            return None


async def _send(connection: h11.Connection, wire: Wire, response: Response, method: bytes) -> None:
    headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body))),
               ("X-Content-Type-Options", "nosniff"), *response.headers.items()]
    if connection.their_state is not h11.DONE:
        headers.append(("Connection", "close"))
    data = connection.send(h11.Response(status_code=response.status, headers=headers,
                                        reason=HTTPStatus(response.status).phrase.encode())) or b""
    if method != b"HEAD":
        for start in range(0, len(response.body), _PIECE):
            data += connection.send(h11.Data(data=response.body[start:start + _PIECE])) or b""
            await _write(wire, data)
            data = b""
    data += connection.send(h11.EndOfMessage()) or b""
    await _write(wire, data)


async def _write(wire: Wire, data: bytes) -> None:
    if not data:
        return
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await wire.write(data)
    except TimeoutError as error:
        raise ConnectionAbortedError(f"the client took nothing for {WRITE_SECONDS:.0f} s") from error
