"""The start: nothing is served before all is there."""

from __future__ import annotations

import asyncio

import pytest

from master.apiserver.registry import Registry
from master.apiserver.schema import SchemaRegistry, load_definitions
from master.store.memory import MemoryStore
from master.store.protocol import Range
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS
from sampan.loop.clock import FakeClock


class SlowStore(MemoryStore):
    """Reads only when told to, as from a disk that has a lot to do."""

    def __init__(self) -> None:
        super().__init__()
        self.quick = asyncio.Event()

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Range:
        await self.quick.wait()
        return await super().range(prefix, start=start, limit=limit, revision=revision)


async def test_a_slow_disk_delays_the_start_and_does_not_prevent_it() -> None:
    store = SlowStore()
    registry = Registry(store, FakeClock(), SchemaRegistry(load_definitions()), resources=[CONFIGMAPS])
    cache = registry.of(CONFIGMAPS).cache
    cache._patience = 0.01
    async with asyncio.TaskGroup() as group:
        caches = group.create_task(registry.run())
        ready = group.create_task(registry.ready())
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="initializing"):  # asked later, so that its patience ends later
            await cache.get("default", "a")
        assert not ready.done()
        store.quick.set()
        await asyncio.wait_for(ready, 60)
        assert cache.revision == 0
        caches.cancel()
