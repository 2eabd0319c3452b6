from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from agent.engine.protocol import Engine, EngineTimeout, EngineUnavailable, ExecResult
from agent.probes.prober import HostHttpHook, HostProber
from agent.probes.protocol import ProbeTarget
from sampan.api.types import core_v1


class ExecEngine:
    """The one call of an engine that probes make."""

    def __init__(self, answer: ExecResult | Exception) -> None:
        self.answer = answer

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        assert container_id == "id"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def target(port: int = 0) -> ProbeTarget:
    ports = [core_v1.ContainerPort(name="web", container_port=port)] if port else []
    container = core_v1.Container(name="c", image="i", ports=ports)
    return ProbeTarget(core_v1.Pod(spec=core_v1.PodSpec(containers=[container])), container, "id", "127.0.0.1")


def prober(answer: ExecResult | Exception | None = None) -> HostProber:
    return HostProber(cast("Engine", ExecEngine(answer or ExecResult(0, b""))))


def get(port: int | str, path: str = "/", **more: Any) -> core_v1.Probe:
    return core_v1.Probe(http_get=core_v1.HTTPGetAction(port=port, path=path, **more), timeout_seconds=5)


@asynccontextmanager
async def server(answers: dict[str, bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers each path with the bytes given for it; never answers paths that it does not know."""
    seen: list[bytes] = []
    forever = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head)
            path = head.split(b" ")[1].decode()
            if path not in answers:
                await forever.wait()
            writer.write(answers.get(path, b""))
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], seen
    finally:
        forever.set()
        listener.close()


def answer(status: str, *headers: str, body: str = "") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]).encode()


ANSWERS = {
    "/": answer("200 OK", body="fine"),
    "/bad": answer("500 Oops", body="no"),
    "/moved": answer("302 Found", "Location: /"),
    "/away": answer("302 Found", "Location: http://elsewhere.test/", body="gone"),
    "/loop": answer("302 Found", "Location: /loop"),
    "/noise": b"this is not HTTP\r\n\r\n",
}


@pytest.mark.parametrize(("path", "outcome", "message"), [
    ("/", "success", ""),
    ("/bad", "failure", "HTTP probe failed with statuscode: 500"),
    ("/moved", "success", ""),
    ("/away", "success", "Probe terminated redirects, Response body: gone"),
    ("/loop", "failure", "stopped after 10 redirects"),
    ("/noise", "failure", "malformed HTTP response"),
])
async def test_http(path: str, outcome: str, message: str) -> None:
    async with server(ANSWERS) as (port, _):
        result = await prober().probe(target(port), get("web", path))
    assert result.outcome == outcome
    assert message in result.message
    assert bool(message) == bool(result.message)


async def test_http_sends_the_headers_asked_for() -> None:
    async with server(ANSWERS) as (port, seen):
        headers = [core_v1.HTTPHeader(name="Host", value="me.test"), core_v1.HTTPHeader(name="X-A", value="b")]
        await prober().probe(target(), get(port, http_headers=headers))
    assert b"Host: me.test\r\n" in seen[0]
    assert b"X-A: b\r\n" in seen[0]
    assert seen[0].lower().count(b"host:") == 1


async def test_http_gives_up_after_the_timeout() -> None:
    async with server({}) as (port, _):
        probe = core_v1.Probe(http_get=core_v1.HTTPGetAction(port=port), timeout_seconds=1)
        result = await prober().probe(target(), probe)
    assert result.outcome == "failure"
    assert "context deadline exceeded" in result.message


async def test_nothing_listens() -> None:
    async with server({}) as (port, _):
        pass
    expected = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    tcp = core_v1.Probe(tcp_socket=core_v1.TCPSocketAction(port=port))
    assert (await prober().probe(target(), tcp)).message == expected
    assert (await prober().probe(target(), get(port))).message == f'Get "http://127.0.0.1:{port}/": {expected}'


async def test_tcp_connects() -> None:
    async with server(ANSWERS) as (port, _):
        probe = core_v1.Probe(tcp_socket=core_v1.TCPSocketAction(port="web"))
        assert (await prober().probe(target(port), probe)).outcome == "success"


@pytest.mark.parametrize(("engine", "outcome", "message"), [
    (ExecResult(0, b"anything"), "success", ""),
    (ExecResult(3, b"broken \xff"), "failure", "broken \ufffd"),
    (EngineTimeout("slow"), "failure", 'command timed out: "cat /x" timed out after 1s'),
    (EngineUnavailable("no engine"), "unknown", "no engine"),
])
async def test_exec(engine: ExecResult | Exception, outcome: str, message: str) -> None:
    probe = core_v1.Probe(exec=core_v1.ExecAction(command=["cat", "/x"]))
    result = await prober(engine).probe(target(), probe)
    assert (result.outcome, result.message) == (outcome, message)


async def test_an_unknown_port_name_says_so() -> None:
    result = await prober().probe(target(80), get("nope"))
    assert (result.outcome, result.message) == ("unknown", "couldn't find port: nope")


async def test_hooks_take_any_answer() -> None:
    async with server(ANSWERS) as (port, _):
        hook = HostHttpHook()
        assert await hook.get(target(), core_v1.HTTPGetAction(port=port), 5) == ""
        assert await hook.get(target(), core_v1.HTTPGetAction(port=port, path="/bad"), 5) == ""
        assert "malformed" in await hook.get(target(), core_v1.HTTPGetAction(port=port, path="/noise"), 5)
    assert "connection refused" in await hook.get(target(), core_v1.HTTPGetAction(port=port), 5)
