"""The compactor keeps the last interval's history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from master.store.compactor import Compactor
from master.store.memory import MemoryStore
from master.store.protocol import StoreError
from sampan.loop.clock import FakeClock


class Failing(MemoryStore):
    failing = False

    async def compact(self, revision: int) -> None:
        if self.failing:
            raise StoreError("on purpose")
        await super().compact(revision)


@pytest.fixture
async def store() -> Failing:
    return Failing()


@pytest.fixture
async def clock(store: Failing) -> AsyncIterator[FakeClock]:
    clock = FakeClock()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Compactor(store, clock, interval=300).run())
        await clock.settle()
        yield clock
        task.cancel()


async def test_history_of_the_last_interval_stays(store: Failing, clock: FakeClock) -> None:
    await store.create("/a", b"")
    await clock.advance(300)
    await store.create("/b", b"")
    assert store.compacted == 0
    await clock.advance(300)
    assert store.compacted == 1
    await clock.advance(300)
    assert store.compacted == 2
    await clock.advance(3000)
    assert store.compacted == 2


async def test_a_failure_is_made_up_for(store: Failing, clock: FakeClock) -> None:
    await store.create("/a", b"")
    await clock.advance(300)
    store.failing = True
    await clock.advance(300)
    store.failing = False
    assert store.compacted == 0
    await clock.advance(300)
    assert store.compacted == 1
