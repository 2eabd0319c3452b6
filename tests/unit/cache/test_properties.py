"""Whatever is written: watches add up to the list, and the past is what it was."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from master.apiserver.entry import CacheEvent, Entry
from master.store.memory import MemoryStore
from tests.support.cache import Writer, running

paths = st.sampled_from(["a/1", "a/2", "a-b/1", "b/1", "b/2"])
operations = st.lists(st.tuples(paths, st.sampled_from(["x", "y", ""])), min_size=1, max_size=25)
State = dict[str, bytes]


def selected(entry: Entry) -> bool:
    return entry.labels.get("app") == "x"


async def apply(writer: Writer, path: str, app: str) -> None:
    """Write the object with that label; "" removes it if it is there, and else creates it without one."""
    if app:
        await writer.put(path, app=app)
    elif await writer.store.get(writer.key(path)):
        await writer.remove(path)
    else:
        await writer.put(path)


def fold(state: State, events: list[CacheEvent]) -> State:
    """What a client believes after the events. They must be possible: no ADDED of what it has, no DELETED else."""
    for event in events:
        assert event.entry is not None
        path = f"{event.entry.namespace}/{event.entry.name}"
        assert (path in state) == (event.type != "ADDED")
        if event.type == "DELETED":
            del state[path]
        else:
            state[path] = event.entry.raw
    return state


def state_of(entries: object) -> State:
    assert isinstance(entries, list)
    return {f"{entry.namespace}/{entry.name}": entry.raw for entry in entries}


@given(operations, st.booleans(), st.sampled_from(["", "a"]), st.integers(0, 25))
@settings(max_examples=60, deadline=None)
def test_watches_add_up_to_the_list(
        done: list[tuple[str, str]], select: bool, namespace: str, watched_after: int) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        writer = Writer(store)
        match = selected if select else None
        async with running(store) as cache:
            for path, app in done[:watched_after]:
                await apply(writer, path, app)
            listing = await cache.list(namespace, match=match)
            live = await cache.watch(str(listing.revision or ""), namespace, match=match)
            for path, app in done[watched_after:]:
                await apply(writer, path, app)
            late = await cache.watch("0", namespace, match=match)
            expected = await cache.list(namespace, match=match)
            resumed = await cache.watch(str(listing.revision), namespace, match=match)
            for watch, state in ((live, state_of(listing.entries)), (late, State()),
                                 (resumed, state_of(listing.entries))):
                watch.end()
                events = [event async for batch in watch for event in batch]
                assert fold(state, events) == state_of(expected.entries)
            assert not cache.altered()
    asyncio.run(scenario())


@given(operations, st.integers(1, 3), st.sampled_from(["", "a"]))
@settings(max_examples=60, deadline=None)
def test_the_past_is_what_it_was(done: list[tuple[str, str]], limit: int, namespace: str) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        writer = Writer(store)
        async with running(store, window=8) as cache:
            past: list[tuple[int, State]] = []
            for path, app in done:
                await apply(writer, path, app)
                listing = await cache.list(namespace)
                past.append((listing.revision, state_of(listing.entries)))
            for revision, state in past:
                page = await cache.list(namespace, revision=str(revision), revision_match="Exact", limit=limit)
                found = list(page.entries)
                while page.continue_token:
                    assert page.remaining == len(state) - len(found)
                    page = await cache.list(namespace, limit=limit, continue_token=page.continue_token)
                    found += page.entries
                assert page.revision == revision
                assert state_of(found) == state
                assert [entry.name for entry in found] == [path.split("/")[1] for path in sorted(state)]
    asyncio.run(scenario())
