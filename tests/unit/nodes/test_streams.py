"""Bringing together who asks for a session and the agent that answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from master.nodes.identity import NodeIdentity
from master.nodes.streams import NodeStreams
from sampan.loop.clock import FakeClock
from sampan.pb.node_pb2 import Frame, Open, Ready


class Context:
    """An agent's call that answers one request."""

    def __init__(self, session_id: str) -> None:
        self._first: Frame | None = Frame(ready=Ready(id=session_id))

    async def read(self) -> Any:
        first, self._first = self._first, None
        return first


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
    done, _ = await asyncio.wait([serving], timeout=5)
    serving.cancel()
    assert done, "nobody would ever close it"
