"""What every store does, in memory, in SQLite, and encrypted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from master.store.encrypted import EncryptedStore
from master.store.memory import MemoryStore
from master.store.protocol import (
    Change,
    Compacted,
    KeyExists,
    KeyMissing,
    RevisionConflict,
    Store,
    StoreError,
    Watch,
)
from master.store.sqlite import SqliteStore

BUFFER = 50
EVENTS = "/registry/core/events/"
PODS = "/registry/core/pods/"


@pytest.fixture(params=["memory", "sqlite", "encrypted memory", "encrypted sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    inner: Store
    if "memory" in request.param:
        inner = MemoryStore(unversioned=[EVENTS], watch_buffer=BUFFER)
    else:
        inner = await SqliteStore.open(tmp_path / "store.db", unversioned=[EVENTS], watch_buffer=BUFFER)
    if "encrypted" in request.param:
        inner = await EncryptedStore.open(inner, tmp_path / "key", ["/registry/"])
    yield inner
    await inner.close()


async def take(watch: Watch, count: int) -> list[Change]:
    changes: list[Change] = []
    while len(changes) < count:
        changes += await asyncio.wait_for(watch.__anext__(), 60)
    return changes


async def test_a_new_store_is_at_revision_0_and_empty(store: Store) -> None:
    assert store.revision == 0
    assert store.compacted == 0
    assert await store.get("/a") is None
    assert (await store.range("/")).records == []


async def test_a_store_answers_until_it_is_closed(store: Store) -> None:
    revision = store.revision
    await asyncio.wait_for(store.ping(), 60)
    assert store.revision == revision
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.ping()


async def test_create_then_get(store: Store) -> None:
    written = await store.create(PODS + "a", b"one")
    assert (written.key, written.value, written.revision, written.created) == (PODS + "a", b"one", 1, 1)
    assert await store.get(PODS + "a") == written
    assert store.revision == 1


async def test_create_of_a_key_that_exists(store: Store) -> None:
    await store.create(PODS + "a", b"one")
    with pytest.raises(KeyExists):
        await store.create(PODS + "a", b"two")
    assert store.revision == 1


async def test_update_keeps_the_creation_revision(store: Store) -> None:
    await store.create(PODS + "other", b"")
    first = await store.create(PODS + "a", b"one")
    second = await store.update(PODS + "a", b"two", expected=first.revision)
    assert (second.value, second.revision, second.created) == (b"two", 3, 2)
    assert await store.get(PODS + "a") == second


@pytest.mark.parametrize("key", [PODS + "a", EVENTS + "a"])
async def test_update_and_delete_of_another_revision_tell_what_stands_there(store: Store, key: str) -> None:
    first = await store.create(key, b'{"r":""}', slot=6)
    second = await store.update(key, b'{"r":""}', expected=first.revision, slot=6)
    with pytest.raises(RevisionConflict) as update:
        await store.update(key, b"three", expected=first.revision)
    assert update.value.current == second
    with pytest.raises(RevisionConflict) as delete:
        await store.delete(key, expected=first.revision)
    assert delete.value.current == second
    assert second.value == b'{"r":"2"}'


@pytest.mark.parametrize("key", [PODS + "a", EVENTS + "a"])
async def test_update_and_delete_of_a_missing_key(store: Store, key: str) -> None:
    with pytest.raises(KeyMissing):
        await store.update(key, b"one", expected=1)
    with pytest.raises(KeyMissing):
        await store.delete(key, expected=1)
    first = await store.create(key, b"one")
    await store.delete(key, expected=first.revision)
    with pytest.raises(KeyMissing):
        await store.delete(key, expected=first.revision)


@pytest.mark.parametrize("key", [PODS + "a", EVENTS + "a"])
async def test_delete_returns_the_last_value_at_the_deletions_revision(store: Store, key: str) -> None:
    first = await store.create(key, b'{"r":""}', slot=6)
    gone = await store.delete(key, expected=first.revision)
    assert (gone.value, gone.revision, gone.created) == (b'{"r":"1"}', 2, 1)
    assert await store.get(key) is None
    assert (await store.range(key)).records == []
    again = await store.create(key, b"two")
    assert (again.revision, again.created) == (3, 3)


async def test_the_revision_is_spliced_into_the_slot(store: Store) -> None:
    value = b'{"metadata":{"resourceVersion":""},"x":1}'
    slot = value.index(b'""') + 1
    first = await store.create(PODS + "a", value, slot=slot)
    assert first.value == b'{"metadata":{"resourceVersion":"1"},"x":1}'
    second = await store.update(PODS + "a", value, expected=1, slot=slot)
    assert second.value == b'{"metadata":{"resourceVersion":"2"},"x":1}'
    assert (await store.range(PODS)).records == [second]
    async with aclosing(store.watch(PODS, revision=0)) as watch:
        changes = await take(watch, 2)
    assert [change.record for change in changes] == [first, second]
    assert changes[1].previous == first.value


async def test_a_slot_at_either_end_and_values_of_any_bytes(store: Store) -> None:
    assert (await store.create("/start", b"\x00\xff", slot=0)).value == b"1\x00\xff"
    assert (await store.create("/end", b"\x00\xff", slot=2)).value == b"\x00\xff2"
    assert (await store.create("/empty", b"")).value == b""
    with pytest.raises(StoreError, match="slot"):
        await store.create("/outside", b"ab", slot=3)


@pytest.mark.parametrize("key", ["", "/registry/ü"])
async def test_keys_are_ascii(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="cannot be a key"):
        await store.create(key, b"")


async def test_range_is_in_key_order_and_of_the_prefix_alone(store: Store) -> None:
    for name in ("b/2", "a/1", "ab/3", "a-b/4", "a/0"):
        await store.create(PODS + name, name.encode())
    await store.create("/registry/core/podtemplates/a/1", b"other")
    found = await store.range(PODS)
    assert [record.value for record in found.records] == [b"a-b/4", b"a/0", b"a/1", b"ab/3", b"b/2"]
    assert found.revision == 6
    assert not found.more
    assert [record.value for record in (await store.range(PODS + "a/")).records] == [b"a/0", b"a/1"]
    assert len((await store.range("")).records) == 6


async def test_range_with_limit_and_start(store: Store) -> None:
    for number in range(5):
        await store.create(f"{PODS}{number}", b"%d" % number)
    first = await store.range(PODS, limit=2)
    assert ([r.value for r in first.records], first.more, first.remaining) == ([b"0", b"1"], True, 3)
    rest = await store.range(PODS, start=first.records[-1].key + "\0", limit=3)
    assert ([r.value for r in rest.records], rest.more, rest.remaining) == ([b"2", b"3", b"4"], False, 0)
    assert (await store.range(PODS, start=PODS + "4")).records[0].value == b"4"
    assert (await store.range(PODS, start="/")).remaining == 0
    assert (await store.range(PODS, start="/z")).records == []


async def test_range_at_an_old_revision(store: Store) -> None:
    a = await store.create(PODS + "a", b'{"r":""}', slot=6)
    b = await store.create(PODS + "b", b"b1")
    a2 = await store.update(PODS + "a", b"a2", expected=a.revision)
    await store.delete(PODS + "b", expected=b.revision)
    c = await store.create(PODS + "c", b"c1")
    states = [[], [a], [a, b], [a2, b], [a2], [a2, c]]
    for revision in range(1, 6):
        found = await store.range(PODS, revision=revision)
        assert found.records == states[revision]
        assert found.revision == revision
    paged = await store.range(PODS, revision=3, limit=1)
    assert (paged.records, paged.more, paged.remaining) == ([a2], True, 1)


async def test_the_future_cannot_be_read(store: Store) -> None:
    await store.create(PODS + "a", b"one")
    with pytest.raises(StoreError, match="future"):
        await store.range(PODS, revision=2)
    with pytest.raises(StoreError, match="future"):
        await store.compact(2)


async def test_watch_follows_what_happens(store: Store) -> None:
    async with aclosing(store.watch(PODS, revision=0)) as watch:
        first = await store.create(PODS + "a", b"one")
        await store.create("/registry/core/nodes/a", b"not mine")
        second = await store.update(PODS + "a", b"two", expected=first.revision)
        gone = await store.delete(PODS + "a", expected=second.revision)
        assert await take(watch, 3) == [Change(first, None), Change(second, b"one", 1),
                                        Change(gone, b"two", 3, deleted=True)]
        assert watch.progress == 4


async def test_watch_wakes_for_a_later_write(store: Store) -> None:
    async with aclosing(store.watch(PODS, revision=0)) as watch, asyncio.TaskGroup() as group:
        waiting = group.create_task(take(watch, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
        record = await store.create(PODS + "a", b"one")
        assert await waiting == [Change(record, None)]


async def test_watch_replays_the_past_first(store: Store) -> None:
    first = await store.create(PODS + "a", b'{"r":""}', slot=6)
    await store.create("/registry/core/nodes/a", b"not mine")
    gone = await store.delete(PODS + "a", expected=1)
    again = await store.create(PODS + "a", b"two")
    async with aclosing(store.watch(PODS, revision=0)) as watch:
        live = await store.update(PODS + "a", b"three", expected=again.revision)
        assert await take(watch, 4) == [
            Change(first, None), Change(gone, first.value, 1, deleted=True), Change(again, None),
            Change(live, b"two", 4)]
    async with aclosing(store.watch(PODS, revision=3)) as watch:
        assert [change.record for change in await take(watch, 2)] == [again, live]


async def test_a_long_past_comes_whole_while_more_is_written(store: Store) -> None:
    for number in range(1, 1201):
        await store.create(f"{PODS}{number:05}", b"x")
    async with aclosing(store.watch(PODS, revision=100)) as watch:
        await store.create(PODS + "live", b"x")
        changes = await take(watch, 1101)
        assert [change.record.revision for change in changes] == list(range(101, 1202))


async def test_progress_counts_what_does_not_concern_the_watch(store: Store) -> None:
    async with aclosing(store.watch(PODS, revision=0)) as watch:
        assert watch.progress == 0
        await store.create("/registry/core/nodes/a", b"")
        assert watch.progress == 1
        await store.create(PODS + "a", b"")
        await store.create("/registry/core/nodes/b", b"")
        assert watch.progress == 1  # the pod is waiting to be taken
        await take(watch, 1)
        assert watch.progress == 3


async def test_a_watch_from_the_future_waits_for_it(store: Store) -> None:
    async with aclosing(store.watch(PODS, revision=2)) as watch:
        for name in "abc":
            await store.create(PODS + name, b"")
        assert [change.record.key for change in await take(watch, 1)] == [PODS + "c"]


async def test_a_slow_watch_is_ended(store: Store) -> None:
    slow, fast = store.watch(PODS, revision=0), store.watch(PODS, revision=0)
    for number in range(BUFFER + 1):
        await store.create(f"{PODS}{number}", b"")
        await take(fast, 1)
    with pytest.raises(StoreError, match="too slow"):
        await slow.__anext__()
    with pytest.raises(StopAsyncIteration):
        await slow.__anext__()
    await store.create(PODS + "more", b"")
    await take(fast, 1)
    await fast.aclose()


async def test_aclose_ends_the_iteration(store: Store) -> None:
    watch = store.watch(PODS, revision=0)
    await watch.aclose()
    await store.create(PODS + "a", b"")
    assert [batch async for batch in watch] == []


async def test_compaction_forgets_the_past_and_keeps_the_present(store: Store) -> None:
    a = await store.create(PODS + "a", b"a1")
    b = await store.create(PODS + "b", b"b1")
    a2 = await store.update(PODS + "a", b"a2", expected=a.revision)
    await store.delete(PODS + "b", expected=b.revision)
    a3 = await store.update(PODS + "a", b"a3", expected=a2.revision)
    await store.compact(3)
    assert store.compacted == 3
    with pytest.raises(Compacted) as old:
        await store.range(PODS, revision=2)
    assert old.value.oldest == 3
    with pytest.raises(Compacted):
        await store.watch(PODS, revision=2).__anext__()
    assert (await store.range(PODS, revision=3)).records == [a2, b]
    async with aclosing(store.watch(PODS, revision=3)) as watch:
        changes = await take(watch, 2)
    assert [(change.deleted, change.previous) for change in changes] == [(True, b"b1"), (False, b"a2")]
    await store.compact(5)
    await store.compact(1)  # nothing to do
    assert store.compacted == 5
    assert (await store.range(PODS)).records == [a3]
    assert await store.get(PODS + "b") is None


async def test_keys_without_history_share_the_revision_and_have_no_past(store: Store) -> None:
    pod = await store.create(PODS + "a", b"")
    event = await store.create(EVENTS + "a", b"one")
    event2 = await store.update(EVENTS + "a", b"two", expected=event.revision)
    assert event2.revision == 3
    assert (await store.range(EVENTS)).records == [event2]
    assert (await store.range(EVENTS, revision=3)).records == [event2]
    for prefix in (EVENTS, "/registry/"):
        with pytest.raises(Compacted) as old:
            await store.range(prefix, revision=2)
        assert old.value.oldest == 3
    assert (await store.range(PODS, revision=1)).records == [pod]


async def test_a_watch_of_keys_without_history_has_no_gap(store: Store) -> None:
    start = store.revision
    event = await store.create(EVENTS + "a", b"one")
    event2 = await store.update(EVENTS + "a", b"two", expected=event.revision)
    gone = await store.delete(EVENTS + "a", expected=event2.revision)
    async with aclosing(store.watch(EVENTS, revision=start)) as watch:
        assert await take(watch, 3) == [Change(event, None), Change(event2, b"one", 1),
                                        Change(gone, b"two", 2, deleted=True)]
    with pytest.raises(Compacted):  # a mixed prefix has a past that is known in part only
        await store.watch("/registry/", revision=start).__anext__()


async def test_a_watch_of_keys_without_history_from_too_long_ago(store: Store) -> None:
    event = await store.create(EVENTS + "a", b"")
    for _ in range(1001):
        event = await store.update(EVENTS + "a", b"", expected=event.revision)
    with pytest.raises(Compacted) as old:
        await store.watch(EVENTS, revision=1).__anext__()
    assert old.value.oldest == store.revision


async def test_concurrent_writers_are_serialised(store: Store) -> None:
    await store.create(PODS + "counter", b"0")

    async def count() -> None:
        for _ in range(5):
            while True:
                current = await store.get(PODS + "counter")
                assert current is not None
                try:
                    await store.update(PODS + "counter", b"%d" % (int(current.value) + 1), expected=current.revision)
                    break
                except RevisionConflict:
                    continue

    async with aclosing(store.watch(PODS, revision=1)) as watch:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(count())
        changes = await take(watch, 40)
    assert [change.record.value for change in changes] == [b"%d" % number for number in range(1, 41)]
    assert [change.record.revision for change in changes] == list(range(2, 42))


async def test_a_closed_store_refuses_and_ends_its_watches(store: Store) -> None:
    watch = store.watch(PODS, revision=0)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await watch.__anext__()
    with pytest.raises(StoreError, match="closed"):
        await store.create(PODS + "a", b"")
    with pytest.raises(StoreError, match="closed"):
        await store.get(PODS + "a")
    with pytest.raises(StoreError, match="closed"):
        await store.watch(PODS, revision=0).__anext__()
    await store.close()
