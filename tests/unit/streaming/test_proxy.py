"""Proxied requests: where they go, and what is made of the answers. The other side is a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from urllib.parse import urlsplit

import aiohttp
import h11
import pytest
from aiohttp import web

from agent.link.dial import DialFailed, dial
from master.apiserver.responses import refuse
from master.apiserver.streaming.places import Place
from master.apiserver.streaming.proxy import events, serve, split_target
from sampan.api.errors import ApiError
from sampan.nodeline import STDOUT
from sampan.pb.node_pb2 import Data, Exit, Failure, Frame, Open

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"
PREFIX = "/api/v1/namespaces/default/pods/web:80/proxy"


@pytest.mark.parametrize(("path", "prefix", "rest", "query"), [
    ("/api/v1/nodes/a/proxy/metrics", "/api/v1/nodes/a/proxy", "/metrics", ""),
    ("/api/v1/nodes/a/proxy", "/api/v1/nodes/a/proxy", "", ""),
    ("/api/v1/nodes/proxy/proxy/stats?a=b%20c", "/api/v1/nodes/proxy/proxy", "/stats", "?a=b%20c"),
    ("/api/v1/namespaces/proxy/pods/proxy/proxy/x%2Fy", "/api/v1/namespaces/proxy/pods/proxy/proxy", "/x%2Fy", ""),
    ("//api//v1/namespaces/a/services/https:b:c/proxy//d/?x=/proxy/",
     "//api//v1/namespaces/a/services/https:b:c/proxy", "//d/", "?x=/proxy/"),
    ("https://host:6443/api/v1/nodes/a/proxy/x", "/api/v1/nodes/a/proxy", "/x", ""),
    ("/api/v1/nodes/a/proxy/'\u00e9\udcff?\u00e9", "/api/v1/nodes/a/proxy", "/'%C3%A9%FF", "?%C3%A9"),
    ("/api/v1/nodes/a%2Fproxy%2F'onload='x/proxy/y", "/api/v1/nodes/a%2Fproxy%2F%27onload%3D%27x/proxy", "/y", "")])
def test_the_targets_own_path(path: str, prefix: str, rest: str, query: str) -> None:
    assert split_target(path) == (prefix, rest, query)


@pytest.mark.parametrize("path", [
    "/api/v1/nodes/a%2Fproxy/api/v1/nodes/b/proxy/x", "/api/v1/nodes/a/%70roxy/x",
    "/api/v1/nodes/a%2Fproxy%2Fb/proxyx"])
def test_a_path_that_leads_elsewhere(path: str) -> None:
    """Such as pass for a proxied request because a slash is encoded: no part of them is taken for the way to it."""
    with pytest.raises(ApiError) as caught:
        split_target(path)
    assert caught.value.code == 400


class Said:
    """A session that says what it was given."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = list(frames)

    async def receive(self) -> Frame | None:
        return self._frames.pop(0) if self._frames else None

    async def send(self, channel: int, data: bytes) -> None: ...
    async def end(self, channel: int) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close(self) -> None: ...


async def heard(*frames: Frame) -> list[type[h11.Event]]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "node")]))
    connection.send(h11.EndOfMessage())
    return [type(event) async for event in events(connection, Said(frames))]


def data(content: bytes) -> Frame:
    return Frame(data=Data(channel=STDOUT, data=content))


END = Frame(data=Data(channel=STDOUT, end=True))
LOST = [Frame(failure=Failure(code=500)), Frame(exit=Exit(code=0))]


async def test_an_answer_in_pieces() -> None:
    frames = [data(ANSWER[start:start + 7]) for start in range(0, len(ANSWER), 7)]
    seen = await heard(*frames)
    assert seen[0] is h11.Response
    assert set(seen[1:-1]) == {h11.Data}
    assert seen[-1] is h11.EndOfMessage


@pytest.mark.parametrize("end", LOST)
async def test_an_answer_that_breaks_off(end: Frame) -> None:
    assert await heard(data(ANSWER[:-2]), end) == [h11.Response, h11.Data]
    assert await heard(end) == []
    assert await heard(END) == []
    assert await heard(data(ANSWER[:-2])) == [h11.Response, h11.Data]


@pytest.mark.parametrize("end", LOST)
async def test_an_answer_that_lasts_until_the_end_of_the_connection(end: Frame) -> None:
    """Whether it is whole, only the way in which it ends tells."""
    head = b"HTTP/1.0 200 OK\r\n\r\nhello"
    assert await heard(data(head), END) == [h11.Response, h11.Data, h11.EndOfMessage]
    assert await heard(data(head), end) == [h11.Response, h11.Data]


async def test_no_http() -> None:
    with pytest.raises(h11.RemoteProtocolError):
        await heard(data(b"SSH-2.0-OpenSSH\r\n\r\n"))


# With a server


class Piped:
    """A session with a real connection at its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive(self) -> Frame | None:
        read = await self._reader.read(1000)
        return data(read) if read else END

    async def send(self, channel: int, data: bytes) -> None:
        self._writer.write(data)

    async def end(self, channel: int) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...

    async def close(self) -> None:
        self._writer.close()


class Streams:
    """Reaches what the request names, as the agent does."""

    async def open(self, node: str, request: Open) -> Piped:
        try:
            return Piped(*await dial(request.proxy.address, tls=request.proxy.tls))
        except DialFailed as error:
            raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {error}") from error


async def answer(request: web.Request) -> web.StreamResponse:
    """A pod's server: it tells what it was asked."""
    if request.path == "/page":
        page = gzip.compress(b"<a href=/x>x</a>") if "gzip" in request.query else b"<a href='/x?y=z'>x</a>"
        coding = {"Content-Encoding": "gzip"} if "gzip" in request.query else {}
        return web.Response(body=page, content_type="text/html", headers=coding)
    if request.path == "/moved":
        return web.Response(status=302, headers={"Location": "/elsewhere/"})
    if request.path == "/socket" or (request.path == "/" and request.headers.get("Upgrade") == "websocket"):
        socket = web.WebSocketResponse(protocols=request.headers.get("Sec-WebSocket-Protocol", "").split(", "))
        socket.headers.extend([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket
    if request.path == "/refuses":
        return web.Response(status=413)  # before it has read the body
    if request.path == "/hop":
        return web.Response(headers={"Connection": "close, X-Hop", "X-Hop": "1", "X-Own": "1"})
    if request.path == "/head":
        return web.Response(headers={"X-Long": "x" * 100_000})
    if request.path == "/large":
        return web.Response(body=b"<a href=/x>" + b" " * (9 << 20), content_type="text/html")
    return web.json_response(
        {"method": request.method, "path": request.raw_path, "body": (await request.read()).decode(),
         "headers": {name.lower(): value for name, value in request.headers.items()}},
        headers={"Access-Control-Allow-Origin": "*", "X-Own": "1"})


@asynccontextmanager
async def front() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A client, and where the proxy to the server is."""
    app = web.Application(client_max_size=32 << 20)
    app.router.add_route("*", "/{rest:.*}", answer)
    behind = web.AppRunner(app)
    await behind.setup()
    site = web.TCPSite(behind, "127.0.0.1", 0)
    await site.start()
    port = behind.addresses[0][1]

    async def proxied(request: web.BaseRequest) -> web.StreamResponse:
        place = Place("n1", "127.0.0.1:1" if "nobody" in request.raw_path else f"127.0.0.1:{port}")
        try:
            return await serve(request, Streams(), place)
        except ApiError as error:
            return refuse(error)

    before = web.ServerRunner(web.Server(proxied, handler_cancellation=True))
    await before.setup()
    await web.TCPSite(before, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as client:
            yield client, f"http://127.0.0.1:{before.addresses[0][1]}{PREFIX}"
    finally:
        await before.cleanup()
        await behind.cleanup()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_with_its_body(method: str) -> None:
    body = "" if method in ("GET", "OPTIONS") else "x" * 100_000
    async with front() as (client, url), client.request(
            method, f"{url}/a%2Fb?c=d", data=body or None, headers={"X-Mine": "1", "Authorization": "Bearer secret",
                                                                    "Impersonate-User": "root"}) as response:
        assert (response.status, response.headers["X-Own"]) == (200, "1")
        assert "Access-Control-Allow-Origin" not in response.headers
        seen = await response.json()
    assert (seen["method"], seen["path"], seen["body"]) == (method, "/a%2Fb?c=d", body)
    headers = seen["headers"]
    assert headers["x-mine"] == "1"
    assert not {"authorization", "impersonate-user"} & set(headers), "the pod must not get to be the client"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-uri"] == f"{PREFIX}/a%2Fb"
    assert f"http://{headers['host']}{PREFIX}" == url, "as upstream: the API server's"


async def test_bodies_without_a_length_and_in_a_coding() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with front() as (client, url):
        async with client.post(f"{url}/", data=pieces()) as response:
            assert (await response.json())["body"] == "one two"
        packed = gzip.compress(b"packed")
        async with client.post(f"{url}/", data=packed, headers={"Content-Encoding": "gzip"}) as response:
            assert (await response.json())["body"] == "packed"


async def test_a_client_that_waits_to_be_asked_for_the_body() -> None:
    async with front() as (_, url):
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(f"PUT {where.path}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n"
                     "Expect: 100-continue\r\n\r\n".encode())
        with closing(writer):
            assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"a body")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            assert b'"body": "a body"' in await reader.readuntil(b"}")


async def test_headers_beyond_ascii() -> None:
    async with front() as (_, url):
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        with closing(writer):
            writer.write(f"GET {where.path}/ HTTP/1.1\r\n".encode() + b"Host: \xff\r\nX-Forwarded-For: \xff\r\n"
                         b"Connection: \xff\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200 ")


async def test_headers_of_an_answer_that_are_about_its_connection() -> None:
    async with front() as (client, url), client.get(f"{url}/hop") as response:
        assert (response.status, response.headers["X-Own"]) == (200, "1")
        assert "X-Hop" not in response.headers


async def test_a_body_that_cannot_be_unpacked() -> None:
    """The pod would wait for its end, and the client for the pod."""
    async with front() as (_, url):
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        with closing(writer):
            writer.write(f"PUT {where.path}/ HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n"
                         "Content-Length: 6\r\n\r\na body".encode())
            assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 503 ")


async def test_head_and_no_path() -> None:
    async with front() as (client, url):
        async with client.head(f"{url}/page") as response:
            assert (response.status, await response.read()) == (200, b"")
        for method in ("GET", "HEAD"):
            async with client.request(method, f"{url}?a=b", allow_redirects=False) as response:
                assert (response.status, response.headers["Location"]) == (301, f"{PREFIX}/?a=b")
        async with client.post(url) as response:
            assert (await response.json())["path"] == "/"


async def test_large_headers_of_an_answer() -> None:
    """More than browsers send back, but nobody else's to refuse."""
    async with front() as (client, url), client.get(f"{url}/head", max_field_size=200_000) as response:
        assert (response.status, len(response.headers["X-Long"])) == (200, 100_000)


async def test_links_lead_through_the_proxy() -> None:
    async with front() as (client, url):
        async with client.get(f"{url}/page") as response:
            assert await response.text() == f"<a href='{PREFIX}/x?y=z'>x</a>"
        async with client.get(f"{url}/page?gzip") as response:
            assert await response.text() == f"<a href={PREFIX}/x>x</a>"
        async with client.get(f"{url}/moved", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, f"{PREFIX}/elsewhere/")
        async with client.get(f"{url}/large") as response:
            assert (await response.read())[:20] == b"<a href=/x>" + b" " * 9, "too long to be rewritten"


async def test_an_answer_before_the_end_of_the_body() -> None:
    endless = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await endless.wait()

    async with front() as (client, url), client.post(f"{url}/refuses", data=pieces()) as response:
        assert response.status == 413


async def test_a_websocket() -> None:
    async with front() as (client, url), client.ws_connect(f"{url}/socket") as socket:
        assert socket._response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
        for word in ("one", "two"):
            await socket.send_str(word)
            assert (await socket.receive()).data == word.upper()


async def test_a_websocket_s_token_stays_here() -> None:
    """It stands among the protocols; the pod must not get to be the client."""
    token = "base64url.bearer.authorization.k8s.io.c2VjcmV0"
    async with front() as (client, url):
        async with client.ws_connect(f"{url}/socket", protocols=[token, "chat"]) as socket:
            assert socket.protocol == "chat"
        async with client.get(f"{url}/", headers={"Sec-WebSocket-Protocol": f"{token}, chat"}) as response:
            assert "c2VjcmV0" not in str(await response.json())
        async with client.ws_connect(f"{url}/socket", protocols=[token]) as socket:
            assert socket.protocol is None


async def test_a_websocket_at_the_root() -> None:
    """No browser follows a redirect there."""
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    async with front() as (client, url), client.get(url, headers=asked, allow_redirects=False) as response:
        assert response.status == 101


async def test_an_upgrade_that_is_not_made_keeps_its_body() -> None:
    """As clients offer HTTP/2, which most servers pass over."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    async with front() as (client, url), client.post(f"{url}/", data="a body", headers=offer) as response:
        assert (await response.json())["body"] == "a body"


async def test_a_handshake_that_is_refused() -> None:
    async with front() as (client, url):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.ws_connect(f"{url}/refuses")
        assert caught.value.status == 413


async def test_nobody_answers() -> None:
    async with front() as (client, url), client.get(url.replace("web:80", "nobody") + "/") as response:
        assert response.status == 503
        assert (await response.json())["message"] == (
            "error trying to reach service: dial tcp 127.0.0.1:1: connect: connection refused")
