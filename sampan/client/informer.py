"""A local, always fresh copy of one resource: list once, then follow the watch.

Controllers read from informers instead of asking the server, and are told of every change. What is read is shared
and read-only. The copy may lag behind the server by a moment, never ahead, and never goes back: whoever must not act
on a copy older than its own write compares `Informer.revision` with the write's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar, cast

from sampan.api.errors import ApiError, expired
from sampan.api.resources import Object, Resource
from sampan.client.protocol import Client, WatchEvent
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

T = TypeVar("T", bound=Object)
Handler = Callable[[T | None, T | None], None]
"""Called with (old, new): old is None for an addition, new is None for a deletion. Must not block or raise."""
Indexer = Callable[[T], Iterable[str]]

log = logging.getLogger(__name__)

WATCH_SECONDS = (300, 600)
"""A watch is asked to end after a random time in between, so that watches spread over several servers."""


def key_of(obj: Object) -> tuple[str, str]:
    """Namespace ("" for cluster-scoped objects) and name."""
    return obj.metadata.namespace, obj.metadata.name


def revision_number(revision: str) -> int:
    """A resourceVersion as the number that it is on every real server (KEP-5504); 0 for none."""
    return int(revision) if revision.isdecimal() else 0


def either(old: T | None, new: T | None) -> T:
    """The newest state that a handler was given."""
    obj = new if new is not None else old
    assert obj is not None, "a handler gets at least one of the two"
    return obj


class Informer(Generic[T]):
    """The objects of one resource, perhaps only those of a namespace or selector."""

    def __init__(self, client: Client, resource: Resource[T], clock: Clock, *, namespace: str = "",
                 label_selector: str = "", field_selector: str = "", backoff: Backoff | None = None,
                 rng: random.Random | None = None) -> None:
        self.resource = resource
        self.revision = 0
        """How far this copy has come: it holds every change up to this resourceVersion."""
        self._client = client
        self._clock = clock
        self._namespace = namespace
        self._labels = label_selector
        self._fields = field_selector
        self._backoff = backoff or Backoff(initial=0.2, maximum=30.0, jitter=0.5)
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._objects: dict[tuple[str, str], T] = {}
        self._indexers: dict[str, Indexer[T]] = {}
        self._indexes: dict[str, dict[str, dict[tuple[str, str], T]]] = {}
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()
        self._token = ""  # the resourceVersion to go on from; "" when a list is needed
        self._failures = 0

    # Reading

    @property
    def synced(self) -> bool:
        """Whether the first list has arrived."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return once the first list has arrived."""
        await self._synced.wait()

    def get(self, name: str, namespace: str = "") -> T | None:
        """One object; cluster-scoped ones have no namespace."""
        return self._objects.get((namespace, name))

    def all(self, namespace: str = "") -> list[T]:
        """All objects, or those of one namespace."""
        if not namespace:
            return list(self._objects.values())
        return self.by_index("namespace", namespace) if "namespace" in self._indexers else [
            obj for key, obj in self._objects.items() if key[0] == namespace]

    def by_index(self, index: str, value: str) -> list[T]:
        """The objects for which the indexer of that name gave this value."""
        return list(self._indexes[index].get(value, {}).values())

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self._objects)

    def __iter__(self) -> Iterator[T]:
        """All objects as of now."""
        return iter(list(self._objects.values()))

    # Setting up

    def add_indexer(self, name: str, values: Indexer[T]) -> None:
        """Keep an index of the objects by what `values` gives for each; adding one twice is harmless."""
        if name in self._indexers:
            return
        self._indexers[name] = values
        self._indexes[name] = {}
        for key, obj in self._objects.items():
            self._index(name, key, None, obj)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call `handler` for every change from now on, and at once with (None, object) for what is here."""
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            self._tell(handler, None, obj)

    # Following

    async def run(self) -> None:
        """Follow the server until cancelled; failures are answered by waiting and trying again."""
        while True:
            started = self._clock.monotonic()
            try:
                if not self._token:
                    await self._relist()
                await self._follow()
                # A server that ends each watch at once is as bad as one that refuses it.
                self._failures = 0 if self._clock.monotonic() - started > 1 else self._failures + 1
            except ApiError as error:
                self._failures += 1
                self._refused(error)
            if self._failures:
                await self._clock.sleep(self._backoff.delay(self._failures, self._rng))

    def _refused(self, error: ApiError) -> None:
        known = log.debug if error.is_expired else log.info if self._failures < 3 else log.warning
        known("%s: %s; try %d", self.resource.plural, error, self._failures)
        if error.is_expired or error.code in (400, 403, 404, 422):
            self._token = ""

    async def _relist(self) -> None:
        # "0" takes what the server has at hand; a later list may not be older than what has been seen, and after a
        # refusal of even that (the server lost history) only its newest state counts.
        revision = "0" if not self.revision else str(self.revision) if self._failures < 2 else ""
        page = await self._client.list(self.resource, self._namespace, label_selector=self._labels,
                                       field_selector=self._fields, revision=revision)
        items, token = list(page.items), page.continue_token
        while token:
            more = await self._client.list(self.resource, self._namespace, label_selector=self._labels,
                                           field_selector=self._fields, continue_token=token)
            items += more.items
            token = more.continue_token
        self._replace(items)
        self.revision = revision_number(page.revision)
        self._token = page.revision
        self._synced.set()

    def _replace(self, items: Iterable[T]) -> None:
        """Make the copy equal to a list; handlers hear only of differences."""
        fresh = {key_of(obj): obj for obj in items}
        for key in [key for key in self._objects if key not in fresh]:
            self._set(key, None)
        for key, obj in fresh.items():
            old = self._objects.get(key)
            if old is None or old.metadata.resource_version != obj.metadata.resource_version:
                if old is not None and old.metadata.uid != obj.metadata.uid:
                    self._set(key, None)  # deleted and made anew while nobody watched
                self._set(key, obj)

    async def _follow(self) -> None:
        seconds = self._rng.randint(*WATCH_SECONDS)
        watch = self._client.watch(self.resource, self._namespace, revision=self._token, label_selector=self._labels,
                                   field_selector=self._fields, timeout_seconds=seconds)
        async with aclosing(watch):
            async for event in watch:
                self._failures = 0
                self._apply(event)

    def _apply(self, event: WatchEvent[T]) -> None:
        number = revision_number(event.revision)
        if number < self.revision:
            log.warning("%s: the server is at revision %d, we are at %d", self.resource.plural, number, self.revision)
            raise expired("the server has been set back")
        obj = event.object
        if obj is not None:
            key = key_of(obj)
            old = self._objects.get(key)
            known = revision_number(old.metadata.resource_version) if old is not None else 0
            if event.type == "DELETED":
                if old is not None:
                    self._set(key, None, obj)
            elif old is None or number > known:
                if old is not None and old.metadata.uid != obj.metadata.uid:
                    self._set(key, None)
                self._set(key, obj)
        self.revision = number
        self._token = event.revision

    def _set(self, key: tuple[str, str], obj: T | None, last: T | None = None) -> None:
        """Change the copy, then tell the handlers; `last` is a deleted object's final state."""
        old = self._objects.get(key)
        if obj is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = obj
        for name in self._indexers:
            self._index(name, key, old, obj)
        for handler in self._handlers:
            self._tell(handler, last or old, obj)

    def _index(self, name: str, key: tuple[str, str], old: T | None, new: T | None) -> None:
        values, index = self._indexers[name], self._indexes[name]
        for value in set(values(old)) if old is not None else ():
            entries = index.get(value)
            if entries is not None:
                entries.pop(key, None)
                if not entries:
                    del index[value]
        for value in set(values(new)) if new is not None else ():
            index.setdefault(value, {})[key] = cast("T", new)

    def _tell(self, handler: Handler[T], old: T | None, new: T | None) -> None:
        try:
            handler(old, new)
        except Exception:
            # One controller's fault must not keep the news from the others.
            log.exception("%s: a handler failed", self.resource.plural)


class InformerFactory:
    """Informers shared by everyone in a process who asks for the same objects."""

    def __init__(self, client: Client, clock: Clock, *, rng: random.Random | None = None) -> None:
        self._client = client
        self._clock = clock
        self._rng = rng
        self._informers: dict[tuple[Any, ...], Informer[Any]] = {}
        self._started: set[tuple[Any, ...]] = set()
        self._group: asyncio.TaskGroup | None = None

    def get(self, resource: Resource[T], *, namespace: str = "", label_selector: str = "",
            field_selector: str = "") -> Informer[T]:
        """The informer for these objects, made if need be; one made while the factory runs is started at once."""
        key = (resource.key, resource.type, namespace, label_selector, field_selector)
        if key not in self._informers:
            self._informers[key] = Informer(self._client, resource, self._clock, namespace=namespace,
                                            label_selector=label_selector, field_selector=field_selector,
                                            rng=self._rng)
            self._start(key)
        return cast("Informer[T]", self._informers[key])

    def metadata(self, resource: Resource[Any]) -> Informer[Any]:
        """An informer that shows at least the metadata: the typed one, where somebody already has it."""
        for key, informer in self._informers.items():
            if key[0] == resource.key and not any(key[2:]):
                return informer
        return self.get(resource.metadata_only())

    async def wait_synced(self) -> None:
        """Return once every informer that there is has its first list."""
        for informer in list(self._informers.values()):
            await informer.wait_synced()

    async def run(self) -> None:
        """Keep all informers going until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for key in self._informers:
                    self._start(key)
                await asyncio.Event().wait()
            finally:
                self._group = None
                self._started.clear()

    @property
    def informers(self) -> Mapping[tuple[Any, ...], Informer[Any]]:
        """All that there are, for metrics."""
        return self._informers

    def _start(self, key: tuple[Any, ...]) -> None:
        if self._group is not None and key not in self._started:
            self._started.add(key)
            self._group.create_task(self._informers[key].run())
