"""Watches out of the cache: the past, selectors, bookmarks, readers that are too slow, a store that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import msgspec
import pytest

from master.apiserver import keys
from master.apiserver.cache import ResourceCache
from master.apiserver.entry import Entry
from master.store.memory import MemoryStore
from master.store.protocol import Range, StoreError, Watch
from sampan.api.errors import ApiError
from sampan.api.resources import EVENTS
from sampan.loop.clock import FakeClock
from tests.support.cache import Writer, running, seen, take

Match = Callable[[Entry], bool]


def app(name: str) -> Match:
    return lambda entry: entry.labels.get("app") == name


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore(unversioned=[keys.prefix(EVENTS)])


@pytest.fixture
async def writer(store: MemoryStore) -> Writer:
    return Writer(store)


@pytest.fixture
async def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def cache(store: MemoryStore, clock: FakeClock) -> AsyncIterator[ResourceCache]:
    async with running(store, clock=clock, window=20) as cache:
        yield cache


async def test_events_as_they_happen(cache: ResourceCache, writer: Writer) -> None:
    async with aclosing(await cache.watch("0")) as watch:
        await writer.put("a/1")
        await writer.put("a/1", app="x")
        await writer.remove("a/1")
        events = await take(watch, 3)
    assert seen(events) == [("ADDED", "1", 1), ("MODIFIED", "1", 2), ("DELETED", "1", 3)]
    lines = [msgspec.json.decode(event.data) for event in events]
    assert [line["type"] for line in lines] == ["ADDED", "MODIFIED", "DELETED"]
    assert [line["object"]["metadata"]["resourceVersion"] for line in lines] == ["1", "2", "3"]
    assert lines[2]["object"]["metadata"]["labels"] == {"app": "x"}
    assert all(event.data.endswith(b"\n") and event.data.count(b"\n") == 1 for event in events)


@pytest.mark.parametrize("revision", ["", "0"])
async def test_a_watch_from_nowhere_begins_with_what_is_there(
        cache: ResourceCache, writer: Writer, revision: str) -> None:
    await writer.put("b/1")
    await writer.put("a/1")
    await cache.list()
    async with aclosing(await cache.watch(revision)) as watch:
        await writer.put("a/1")
        assert seen(await take(watch, 3)) == [("ADDED", "1", 2), ("ADDED", "1", 1), ("MODIFIED", "1", 3)]


async def test_a_watch_resumes_from_a_revision(cache: ResourceCache, writer: Writer) -> None:
    for number in range(1, 6):
        await writer.put(f"a/{number}")
    await cache.list()
    async with aclosing(await cache.watch("3")) as watch:
        await writer.put("a/6")
        assert seen(await take(watch, 3)) == [("ADDED", "4", 4), ("ADDED", "5", 5), ("ADDED", "6", 6)]


async def test_a_watch_of_one_namespace(cache: ResourceCache, writer: Writer) -> None:
    await writer.put("a/1")
    await writer.put("b/1")
    await cache.list()
    async with (aclosing(await cache.watch("0", "a")) as state, aclosing(await cache.watch("1", "a")) as past):
        await writer.put("b/2")
        await writer.put("a/2")
        await writer.remove("b/1")
        await writer.remove("a/1")
        assert seen(await take(state, 3)) == [("ADDED", "1", 1), ("ADDED", "2", 4), ("DELETED", "1", 6)]
        assert seen(await take(past, 2)) == [("ADDED", "2", 4), ("DELETED", "1", 6)]


async def test_objects_enter_and_leave_a_selector(cache: ResourceCache, writer: Writer) -> None:
    async def story() -> None:
        await writer.put("a/1", app="other")
        await writer.put("a/1", app="x", n=1)  # enters
        await writer.put("a/1", app="x", n=2)
        await writer.put("a/1", app="other")  # leaves
        await writer.put("a/1", app="x", n=3)
        await writer.remove("a/1")
        await writer.put("a/2", app="other")
        await writer.remove("a/2")

    expected = [("ADDED", "1", 2), ("MODIFIED", "1", 3), ("DELETED", "1", 4), ("ADDED", "1", 5), ("DELETED", "1", 6)]
    async with aclosing(await cache.watch("0", match=app("x"))) as live:
        await story()
        events = await take(live, 5)
    assert seen(events) == expected
    left = msgspec.json.decode(events[2].data)["object"]["metadata"]
    assert (left["labels"], left["resourceVersion"]) == ({"app": "x", "n": "2"}, "4")
    async with aclosing(await cache.watch("1", match=app("x"))) as past:
        assert seen(await take(past, 5)) == expected


async def test_an_event_is_encoded_once_for_all(cache: ResourceCache, writer: Writer) -> None:
    watches = [await cache.watch("0", match=match) for match in (None, None, app("x"))]
    await writer.put("a/1", app="x")
    await writer.put("a/1", app="y")
    first, second, selected = [await take(watch, 2) for watch in watches]
    assert first[0] is second[0] is selected[0]
    assert first[1] is second[1]
    assert (first[1].type, selected[1].type) == ("MODIFIED", "DELETED")
    for watch in watches:
        await watch.aclose()
    assert cache.watchers == 0


async def test_a_revision_that_the_window_has_lost(cache: ResourceCache, writer: Writer) -> None:
    for number in range(25):
        await writer.put("a/1", number=number)
    await cache.list()
    for revision in ("1", "4"):
        with pytest.raises(ApiError) as error:
            await cache.watch(revision)
        assert (error.value.code, error.value.reason) == (410, "Expired")
        assert str(error.value) == f"too old resource version: {revision} (5)"
    async with aclosing(await cache.watch("5")) as watch:
        assert len(await take(watch, 20)) == 20
    with pytest.raises(ApiError) as error:
        await cache.watch("x")
    assert error.value.code == 400


async def test_the_window_forgets_with_time(store: MemoryStore, clock: FakeClock) -> None:
    writer = Writer(store)
    async with running(store, clock=clock, window_age=300) as cache:
        for number in range(150):
            await writer.put("a/1", number=number)
        await cache.list()
        await clock.advance(301)
        await writer.put("a/1", number=150)
        await cache.list()
        async with aclosing(await cache.watch("51")) as watch:
            assert len(await take(watch, 100)) == 100
        with pytest.raises(ApiError, match="too old resource version: 50 \\(51\\)"):
            await cache.watch("50")


async def test_a_watch_from_the_future_begins_then(cache: ResourceCache, writer: Writer) -> None:
    async with aclosing(await cache.watch("2")) as watch:
        for name in "123":
            await writer.put(f"a/{name}")
        assert seen(await take(watch, 1)) == [("ADDED", "3", 3)]


async def test_bookmarks_tell_the_stores_revision(cache: ResourceCache, writer: Writer, clock: FakeClock) -> None:
    async with (aclosing(await cache.watch("0", bookmarks=True)) as asking,
                aclosing(await cache.watch("0")) as silent):
        await writer.elsewhere()
        await clock.advance(60)
        await writer.put("a/1")
        events = await take(asking, 2)
        assert seen(events) == [("BOOKMARK", "", 1), ("ADDED", "1", 2)]
        assert msgspec.json.decode(events[0].data) == {"type": "BOOKMARK", "object": {
            "kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "creationTimestamp": None}}}
        assert seen(await take(silent, 1)) == [("ADDED", "1", 2)]


async def test_the_end_of_the_state_is_marked_on_demand(cache: ResourceCache, writer: Writer) -> None:
    await writer.put("a/1")
    await cache.list()
    async with aclosing(await cache.watch("1", send_initial_events=True)) as watch:
        events = await take(watch, 2)
    assert seen(events) == [("ADDED", "1", 1), ("BOOKMARK", "", 1)]
    assert msgspec.json.decode(events[1].data)["object"]["metadata"]["annotations"] == {
        "k8s.io/initial-events-end": "true"}
    async with aclosing(await cache.watch("", send_initial_events=False)) as watch:
        await writer.put("a/2")
        assert seen(await take(watch, 1)) == [("ADDED", "2", 2)]


async def test_a_slow_reader_gets_what_was_kept_and_then_the_end(store: MemoryStore) -> None:
    writer = Writer(store)
    async with running(store, watch_buffer=3) as cache:
        slow, fast = await cache.watch("0"), await cache.watch("0")
        for number in range(6):
            await writer.put(f"a/{number}")
            await take(fast, 1)
        assert seen(await take(slow, 4)) == [("ADDED", str(number), number + 1) for number in range(4)]
        with pytest.raises(StopAsyncIteration):
            await slow.__anext__()
        assert cache.watchers == 1
        async with aclosing(await cache.watch("4")) as resumed:
            assert seen(await take(resumed, 2)) == [("ADDED", "4", 5), ("ADDED", "5", 6)]
        await fast.aclose()


async def test_no_bookmark_hides_what_a_slow_reader_has_missed(store: MemoryStore) -> None:
    """The bookmark before a watch's time is over comes by a timer, which the watch's end does not stop."""
    writer = Writer(store)
    async with running(store, watch_buffer=3) as cache:
        slow, fast = await cache.watch("0", bookmarks=True), await cache.watch("0")
        for number in range(6):
            await writer.put(f"a/{number}")
            await take(fast, 1)
        slow.mark()
        assert [event.revision for event in await slow.__anext__()] == [1, 2, 3, 4]
        slow.mark()
        with pytest.raises(StopAsyncIteration):
            await slow.__anext__()
        await fast.aclose()


async def test_a_large_state_does_not_count_as_slowness(store: MemoryStore) -> None:
    writer = Writer(store)
    for number in range(1200):
        await writer.put(f"a/{number:04}")
    async with running(store, watch_buffer=3) as cache:
        async with aclosing(await cache.watch("")) as watch:
            await writer.put("a/live")
            await cache.list()
            events = await take(watch, 1201)
        assert [event.revision for event in events] == list(range(1, 1202))


async def test_a_failing_selector_ends_its_own_watch_only(cache: ResourceCache, writer: Writer) -> None:
    def broken(entry: Entry) -> bool:
        raise KeyError(entry.name)
    bad, good = await cache.watch("0", match=broken), await cache.watch("0")
    await writer.put("a/1")
    assert len(await take(good, 1)) == 1
    with pytest.raises(StopAsyncIteration):
        await bad.__anext__()
    await good.aclose()


async def test_a_hundred_watches_and_one_write(cache: ResourceCache, writer: Writer) -> None:
    watches = [await cache.watch("0", match=app("x") if number % 2 else None) for number in range(100)]
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(take(watch, 1)) for watch in watches]
        await asyncio.sleep(0)
        await writer.put("a/1", app="x")
    assert all(seen(reader.result()) == [("ADDED", "1", 1)] for reader in readers)


class Breakable(MemoryStore):
    """Breaks its watches when told to, and counts lists."""

    def __init__(self) -> None:
        super().__init__(unversioned=[keys.prefix(EVENTS)], recent=5)
        self.lists = 0

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Range:
        self.lists += 1
        return await super().range(prefix, start=start, limit=limit, revision=revision)

    def break_watches(self) -> None:
        for watch in tuple(self._feed._watches):
            watch.end(StoreError("broken by the test"))


async def test_a_broken_store_watch_is_resumed_without_a_list() -> None:
    store, clock = Breakable(), FakeClock()
    writer = Writer(store)
    await writer.put("a/1")
    async with running(store, clock=clock) as cache:
        async with aclosing(await cache.watch("")) as watch:
            await cache.list()
            lists = store.lists
            store.break_watches()
            await clock.settle()
            await writer.put("a/2")
            await clock.advance(1)
            await writer.put("a/3")
            assert seen(await take(watch, 3)) == [("ADDED", "1", 1), ("ADDED", "2", 2), ("ADDED", "3", 3)]
        assert store.lists == lists
        assert len((await cache.list()).entries) == 3


async def test_where_history_does_not_reach_back_the_cache_lists_and_watchers_must_too() -> None:
    store, clock = Breakable(), FakeClock()
    writer = Writer(store)
    await writer.put("a/1")
    async with running(store, clock=clock) as cache:
        async with aclosing(await cache.watch("")) as watch:
            assert len(await take(watch, 1)) == 1
            store.break_watches()
            await clock.settle()
            await writer.put("a/2")
            await store.compact(2)
            await clock.advance(5)
            with pytest.raises(StopAsyncIteration):
                await watch.__anext__()
        found = await cache.list()
        assert (len(found.entries), found.revision) == (2, 2)
        with pytest.raises(ApiError, match="too old resource version: 1 \\(2\\)"):
            await cache.watch("1")


async def test_who_keeps_an_index_is_told_of_all_when_the_cache_lists_anew() -> None:
    """Of what is gone too: roles and nodes' pods are known from that."""
    store, clock = Breakable(), FakeClock()
    writer = Writer(store)
    for name in ("a/gone", "a/kept"):
        await writer.put(name)
    index: set[str] = set()

    def listener(old: Entry | None, new: Entry | None) -> None:
        if old is not None:
            index.remove(old.name)
        if new is not None:
            index.add(new.name)

    async with running(store, clock=clock) as cache:
        await cache.list()
        cache.listen(listener)
        assert index == {"gone", "kept"}
        store.break_watches()
        await clock.settle()
        await writer.remove("a/gone")
        await writer.put("a/new")
        await store.compact(store.revision)
        await clock.advance(5)
        await cache.list()
        assert index == {"kept", "new"}


async def test_kinds_without_history_have_no_gap_after_a_failure() -> None:
    store, clock = Breakable(), FakeClock()
    writer = Writer(store, EVENTS)
    await writer.put("a/1")
    async with running(store, EVENTS, clock=clock) as cache:
        await cache.list()
        store.break_watches()
        await clock.settle()
        for number in range(20):
            await writer.put(f"a/{number}")
        await clock.advance(5)
        assert len((await cache.list()).entries) == 20


async def test_a_new_server_lets_its_predecessors_clients_resume(store: MemoryStore, writer: Writer) -> None:
    for number in range(1, 9):
        await writer.put(f"a/{number}")
    await writer.remove("a/1")
    await store.compact(3)
    async with running(store) as cache:
        assert len((await cache.list()).entries) == 7
        async with aclosing(await cache.watch("3")) as watch:
            events = await take(watch, 6)
        assert seen(events)[-1] == ("DELETED", "1", 9)
        with pytest.raises(ApiError, match="too old resource version: 2 \\(3\\)"):
            await cache.watch("2")


async def test_the_past_is_not_shown_while_it_is_caught_up_with(store: MemoryStore, writer: Writer) -> None:
    for number in range(5):
        await writer.put("a/1", number=number)
    async with running(store) as cache:
        entry = await cache.get("a", "1", revision="0")
        assert entry is not None
        assert entry.revision == 5


async def test_objects_are_never_changed_in_place(cache: ResourceCache, writer: Writer) -> None:
    first = await writer.put("a/1", app="x")
    before = await cache.get("a", "1")
    listing = await cache.list()
    assert before is not None
    tree, copy = before.tree, before.decode()
    async with aclosing(await cache.watch("1", match=app("x"))) as watch:
        await writer.put("a/1", app="y")
        await writer.put("a/1", app="x", more=1)
        await writer.remove("a/1")
        await take(watch, 3)
    await cache.list()
    assert listing.entries == [before]
    assert (before.raw, before.revision, before.labels) == (first.value, first.revision, {"app": "x"})
    assert before.tree is tree
    assert tree == copy
    with pytest.raises(TypeError):
        before.raw[0] = 0  # type: ignore[index]


async def test_a_change_in_place_is_found_out(cache: ResourceCache, writer: Writer) -> None:
    await writer.put("a/1", app="x")
    entry = await cache.get("a", "1")
    assert entry is not None
    entry.tree["metadata"]["labels"]["app"] = "own"  # what no code of ours may do
    assert cache.altered() == [entry]


async def test_a_store_watch_is_closed_with_the_cache(store: MemoryStore) -> None:
    async with running(store) as cache:
        await cache.list()
        source: Watch | None = cache._source
        watch = await cache.watch("")
    assert source is not None
    assert not store._feed._watches
    with pytest.raises(StopAsyncIteration):
        await watch.__anext__()
