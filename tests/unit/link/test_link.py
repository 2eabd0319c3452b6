"""The agent's line, as far as it needs no master."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from agent.link.files import NodeFiles
from agent.link.link import Link
from sampan.loop.clock import FakeClock
from sampan.pb.node_pb2 import Open
from sampan.pki import ca


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


async def test_a_certificate_is_asked_of_the_next_master_where_one_does_not_renew_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one may be gone for good, while the line is up to another."""
    asked: list[str] = []

    def nobody(server: str, *_: object, **_options: object) -> None:
        asked.append(server)
        raise OSError("nobody is there")

    clock, files = FakeClock(), NodeFiles(tmp_path)
    pair, authority = ca.Authority.create("sampan", clock.now)
    files.store(authority.issue(ca.Identity("system:node:n1"), lifetime=timedelta(minutes=1)), pair.certificate)
    monkeypatch.setattr(grpc.aio, "secure_channel", nobody)
    link = Link("n1", ["192.0.2.1:6444", "192.0.2.2:6444"], files, clock)
    link.connected.set()
    task = asyncio.create_task(link._keep_certified())
    await clock.advance(3600)
    task.cancel()
    assert {"192.0.2.1:6444", "192.0.2.2:6444"} <= set(asked)
