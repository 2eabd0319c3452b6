"""pods/proxy, services/proxy and nodes/proxy: a request to a pod or a node, carried over the line of the node's agent.

So `kubectl get --raw /api/v1/nodes/NAME/proxy/metrics` works from wherever the API server can be reached, without a way
from there to the node or its pods. Who may ask is decided before this: the proxied side never sees the client's
credentials. What is changed on the way is what upstream's proxy changes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import h11
from aiohttp import web

from master.apiserver.handlers import ask_for_body
from master.apiserver.streaming.places import Place
from master.apiserver.streaming.rewriting import LIMIT, Links
from master.apiserver.streaming.upgrades import wants_upgrade
from master.apiserver.streaming.wires import RawWire, Upgraded
from master.apiserver.websockets import offered
from master.nodes.streams import NodeStream, StreamOpener
from sampan.api.errors import ApiError, bad_request
from sampan.nodeline import STDIN
from sampan.pb.node_pb2 import Open, Proxy

Header = tuple[bytes, bytes]

_TARGET = re.compile(r"(?:https?://[^/?]*+)?"
                     r"(?P<prefix>/++api/++v1(?:/++namespaces/++[^/?]++)?(?:/++[^/?]++){2}/++proxy)"
                     r"(?P<rest>(?:/[^?]*+)?)(?P<query>(?:\?.*+)?)", re.DOTALL)
_ASCII = "".join(map(chr, range(0x21, 0x7f)))
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
                         b"transfer-encoding", b"upgrade"))
"""About one connection, not about the message (RFC 9110, 7.6.1)."""
_OURS = frozenset((b"authorization", b"expect", b"host", b"content-length", b"sec-websocket-protocol"))
"""Headers of a request that end here, or are made anew."""
_REPLACED = (b"x-forwarded-for", b"x-forwarded-uri")
HEAD_LIMIT = 1024 * 1024
"""Bytes of an answer's headers; h11's own limit is what servers take, not what they may answer."""
_UNPACKED = frozenset(("gzip", "deflate", "br", "zstd"))
"""Codings that aiohttp takes off a request's body."""


def split_target(raw_path: str) -> tuple[str, str, str]:
    """What leads to the proxy, what follows it (encoded as it came), and the query with its mark.

    What may not stand in a URL is encoded; in the first of them quotes, too, since it is put into pages.
    """
    match = _TARGET.fullmatch(raw_path)
    if match is None:
        raise bad_request("the path of a proxied request is not understood")
    rest, query = (quote(match[name], safe=_ASCII, errors="surrogateescape") for name in ("rest", "query"))
    return quote(match["prefix"], safe="/:%", errors="surrogateescape"), rest, query


async def serve(request: web.BaseRequest, streams: StreamOpener, place: Place) -> web.StreamResponse:
    """Ask, and pass the answer on; ApiError 503 where none comes."""
    prefix, path, query = split_target(request.raw_path)
    # Relative links would miss the last part of the path. (Who opens a WebSocket follows no redirect.)
    if not path and request.method in ("GET", "HEAD") and not wants_upgrade(request):
        return web.Response(status=HTTPStatus.MOVED_PERMANENTLY, headers={"Location": f"{prefix}/{query}"})
    links = Links(prefix, place.address or place.node, request.host)
    session = await streams.open(place.node, Open(proxy=Proxy(address=place.address, tls=place.tls)))
    try:
        return await _Exchange(request, session, links).run((path or "/") + query)
    except h11.ProtocolError as error:
        raise _unreachable(str(error)) from error
    finally:
        await session.close()


class _Exchange:
    """One request and its answer."""

    def __init__(self, request: web.BaseRequest, session: NodeStream, links: Links) -> None:
        self._request = request
        self._session = session
        self._links = links
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._upgrade = wants_upgrade(request)

    async def run(self, target: str) -> web.StreamResponse:
        headers = list(forwarded(self._request, self._links.prefix + target.partition("?")[0], upgrade=self._upgrade))
        await self._send(h11.Request(method=self._request.method, target=target, headers=headers))
        if not self._request.content.is_eof():
            await ask_for_body(self._request)
        # An answer may come before the end of the body, and makes the rest needless.
        async with _beside(self._send_body()), \
                aclosing(events(self._connection, self._session)) as answer:  # type: ignore[type-var]
            return await self._pass_on(answer)

    async def _send(self, event: h11.Event) -> None:
        await self._session.send(STDIN, self._connection.send(event) or b"")

    async def _send_body(self) -> None:
        try:
            async for piece in self._request.content.iter_any():
                await self._send(h11.Data(data=piece))
            await self._send(h11.EndOfMessage())
        except (web.RequestPayloadError, h11.LocalProtocolError):
            await self._session.close()  # the other side would wait for the rest for ever

    async def _pass_on(self, answer: AsyncIterator[h11.Event]) -> web.StreamResponse:
        async for event in answer:
            if isinstance(event, h11.InformationalResponse) and event.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                return await self._switch(event)
            if isinstance(event, h11.Response):
                return await self._answer(event, answer)
        raise _unreachable("EOF")

    async def _answer(self, head: h11.Response, answer: AsyncIterator[h11.Event]) -> web.StreamResponse:
        headers = list(kept(head.headers, self._links))
        response = web.StreamResponse(status=head.status_code, reason=head.reason.decode("latin-1"))
        if _is_page(headers) and self._request.method != "HEAD":
            return await self._page(response, headers, answer)
        return await self._stream(response, headers, answer)

    async def _stream(self, response: web.StreamResponse, headers: Iterable[Header],
                      answer: AsyncIterator[h11.Event]) -> web.StreamResponse:
        _set(response, headers)
        await response.prepare(self._request)
        async for event in answer:
            if isinstance(event, h11.Data):
                await response.write(event.data)
            elif isinstance(event, h11.EndOfMessage):
                await response.write_eof()
                return response
        return self._broken(response)

    async def _page(self, response: web.StreamResponse, headers: list[Header],
                    answer: AsyncIterator[h11.Event]) -> web.StreamResponse:
        content = bytearray()
        async for event in answer:
            if isinstance(event, h11.Data):
                content += event.data
                if len(content) > LIMIT:
                    return await self._stream(response, headers, _after(bytes(content), answer))
            elif isinstance(event, h11.EndOfMessage):
                break
        else:
            raise _unreachable("unexpected EOF")
        coding = next((value.decode("latin-1") for name, value in headers if name == b"content-encoding"), "")
        try:
            page = await asyncio.to_thread(self._links.packed_page, bytes(content), coding)
        except ValueError:
            page = bytes(content)  # whatever it is, the client may know better
        _set(response, [header for header in headers if header[0] != b"content-length"])
        response.content_length = len(page)
        await response.prepare(self._request)
        await response.write(page)
        await response.write_eof()
        return response

    async def _switch(self, head: h11.InformationalResponse) -> web.StreamResponse:
        """The two speak something else from here on."""
        wire = RawWire(self._request)
        wire.switch((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers
                    if name != b"connection")
        early, _ = self._connection.trailing_data
        await wire.write(early)

        async def up() -> None:
            while data := await wire.read():
                await self._session.send(STDIN, data)

        async with _beside(up()):
            while data := await _receive(self._session):
                await wire.write(data)
        await wire.close()
        return Upgraded()

    def _broken(self, response: web.StreamResponse) -> web.StreamResponse:
        """It broke off within the body: without a proper end the client can tell."""
        response.force_close()
        if self._request.transport is not None:
            self._request.transport.abort()
        return response


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something that goes on for as long as the block, at most; how it ends, the other direction tells."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def forwarded(request: web.BaseRequest, uri: str, *, upgrade: bool) -> Iterator[Header]:
    """The request's headers as the target gets them, without what says who the client is to the API server."""
    unpacked = request.headers.get("Content-Encoding", "").lower() in _UNPACKED
    left_out = _connections_own((name.lower(), value) for name, value in request.raw_headers) | _OURS | {
        *_REPLACED, *((b"content-encoding",) if unpacked else ())}
    yield b"host", _bytes(request.host)
    for name, value in request.raw_headers:
        lower = name.lower()
        if lower not in left_out and not lower.startswith(b"impersonate-"):
            yield name, value
    before = request.headers.getall("X-Forwarded-For", ())
    yield _REPLACED[0], _bytes(", ".join([*before, *([request.remote] if request.remote else [])]))
    yield _REPLACED[1], _bytes(uri)
    if upgrade:
        yield b"connection", b"Upgrade"
        yield b"upgrade", _bytes(request.headers["Upgrade"])
        if protocols := offered(request):
            yield b"sec-websocket-protocol", _bytes(", ".join(protocols))
    else:
        yield b"connection", b"close"
    if unpacked or "Transfer-Encoding" in request.headers:
        yield b"transfer-encoding", b"chunked"
    elif "Content-Length" in request.headers:
        yield b"content-length", request.headers["Content-Length"].encode()


def kept(headers: Iterable[Header], links: Links) -> Iterator[Header]:
    """The answer's headers as the client gets them: redirects lead through here, and nobody else's pages are let in."""
    headers = list(headers)
    left_out = _connections_own(headers)
    for name, value in headers:
        if name == b"location":
            yield name, links.rewritten(value.decode("latin-1")).encode("latin-1")
        elif name not in left_out and not name.startswith(b"access-control-allow-"):
            yield name, value


def _connections_own(headers: Iterable[Header]) -> frozenset[bytes]:
    """Names of headers that are about one connection: those that always are, and those that it names itself."""
    return _HOP_BY_HOP.union(part.strip().lower() for name, value in headers if name == b"connection"
                             for part in value.split(b","))


def _bytes(text: str) -> bytes:
    """As it came: aiohttp keeps what is not UTF-8 in surrogates."""
    return text.encode("utf-8", "surrogateescape")


def _is_page(headers: Iterable[Header]) -> bool:
    known = dict(headers)
    return b"location" not in known and known.get(b"content-type", b"").partition(b";")[0].strip() == b"text/html"


def _set(response: web.StreamResponse, headers: Iterable[Header]) -> None:
    for name, value in headers:
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))


async def _after(content: bytes, answer: AsyncIterator[h11.Event]) -> AsyncIterator[h11.Event]:
    yield h11.Data(data=content)
    async for event in answer:
        yield event


async def events(connection: h11.Connection, session: NodeStream) -> AsyncIterator[h11.Event]:
    """What is answered, until the end of the message or of the session."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await _receive(session)
            if data is None or (not data and connection.their_state is not h11.SEND_BODY):
                return
            connection.receive_data(data)  # b"" may be the end of a body whose length was not told
        elif isinstance(event, h11.Event):
            yield event
            if isinstance(event, h11.EndOfMessage):
                return
        else:
            return


async def _receive(session: NodeStream) -> bytes | None:
    """The next bytes; b"" at the end, None where the session is lost."""
    while (frame := await session.receive()) is not None:
        kind = frame.WhichOneof("body")
        if kind in ("failure", "exit"):
            return None
        if kind == "data" and (frame.data.data or frame.data.end):
            return frame.data.data
    return None


def _unreachable(why: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", f"error trying to reach service: {why}")
