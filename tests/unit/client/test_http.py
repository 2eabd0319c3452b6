"""The client over HTTP against a small server of its own: what it repeats, what it gives up, how it reads streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, PODS
from sampan.api.types.core_v1 import ConfigMap
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.http import HttpClient
from sampan.client.kubeconfig import Connection
from sampan.client.protocol import DeleteOptions, Patch
from sampan.loop.clock import FakeClock

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default",
                                                                 "resourceVersion": "7"}, "data": {"k": "v"}}


@asynccontextmanager
async def serving(handler: Handler, *, timeout: float = 5.0, token: str = "") -> AsyncIterator[HttpClient]:
    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    clock = FakeClock()
    async with asyncio.TaskGroup() as group, HttpClient(
            Connection(f"http://127.0.0.1:{port}", token=token), clock=clock, timeout=timeout) as client:
        ticking = group.create_task(_tick(clock))
        try:
            yield client
        finally:
            ticking.cancel()
            await client.close()
            listener.close()
            await server.shutdown(0.1)


async def _tick(clock: FakeClock) -> None:
    """Time runs a thousand times faster here."""
    while True:
        await asyncio.sleep(0.001)
        await clock.advance(1)


def status(code: int, reason: str, message: str = "", **headers: str) -> web.Response:
    return web.json_response({"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason,
                              "message": message}, status=code, headers={k.replace("_", "-"): v
                                                                         for k, v in headers.items()})


async def test_a_busy_server_is_asked_again_when_it_says_so() -> None:
    calls = 0

    async def handler(_: web.BaseRequest) -> web.Response:
        nonlocal calls
        calls += 1
        return status(429, "TooManyRequests", Retry_After="1") if calls < 3 else web.json_response(CONFIG)

    async with serving(handler) as client:
        assert (await client.create(CONFIGMAPS, ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
                ).data == {"k": "v"}
    assert calls == 3


async def test_a_refusal_without_a_time_is_final() -> None:
    calls = 0

    async def handler(_: web.BaseRequest) -> web.Response:
        nonlocal calls
        calls += 1
        return status(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")

    async with serving(handler) as client:
        with pytest.raises(ApiError) as refusal:
            await client.post(PODS, "a", "eviction", {}, "default")
    assert (calls, refusal.value.code) == (1, 429)
    assert "disruption budget" in str(refusal.value)


async def test_it_gives_up_in_the_end() -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return status(503, "ServiceUnavailable", "not yet", Retry_After="1")

    async with serving(handler) as client:
        with pytest.raises(ApiError, match="not yet"):
            await client.get(CONFIGMAPS, "a", "default")


async def test_a_slow_answer_and_a_lost_connection_are_errors_of_the_api() -> None:
    async def hang(_: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(hang, timeout=0.1) as client:
        with pytest.raises(ApiError, match="no answer within") as refusal:
            await client.get(CONFIGMAPS, "a", "default")
        assert refusal.value.code == 504

    async def hang_up(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(hang_up) as client:
        with pytest.raises(ApiError) as refusal:
            await client.get(CONFIGMAPS, "a", "default")
        assert refusal.value.code == 503
    with pytest.raises(ApiError) as refusal:  # nobody listens there any more
        await client.get(CONFIGMAPS, "a", "default")
    assert refusal.value.code == 503
    await client.close()


async def test_an_answer_that_is_no_status_or_no_object() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(text="Bad Gateway", status=502) if request.path.endswith("/a") else web.Response(text="[1]")

    async with serving(handler) as client:
        with pytest.raises(ApiError, match="Bad Gateway") as refusal:
            await client.get(CONFIGMAPS, "a", "default")
        assert refusal.value.code == 502
        with pytest.raises(ApiError, match="is no ConfigMap"):
            await client.get(CONFIGMAPS, "b", "default")


async def test_what_is_sent() -> None:
    seen: list[tuple[str, str, dict[str, str], object, str]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        seen.append((request.method, request.path, dict(request.query), json.loads(body) if body else None,
                     request.headers.get("Content-Type", "")))
        assert request.headers["Authorization"] == "Bearer secret"
        return web.json_response(CONFIG | {"items": [], "metadata": {"resourceVersion": "9", "continue": "next"}})

    async with serving(handler, token="secret") as client:
        page = await client.list(CONFIGMAPS, label_selector="a=b", limit=5, revision="0")
        assert (page.revision, page.continue_token) == ("9", "next")
        await client.patch(CONFIGMAPS, "a", Patch("json", [{"op": "test"}]), "default")
        await client.delete(CONFIGMAPS, "a", "default", DeleteOptions(3, "Orphan", "u", "7"))
        await client.create(CONFIGMAPS, ConfigMap(metadata=ObjectMeta(name="a")), "default", dry_run=True)
    base = "/api/v1/namespaces/default/configmaps"
    assert seen[0][:3] == ("GET", "/api/v1/configmaps", {"labelSelector": "a=b", "limit": "5",
                                                         "resourceVersion": "0"})
    assert seen[1] == ("PATCH", f"{base}/a", {}, [{"op": "test"}], "application/json-patch+json")
    assert seen[2][3] == {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 3,
                          "propagationPolicy": "Orphan", "preconditions": {"uid": "u", "resourceVersion": "7"}}
    assert seen[3][:3] == ("POST", base, {"dryRun": "All"})


async def test_watches_read_long_lines_and_broken_chunks() -> None:
    large = CONFIG | {"data": {"k": "x" * 300_000}}
    lines = b"".join(json.dumps(item).encode() + b"\n" for item in (
        {"type": "ADDED", "object": large}, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}},
        {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}))

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.query["watch"] == "1"
        assert request.query["allowWatchBookmarks"] == "true"
        answer = web.StreamResponse()
        await answer.prepare(request)
        for start in range(0, len(lines), 70_001):
            await answer.write(lines[start:start + 70_001])
        return answer

    async with serving(handler) as client, aclosing(client.watch(CONFIGMAPS, revision="7")) as watch:
        first = await anext(watch)
        assert (first.type, first.revision) == ("ADDED", "7")
        assert first.object is not None
        assert len(first.object.data["k"]) == 300_000
        second = await anext(watch)
        assert (second.type, second.object, second.revision) == ("BOOKMARK", None, "8")
        with pytest.raises(ApiError) as refusal:
            await anext(watch)
        assert refusal.value.is_expired
