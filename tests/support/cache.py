"""A watch cache over a store in memory, and objects to put into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from master.apiserver import keys
from master.apiserver.cache import CacheWatch, ResourceCache
from master.apiserver.entry import CacheEvent
from master.store.protocol import Record, Store
from sampan.api.codec import encode
from sampan.api.resources import PODS, Resource
from sampan.loop.clock import Clock, FakeClock


def value(name: str, namespace: str = "", **more: Any) -> tuple[bytes, int]:
    """An object's JSON and the slot for its revision; `more` are labels."""
    metadata = {"name": name, "resourceVersion": ""} | ({"namespace": namespace} if namespace else {})
    labels = {"labels": {key: str(label) for key, label in more.items()}} if more else {}
    raw = encode({"kind": "Pod", "apiVersion": "v1", "metadata": metadata | labels})
    return raw, raw.index(b'"resourceVersion":"') + len(b'"resourceVersion":"')


class Writer:
    """Writes objects of a resource as an API server would."""

    def __init__(self, store: Store, resource: Resource[Any] = PODS) -> None:
        self.store = store
        self.resource = resource

    def key(self, path: str) -> str:
        return keys.prefix(self.resource) + path

    async def put(self, path: str, **labels: Any) -> Record:
        """Create or replace the object at "namespace/name"."""
        namespace, _, name = path.rpartition("/")
        raw, slot = value(name, namespace, **labels)
        current = await self.store.get(self.key(path))
        if current is None:
            return await self.store.create(self.key(path), raw, slot=slot)
        return await self.store.update(self.key(path), raw, expected=current.revision, slot=slot)

    async def remove(self, path: str) -> Record:
        current = await self.store.get(self.key(path))
        assert current is not None
        return await self.store.delete(self.key(path), expected=current.revision)

    async def elsewhere(self) -> int:
        """Write something that is no concern of this resource; returns its revision."""
        record = await self.store.get("/registry/other")
        if record is None:
            return (await self.store.create("/registry/other", b"")).revision
        return (await self.store.update("/registry/other", b"", expected=record.revision)).revision


@asynccontextmanager
async def running(store: Store, resource: Resource[Any] = PODS, *, clock: Clock | None = None,
                  **options: Any) -> AsyncIterator[ResourceCache]:
    """A cache that follows the store."""
    cache = ResourceCache(resource, store, clock or FakeClock(), **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cache.run())
        try:
            yield cache
        finally:
            task.cancel()


async def take(watch: CacheWatch, count: int) -> list[CacheEvent]:
    """The next so many events."""
    events: list[CacheEvent] = []
    while len(events) < count:
        events += await asyncio.wait_for(watch.__anext__(), 60)
    assert len(events) == count
    return events


def seen(events: list[CacheEvent]) -> list[tuple[str, str, int]]:
    """Type, name and revision of events."""
    return [(event.type, event.entry.name if event.entry else "", event.revision) for event in events]
