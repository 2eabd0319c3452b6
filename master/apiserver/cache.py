"""The watch cache: all objects of one resource in memory, fed by the store, serving every read and watch."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any

from master.apiserver import keys, paging
from master.apiserver.entry import CacheEvent, Entry, Fields, Listing, Match, bookmark
from master.apiserver.window import Events, Objects, Step, Window, undo
from master.store.protocol import Change, Compacted, Range, Record, Store, StoreError, Watch
from sampan.api.errors import expired, too_many_requests
from sampan.api.resources import Resource
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

Listener = Callable[[Entry | None, Entry | None], None]

CHUNK_EVENTS, CHUNK_BYTES = 500, 1 << 20
"""What is handed to a watch at a time while it catches up: bounds the memory that it takes."""


class CacheWatch:
    """A running watch: `async for events in watch`, each time all events that are there. Close with `aclosing`.

    Ends by itself when the reader is too slow, or the cache had to start anew: the client then resumes from the last
    revision that it saw.
    """

    def __init__(self, cache: ResourceCache, namespace: str, match: Match | None, after: int, *,
                 bookmarks: bool, buffer: int) -> None:
        self.bookmarks = bookmarks
        self.initial: Iterator[CacheEvent] = iter(())  # comes before everything; made while it is read
        self._cache = cache
        self._namespace = namespace
        self._match = match
        self._after = after
        self._limit = buffer
        self._buffer: list[CacheEvent] = []
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def event(self, events: Events) -> CacheEvent | None:
        """How this watch sees a step; None if it does not concern it."""
        step = events.step
        one = step.new or step.old
        if step.revision <= self._after or (self._namespace and one and one.namespace != self._namespace):
            return None
        return events.seen_by(self._match)

    def push(self, event: CacheEvent) -> None:
        """Hand the event to the reader; ends a watch whose reader is too far behind."""
        self._buffer.append(event)
        if len(self._buffer) > self._limit:
            log.info("a watch of %s is too slow and is ended", self._cache.resource.plural)
            self.end()
        self._wake()

    def mark(self) -> None:
        """Tell the reader by a bookmark how far it has come; not one who was told too little, because it was slow."""
        if not self._ended and self._cache.revision >= 0:
            self.push(self._cache.bookmark())

    def end(self) -> None:
        """Let the reader have what is there, and no more."""
        self._ended = True
        self._cache.forget(self)
        self._wake()

    def __aiter__(self) -> CacheWatch:
        """Itself."""
        return self

    async def __anext__(self) -> Sequence[CacheEvent]:
        """The next events; waits for them. Write their `data` joined."""
        if events := _chunk(self.initial):
            return events
        while not self._buffer:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._buffer = self._buffer, []
        return events

    async def aclose(self) -> None:
        """Stop watching."""
        self._buffer.clear()
        self.initial = iter(())
        self.end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _chunk(initial: Iterator[CacheEvent]) -> list[CacheEvent]:
    events: list[CacheEvent] = []
    size = 0
    for event in initial:
        events.append(event)
        size += len(event.data)
        if len(events) == CHUNK_EVENTS or size > CHUNK_BYTES:
            break
    return events


class ResourceCache:
    """All objects of one resource. `run` must be running; the other calls wait until the cache is filled.

    Revisions come as the client wrote them ("" for unset); what they mean is upstream's (API concepts, "Resource
    versions"). An empty namespace means all.
    """

    def __init__(self, resource: Resource[Any], store: Store, clock: Clock, *, fields: Fields | None = None,
                 window: int = 4096, window_age: float = 300.0, bookmark_interval: float = 60.0,
                 watch_buffer: int = 10_000, patience: float = 3.0, backoff: Backoff | None = None) -> None:
        """`fields` gives what field selectors may ask for beside names.

        `window` past events are kept, no longer than `window_age` seconds but for the last few; a watch may be
        `watch_buffer` events behind; reads wait `patience` seconds for a revision.
        """
        self.resource = resource
        self._store = store
        self._clock = clock
        self._fields = fields
        self._prefix = keys.prefix(resource)
        self._objects = Objects()
        self._window = Window(window, window_age)
        self._reach = 2 * window
        self._bookmark_interval = bookmark_interval
        self._watch_buffer = watch_buffer
        self._patience = patience
        self._backoff = backoff or Backoff()
        self._watches: dict[CacheWatch, None] = {}  # in the order of their beginning
        self._listeners: list[Listener] = []
        self._source: Watch | None = None
        self._applied = -1
        self._ready_from = 0  # not to be shown before this revision
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def listen(self, listener: Listener) -> None:
        """Call `listener(old, new)` at every change, before anybody can read it, and now for what is there already.

        None is for not there.
        """
        self._listeners.append(listener)
        for entry in self._objects.entries:
            listener(None, entry)

    @property
    def revision(self) -> int:
        """The cache shows everything up to this revision; -1 before it is filled."""
        revision = self._applied if self._source is None else max(self._applied, self._source.progress)
        return revision if revision >= self._ready_from else -1

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self._objects.keys)

    @property
    def watchers(self) -> int:
        """How many watches are running."""
        return len(self._watches)

    def altered(self) -> list[Entry]:
        """Entries whose shared tree somebody has changed in place. For tests: there never is one."""
        return [entry for entry in self._objects.entries if entry.altered]

    # Reading

    def peek(self, namespace: str, name: str) -> Entry | None:
        """The object as the cache has it now, which may be a moment old."""
        return self._objects.by_key.get(f"{namespace}/{name}" if self.resource.namespaced else name)

    async def get(self, namespace: str, name: str, *, revision: str = "") -> Entry | None:
        """The object, as new as the store ("") or not older than `revision` ("0": whatever is there)."""
        await self.wait_for(paging.parse_revision(revision) if revision else self._store.revision)
        return self.peek(namespace, name)

    async def list(self, namespace: str = "", *, match: Match | None = None, limit: int = 0,
                   continue_token: str = "", revision: str = "", revision_match: str = "") -> Listing:
        """Objects in key order.

        ApiError 400 for a malformed token or revision, 410 for one that is too old (with a token in it to go on
        with), 422 for a bad resourceVersionMatch, 504 for a revision yet to come.
        """
        plan = paging.plan_list(revision, revision_match, limit, continue_token)
        at_least = self._store.revision if plan.at_least is None else plan.at_least
        if plan.exact and plan.exact < self._store.compacted:
            raise paging.too_old(plan)  # as upstream: no list lasts longer than the store's history
        await self.wait_for(plan.exact or at_least)
        within = self._within(namespace)
        objects, shown = self._objects, self.revision
        if plan.exact and plan.exact != shown:
            objects, shown = await self._past(plan), plan.exact
        page = objects.page(within, within + plan.start, match, limit)
        token = paging.encode_token(page.last.removeprefix(within), shown) if page.last else ""
        return Listing(page.entries, shown, token, page.remaining)

    async def _past(self, plan: paging.ListPlan) -> Objects:
        """The objects at an exact revision: undone from the present, or read from the store's history."""
        if plan.exact >= self._window.floor:
            return undo(self._objects, self._window.after(plan.exact))
        try:
            found = await self._store.range(self._prefix, revision=plan.exact)
        except Compacted as error:
            raise paging.too_old(plan) from error
        return self._load(found)

    async def wait_for(self, revision: int) -> None:
        """Return when the cache shows `revision`: read-after-write. ApiError 504 if that takes too long."""
        if self.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (revision, next(self._order), future)
        heapq.heappush(self._waiters, waiter)
        try:
            async with asyncio.timeout(self._patience):
                await future
        except TimeoutError:
            current = self.revision
            if current < 0:
                raise too_many_requests("storage is (re)initializing", 1) from None
            if current < revision:
                raise paging.too_large(revision, current) from None
        finally:
            if not future.done() or future.cancelled():  # nobody waits any more
                self._waiters = [other for other in self._waiters if other is not waiter]
                heapq.heapify(self._waiters)

    # Watching

    async def watch(self, revision: str = "", namespace: str = "", *, match: Match | None = None,
                    bookmarks: bool = False, send_initial_events: bool | None = None) -> CacheWatch:
        """Events after `revision`; "" and "0" begin with an ADDED for everything that is there.

        Objects that enter or leave `match` appear as ADDED or DELETED. ApiError 410 where the window does not reach
        back (upstream sends that as an ERROR event of a 200 answer, not as a 410 answer), 400 for a malformed
        revision. `send_initial_events` True begins with the state whatever the revision, and marks its end with an
        annotated bookmark; False never begins with it (KEP-3157).
        """
        since = paging.parse_revision(revision)
        await self.wait_for(since if send_initial_events and since else self._store.revision if not revision else 0)
        initial = not since if send_initial_events is None else send_initial_events
        after = since if since and not initial else self.revision
        floor = self._window.floor
        if after < floor:
            raise expired(f"too old resource version: {after} ({floor})")
        watch = CacheWatch(self, namespace if self.resource.namespaced else "", match, after, bookmarks=bookmarks,
                           buffer=self._watch_buffer)
        if initial:
            found = self._objects.page(self._within(namespace), "", match, 0).entries
            end = [self.bookmark(initial_end=True)] if send_initial_events else []
            watch.initial = chain((CacheEvent.of("ADDED", entry) for entry in found), end)
        else:
            missed = self._window.after(after)
            watch.initial = (event for step in missed if (event := watch.event(Events(step))))
        self._watches[watch] = None
        return watch

    def _within(self, namespace: str) -> str:
        return f"{namespace}/" if namespace and self.resource.namespaced else ""

    def bookmark(self, *, initial_end: bool = False) -> CacheEvent:
        """Up to where everything has been told by now."""
        return bookmark(self.resource.api_version, self.resource.kind, self.revision, initial_end=initial_end)

    def forget(self, watch: CacheWatch) -> None:
        """Called by a watch that has ended."""
        self._watches.pop(watch, None)

    # Following the store

    async def run(self) -> None:
        """Follow the store until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._send_bookmarks())
        finally:
            for watch in tuple(self._watches):
                watch.end()

    async def _send_bookmarks(self) -> None:
        while True:
            await self._clock.sleep(self._bookmark_interval)
            asking = [watch for watch in self._watches if watch.bookmarks]
            if asking and self.revision >= 0:
                event = self.bookmark()
                for watch in asking:
                    watch.push(event)

    async def _follow(self) -> None:
        """Fill, then apply what happens; after a failure go on from where it broke off, or else fill anew."""
        failures = 0
        while True:
            try:
                if self._applied < 0:
                    await self._fill()
                async with aclosing(self._store.watch(self._prefix, revision=self._applied)) as source:
                    self._source = source
                    self._wake_waiters()
                    async for changes in source:
                        self._apply(changes)
                        failures = 0
            except Compacted:
                failures += 1
                log.info("%s: the store's history does not reach back far enough; listing anew", self._prefix)
                self._hold(-1)
            except StoreError as error:
                failures += 1
                log.warning("%s: following the store: %s", self._prefix, error)
                self._hold(self._applied)
            await self._clock.sleep(self._backoff.delay(failures))

    def _hold(self, revision: int) -> None:
        """The source has ended: nothing newer is known until there is another."""
        self._source = None
        self._applied = revision

    async def _fill(self) -> None:
        """Read all objects.

        As of some time ago, if there is a history: what came since then fills the window, so that the clients of
        this server's predecessor can resume their watches.
        """
        past = max(self._store.compacted, self._store.revision - self._reach, 1)
        try:
            found = await self._store.range(self._prefix, revision=past if past < self._store.revision else 0)
        except Compacted:
            found = await self._store.range(self._prefix)
        for watch in tuple(self._watches):
            watch.end()
        before, self._objects = self._objects, self._load(found)
        for old in before.entries if self._listeners else ():
            self._inform(old, None)
        for new in self._objects.entries if self._listeners else ():
            self._inform(None, new)
        self._window.reset(found.revision)
        self._applied = found.revision
        self._ready_from = max(found.revision, self._store.revision)

    def _load(self, found: Range) -> Objects:
        return Objects.of({record.key[len(self._prefix):]: self._entry(record) for record in found.records})

    def _entry(self, record: Record) -> Entry:
        namespace, name = keys.split(self.resource, record.key)
        return Entry(record.value, record.revision, namespace, name, self._fields)

    def _apply(self, changes: Sequence[Change]) -> None:
        """Take over commits and tell the watchers. Without a pause: reads never see half a batch."""
        now = self._clock.monotonic()
        for change in changes:
            revision = change.record.revision
            if revision <= self._applied:
                continue
            key = change.record.key[len(self._prefix):]
            old = self._objects.by_key.get(key)
            new = None if change.deleted else self._entry(change.record)
            if new is None:
                self._objects.remove(key)
            else:
                self._objects.put(key, new)
            self._applied = revision
            self._inform(old, new)
            step = Step(key, old, new, revision, now)
            self._window.add(step)
            self._tell(step)
        self._wake_waiters()

    def _inform(self, old: Entry | None, new: Entry | None) -> None:
        for listener in self._listeners:
            try:
                listener(old, new)
            except Exception:
                log.exception("%s: a listener failed", self._prefix)

    def _tell(self, step: Step) -> None:
        events = Events(step)
        for watch in tuple(self._watches):
            try:
                event = watch.event(events)
                if event is not None:
                    watch.push(event)
            except Exception:
                log.exception("a selector failed; its watch is ended")
                watch.end()

    def _wake_waiters(self) -> None:
        revision = self.revision
        while self._waiters and self._waiters[0][0] <= revision:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)
