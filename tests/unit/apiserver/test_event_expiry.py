"""Events go after an hour, whatever time they claim to be from."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from master.apiserver.events import EventExpiry
from master.main import UNVERSIONED, ApiParts
from master.store.memory import MemoryStore
from sampan.api.resources import EVENTS, NAMESPACES
from sampan.api.times import Time
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock


async def test_events_go_an_hour_after_they_happened_last() -> None:
    clock = FakeClock()
    begun = clock.now()

    def event(name: str, minutes: float) -> core_v1.Event:
        """Seen last so long after the beginning."""
        return core_v1.Event(metadata=meta_v1.ObjectMeta(name=name, namespace="default"), reason="Started",
                             involved_object=core_v1.ObjectReference(kind="Node", name="n"), type="Normal",
                             last_timestamp=Time.of(begun + timedelta(minutes=minutes)))

    parts = ApiParts.build(MemoryStore(unversioned=UNVERSIONED), clock, "10.96.0.0/16")
    async with asyncio.TaskGroup() as group:
        caches = group.create_task(parts.registry.run())
        await parts.registry.ready()
        await parts.client.create(NAMESPACES, core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="default")))
        for item in (event("old", 0), event("again", 50), event("from-the-future", 1_000_000)):
            await parts.client.create(EVENTS, item)
        expiry = EventExpiry(parts.registry)

        async def left() -> list[str]:
            await expiry.expire()
            return [item.metadata.name for item in (await parts.client.list(EVENTS, "default")).items]

        assert await left() == ["again", "from-the-future", "old"]
        await clock.advance(61 * 60)
        assert await left() == ["again"], "a node whose clock is wrong must not fill the database"
        await clock.advance(50 * 60)
        assert await left() == []
        caches.cancel()
