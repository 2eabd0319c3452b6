"""What the server does with clients that are slow, malicious or broken, below the level of requests."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from master.apiserver import app, handlers, watch
from master.apiserver.auth import StaticTokens
from tests.support.apiserver import Running, api_server

MAPS = "/api/v1/namespaces/default/configmaps"
HOST = b"Host: x\r\n"
GET = f"GET {MAPS} HTTP/1.1\r\n".encode() + HOST
POST = f"POST {MAPS}?dryRun=All HTTP/1.1\r\n".encode() + HOST


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Running]:
    async with api_server(tmp_path) as running:
        yield running


@asynccontextmanager
async def connection(api: Running, receive_buffer: int = 0, *, known: bool = True,
                     ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection as the administrator, or as nobody."""
    context = ssl.create_default_context(cafile=str(api.pki.path("ca.crt")))
    if known:
        context.load_cert_chain(api.directory / "admin.pem")
    plain = socket.socket()
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", api.server.port))
    reader, writer = await asyncio.open_connection(sock=plain, ssl=context, server_hostname="127.0.0.1",
                                                   limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """An answer's code and headers."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), fields


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """A whole answer, read as JSON if it is that."""
    code, fields = await head(reader)
    body = await reader.readexactly(int(fields["Content-Length"]))
    return code, msgspec.json.decode(body) if fields["Content-Type"] == "application/json" else body


async def test_requests_in_a_row(api: Running) -> None:
    async with connection(api) as (reader, writer):
        for path in (b"/version", b"/healthz", MAPS.encode(), b"/nothing", b"https://elsewhere/healthz", b"http://x"):
            writer.write(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert [(await answer(reader))[0] for _ in range(6)] == [200, 200, 200, 404, 200, 200]


@pytest.mark.parametrize("request_", [
    b"GET /version HTTP/1.1\r\n\r\n", b"GET /version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"nonsense\r\n\r\n", b"GET version HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", b"FOO /version HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /version HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /version HTTP/1.1\r\n" + HOST + b"X" * 70_000 + b": a\r\n\r\n",
    b"GET /version HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 5000 + b"\r\n",
    POST + b"Content-Length: -1\r\n\r\n{}", POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
])
async def test_what_is_no_http_is_refused_quietly(api: Running, request_: bytes,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with connection(api) as (reader, writer):
            writer.write(request_)
            assert (await head(reader))[0] == 400
    assert not caplog.records
    assert (await api.request("GET", "/healthz")).body == b"ok"


@pytest.mark.parametrize(("request_", "code"), [
    (POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 400),
    (POST + b"Content-Encoding: nothing\r\nContent-Length: 2\r\n\r\n{}", 422),
    (POST + b"Content-Type: \xff\r\nContent-Length: 2\r\n\r\n{}", 415),
    (GET + b"Accept: \xff\r\n\r\n", 406),
    (GET + b"Impersonate-User: \xff\r\n\r\n", 400),
    (GET + b"Impersonate-User: a\r\nImpersonate-Group: \xff\r\n\r\n", 400),
    (b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"TRACE " + MAPS.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n", 405),
])
async def test_odd_requests_get_a_status(api: Running, request_: bytes, code: int) -> None:
    async with connection(api) as (reader, writer):
        writer.write(request_)
        given, status = await answer(reader)
    assert (given, status["kind"], status["code"]) == (code, "Status", code)


@pytest.mark.parametrize("path", [MAPS, MAPS + "?watch=1", "/api/v1/watch/pods", MAPS + "/none"])
async def test_objects_have_no_head(api: Running, path: str) -> None:
    """As upstream: what is streamed would come with a body, and be read as the next answer."""
    await fill(api, 12)  # more than goes out in one piece
    async with connection(api) as (reader, writer):
        writer.write(f"HEAD {path} HTTP/1.1\r\n".encode() + HOST + b"\r\nGET /version HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await head(reader))[0] == 405
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("more", [b"", b"Connection: keep-alive\r\n"])
@pytest.mark.parametrize("path", [MAPS, MAPS + "?watch=1&timeoutSeconds=1"])
async def test_http_1_0_which_knows_no_chunks(api: Running, path: str, more: bytes) -> None:
    """As nginx speaks it to what it stands before: the answer ends with the connection."""
    await fill(api, 12)
    async with connection(api) as (reader, writer), asyncio.timeout(60):
        writer.write(f"GET {path} HTTP/1.0\r\n".encode() + HOST + more + b"\r\n")
        code, fields = await head(reader)
        body = await rest(reader)
    assert (code, "Transfer-Encoding" in fields) == (200, False)
    text = body.splitlines()[-1]
    assert msgspec.json.decode(text)["kind" if "watch" not in path else "type"] in ("ConfigMapList", "ADDED")


async def test_options_of_the_whole_server(api: Running) -> None:
    async with connection(api) as (reader, writer):
        writer.write(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
        code, fields = await head(reader)
    assert (code, fields["Content-Length"]) == (200, "0")


async def test_compressed_bodies(api: Running) -> None:
    small = gzip.compress(b'{"metadata":{"name":"a"}}')
    bomb = gzip.compress(b'{"metadata":{"name":"a"},"data":{"a":"' + b"a" * (32 << 20) + b'"}}')
    for body, code in ((small, 201), (bomb, 413)):
        async with connection(api) as (reader, writer):
            writer.write(POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert (await answer(reader))[0] == code


async def test_tokens_that_are_no_text(tmp_path: Path) -> None:
    tokens = StaticTokens([["secret", "alice", "1", "system:masters"]])
    async with api_server(tmp_path, authenticators=[tokens]) as api:
        for token, code in ((b"\xff\xfe", 401), (b"secret\xff", 401), (b"secret", 200)):
            async with connection(api, known=False) as (reader, writer):
                writer.write(b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + token + b"\r\n\r\n")
                assert (await answer(reader))[0] == code


async def test_clients_that_ask_before_they_send(api: Running) -> None:
    body = b'{"metadata":{"name":"a"}}'
    async with connection(api) as (reader, writer):
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await answer(reader))[0] == 201
        writer.write(GET.replace(b" HTTP", b"/none HTTP") + b"Expect: 100-continue\r\n\r\n")
        assert (await answer(reader))[0] == 404


async def test_a_body_that_does_not_come(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "BODY_SECONDS", 0.1)
    async with connection(api) as (reader, writer):
        writer.write(POST + b"Content-Length: 20\r\n\r\n{")
        code, status = await answer(reader)
        assert (code, status["message"]) == (408, "the request's body did not arrive in time")


async def test_a_body_that_breaks_off_stores_nothing(api: Running) -> None:
    async with connection(api) as (_, writer):
        writer.write(POST.replace(b"?dryRun=All", b"") + b"Content-Length: 60\r\n\r\n" + b'{"metadata":{"name":"a"}}')
        await writer.drain()
    assert (await api.ok("GET", MAPS))["items"] == []


async def test_connections_without_a_request_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.2)
    async with api_server(tmp_path) as api:
        for beginning in (b"", b"GET /version HTT", b"GET /version HTTP/1.1\r\n" + HOST + b"\r\n"):
            async with connection(api) as (reader, writer), asyncio.timeout(60):
                writer.write(beginning)
                await reader.read(-1)


async def fill(api: Running, count: int) -> None:
    data = {"a": "x" * 100_000}
    for index in range(count):
        await api.ok("POST", MAPS, {"metadata": {"name": f"m{index}"}, "data": data})


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection ends, however it does."""
    pieces = []
    try:
        while piece := await reader.read(1 << 16):
            pieces.append(piece)
    except (ConnectionError, ssl.SSLError):
        pass
    return b"".join(pieces)


async def test_a_list_that_is_not_read_is_broken_off(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(api, 200)  # 20 MB, more than any buffer
    monkeypatch.setattr(app, "REQUEST_SECONDS", 0.5)
    async with connection(api, 4096) as (reader, writer), asyncio.timeout(60):
        writer.write(GET + b"\r\n")
        assert (await head(reader))[0] == 200
        await asyncio.sleep(1)
        body = await rest(reader)
    assert b"HTTP/1.1 504" not in body  # half an answer with another one in its middle would be read as a whole one
    assert not body.endswith(b"0\r\n\r\n")


async def test_a_watch_that_is_not_read_is_broken_off(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(api, 200)
    monkeypatch.setattr(watch, "READER_SECONDS", 0.3)
    async with connection(api, 4096) as (reader, writer), asyncio.timeout(60):
        writer.write(b"GET " + MAPS.encode() + b"?watch=1 HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await head(reader))[0] == 200
        assert api.server.watches.count == 1
        while api.server.watches.count:
            await asyncio.sleep(0.02)
        assert not (await rest(reader)).endswith(b"0\r\n\r\n")
