"""What the agent asks of the master while the line comes and goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.link.authority import AuthorityError, LinkAuthority, TokenOrder
from sampan.loop.clock import FakeClock

ORDER = TokenOrder("default", "web", "u1", "default", (), 3600)


class Stub:
    """A connection whose calls are never answered; `calls` are what waits for answers."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Any]] = []

    def IssueToken(self, _request: object, *, timeout: float) -> asyncio.Future[Any]:  # noqa: N802 - as gRPC
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]


async def asking() -> tuple[asyncio.Task[object], asyncio.Future[Any]]:
    """A task that waits for the master's answer, and the call that it waits for."""
    stub: Any = Stub()
    task: asyncio.Task[object] = asyncio.create_task(LinkAuthority(lambda: stub, FakeClock()).issue_token(ORDER))
    await asyncio.sleep(0)
    return task, stub.calls[0]


async def test_a_connection_that_ends_while_the_master_is_asked_ends_nobody_s_task() -> None:
    """A channel that is closed cancels its calls: seen as its own cancellation, that would end whoever asked (a pod's
    worker, the keeper of the port's certificate) for good, and without a word."""
    task, call = await asking()
    call.cancel()
    with pytest.raises(AuthorityError, match="the connection to the master has just ended"):
        await task


async def test_who_asks_the_master_can_be_cancelled() -> None:
    task, _ = await asking()
    task.cancel()
    await asyncio.wait([task], timeout=60)
    assert task.cancelled()
