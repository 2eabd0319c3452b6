"""The agent's line, as far as it needs no master."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agent.link.files import NodeFiles
from agent.link.link import Link
from sampan.loop.clock import FakeClock
from sampan.pb.node_pb2 import Open


class Streams:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def serve(self, stub: object, request: Open) -> None:
        self.asked.append(request.id)


async def test_what_is_asked_while_the_agent_starts_is_answered_later(tmp_path: Path) -> None:
    streams: Any = Streams()
    stub: Any = None
    link = Link("n1", ["127.0.0.1:1"], NodeFiles(tmp_path), FakeClock())
    early = asyncio.create_task(link.answer(stub, Open(id="early")))
    await asyncio.sleep(0)
    assert not early.done()
    link.serve(streams)
    await early
    await link.answer(stub, Open(id="late"))
    assert streams.asked == ["early", "late"]
