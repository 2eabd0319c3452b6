from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from netplugin.keeper import SETTLE, Keeper
from netplugin.protocol import NetworkError
from sampan.loop.clock import FakeClock


class Room:
    """Something to keep: `news` is what the kernel would tell."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.news: asyncio.Queue[None] = asyncio.Queue()
        self.looks = 0
        self.failures = 0

    async def heal(self) -> None:
        self.looks += 1
        if self.failures:
            self.failures -= 1
            raise NetworkError("busy")

    async def watch(self) -> AsyncIterator[None]:
        while True:
            yield await self.news.get()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[Room]:
        task = asyncio.create_task(Keeper("a room", self.heal, self.watch, 300.0, self.clock).run())
        await self.clock.settle()
        yield self
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_many_changes_at_once_are_one_look() -> None:
    async with Room().kept() as room:
        for _ in range(5):
            room.news.put_nowait(None)
        await room.clock.advance(SETTLE)
        assert room.looks == 1
        await room.clock.advance(10)
        assert room.looks == 1


async def test_it_looks_now_and_then() -> None:
    async with Room().kept() as room:
        await room.clock.advance(299)
        assert room.looks == 0
        await room.clock.advance(2)
        assert room.looks == 1


async def test_what_fails_is_tried_again() -> None:
    async with Room().kept() as room:
        room.failures = 2
        room.news.put_nowait(None)
        await room.clock.advance(30)
        assert room.looks == 3
