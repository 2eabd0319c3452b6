"""HTTP/1.1 on a wire of bytes."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.server.http import BODY_LIMIT, HEAD_LIMIT, Request, Response, accepts_gzip, converse


class Wire:
    """What a client sends, in pieces, and what it gets."""

    def __init__(self, *pieces: bytes, stays: bool = False) -> None:
        self._pieces = list(pieces)
        self._stays = stays
        self.written = b""

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._stays:
            await asyncio.Event().wait()
        return b""

    async def write(self, data: bytes) -> None:
        self.written += data


async def echo(request: Request) -> Response:
    """Tells what it was asked."""
    if request.path == "/broken":
        raise ZeroDivisionError
    if request.path == "/large":
        return Response(200, b"x" * 300_000)
    return Response.text(200, f"{request.method} {request.path} {request.query.get('a', [''])[0]}")


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: node", *headers, "", ""]).encode()


async def say(*pieces: bytes) -> bytes:
    wire = Wire(*pieces)
    await converse(wire, echo)
    return wire.written


async def test_several_requests_on_one_connection() -> None:
    answer = await say(head("GET", "/one?a=b%20c"), head("GET", "/two"))
    assert b"GET /one b c" in answer
    assert b"GET /two " in answer
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b"close" not in answer


async def test_requests_that_come_at_once_or_byte_by_byte_are_the_same() -> None:
    both = head("GET", "/one") + head("GET", "/two")
    together = await say(both)
    assert together == await say(*(bytes([byte]) for byte in both))


async def test_head_has_the_length_and_no_body() -> None:
    answer = await say(head("HEAD", "/one"))
    assert b"Content-Length: 10" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_what_writes_is_refused_without_waiting_for_its_body() -> None:
    answer = await say(head("POST", "/one", "Content-Length: 1000000"))
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed")
    assert b"Connection: close" in answer
    assert b"Allow: GET, HEAD" in answer


async def test_a_body_of_a_get_is_dropped_and_a_long_one_refused() -> None:
    answer = await say(head("GET", "/one", "Content-Length: 3"), b"abc", head("GET", "/two"))
    assert b"GET /two " in answer
    answer = await say(head("GET", "/one", f"Content-Length: {BODY_LIMIT + 1}"), b"x" * (BODY_LIMIT + 1))
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_fault_is_a_500_and_the_connection_goes_on() -> None:
    answer = await say(head("GET", "/broken"), head("GET", "/one"))
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error")
    assert b"GET /one " in answer


async def test_large_answers_are_compressed_for_those_who_take_it() -> None:
    plain, packed = await say(head("GET", "/large")), await say(head("GET", "/large", "Accept-Encoding: gzip"))
    assert plain.endswith(b"x" * 300_000)
    assert b"Content-Encoding: gzip" in packed
    assert gzip.decompress(packed.partition(b"\r\n\r\n")[2]) == b"x" * 300_000


@pytest.mark.parametrize(("header", "yes"), [
    ("gzip", True), ("deflate, GZip;q=0.5", True), ("*", True), ("", False), ("gzip;q=0", False), ("br", False)])
def test_who_takes_gzip(header: str, yes: bool) -> None:
    assert accepts_gzip(header) is yes


async def test_an_endless_head_is_refused() -> None:
    answer = await say(b"GET / HTTP/1.1\r\nA: " + b"x" * (HEAD_LIMIT + 10))
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_says_nothing_is_left() -> None:
    wire = Wire(stays=True)
    await converse(wire, echo, idle=0.01)
    assert wire.written == b""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(
    [head("GET", "/one"), head("GET", "http://node/one"), head("PUT", "/x", "Transfer-Encoding: chunked"),
     b"GET", b" / HTTP/1.1\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n"])), max_size=8))
def test_whatever_comes_gets_an_answer_or_an_end(pieces: list[bytes]) -> None:
    answer = asyncio.run(say(*pieces))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
