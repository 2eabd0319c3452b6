"""Bringing together who asks for a session and the agent that answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from master.nodes.identity import NodeIdentity
from master.nodes.streams import NodeStreams
from sampan.api.errors import ApiError
from sampan.loop.clock import FakeClock
from sampan.pb.node_pb2 import Frame, Open, Ready


class Context:
    """An agent's call that answers one request."""

    def __init__(self, session_id: str) -> None:
        self._first: Frame | None = Frame(ready=Ready(id=session_id))

    async def read(self) -> Any:
        first, self._first = self._first, None
        return first


async def turns() -> None:
    """Let everybody do what can be done now."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_agent_that_is_away_for_a_moment_is_waited_for() -> None:
    """As after a restart of the master: the client need not know of it."""
    line: set[str] = set()
    asked: list[str] = []

    def ask(node: str, request: Open) -> bool:
        if node in line:
            asked.append(request.id)
        return node in line

    streams = NodeStreams(ask)
    request = Open()
    opening = asyncio.create_task(streams.open("n1", request))
    await asyncio.sleep(0)
    streams.connected("n2")
    streams.connected("n1")  # and gone again, before the request could be sent
    await turns()
    assert not opening.done()
    line.add("n1")
    streams.connected("n1")
    await turns()
    assert asked == [request.id]
    serving = asyncio.create_task(streams.serve(NodeIdentity("n1", 1, FakeClock().now()), Context(request.id)))
    await (await opening).close()
    await serving
    assert not streams._missed


async def test_an_agent_that_stays_away_is_told() -> None:
    streams = NodeStreams(lambda _node, _request: False, line_timeout=0.01)
    with pytest.raises(ApiError) as told:
        await streams.open("n1", Open())
    assert told.value.code == 500
    assert 'error dialing backend: the agent of node "n1" is not connected, and did not' in str(told.value)
    assert not streams._missed
    assert not streams._waiting


async def test_what_an_agent_had_not_begun_when_its_line_broke_is_told_at_once() -> None:
    streams = NodeStreams(lambda _node, _request: True)
    mine, other = (asyncio.create_task(streams.open(node, Open())) for node in ("n1", "n2"))
    await asyncio.sleep(0)
    streams.disconnected("n1")
    with pytest.raises(ApiError, match='the connection to the agent of node "n1" broke'):
        await mine
    assert not other.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


async def test_a_session_that_begins_as_its_client_leaves_is_closed() -> None:
    request = Open()
    streams = NodeStreams(lambda _node, _request: True)
    opening = asyncio.create_task(streams.open("n1", request))
    await asyncio.sleep(0)
    serving = asyncio.create_task(streams.serve(NodeIdentity("n1", 1, FakeClock().now()), Context(request.id)))
    while request.id in streams._waiting:
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    done, _ = await asyncio.wait([serving], timeout=60)
    serving.cancel()
    assert done, "nobody would ever close it"
