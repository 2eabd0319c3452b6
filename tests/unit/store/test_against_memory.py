"""SQLite and the memory store agree whatever is done to them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from master.store.memory import MemoryStore
from master.store.protocol import Change, Compacted, Store, StoreError
from master.store.sqlite import SqliteStore

EVENTS, PODS = "/e/", "/p/"
PREFIXES = (PODS, EVENTS, PODS + "a", "/")
keys = st.sampled_from([PODS + "a", PODS + "ab", PODS + "b/1", PODS + "b/2", EVENTS + "a", EVENTS + "b"])
prefixes = st.sampled_from(PREFIXES)
values = st.binary(max_size=20)
back = st.integers(0, 12)  # how far before the present
off = st.sampled_from([0, 0, 0, 1])  # mostly the right revision to expect


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryStore(unversioned=[EVENTS])
        self.sqlite = self.run(self.open())

    async def open(self) -> SqliteStore:
        return await SqliteStore.open(Path(self.folder.name) / "store.db", unversioned=[EVENTS], synchronous="OFF")

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work
        return self.runner.run(wait())

    def both(self, call: Callable[[Store], Awaitable[Any]]) -> Any:
        """Do the same to both; they must give the same answer or the same refusal."""
        async def attempt(store: Store) -> Any:
            try:
                return await call(store)
            except StoreError as error:
                return type(error), str(error)
        async def compare() -> Any:
            one, other = await attempt(self.memory), await attempt(self.sqlite)
            assert one == other
            return one
        return self.run(compare())

    def current(self, key: str) -> int:
        record = self.run(self.memory.get(key))
        return record.revision if record else 1

    @rule(key=keys, value=values, slot=st.none() | st.integers(0, 20))
    def create(self, key: str, value: bytes, slot: int | None) -> None:
        async def call(store: Store) -> Any:
            return await store.create(key, value, slot=slot)
        self.both(call)

    @rule(key=keys, value=values, slot=st.none() | st.integers(0, 20), wrong=off)
    def update(self, key: str, value: bytes, slot: int | None, wrong: int) -> None:
        expected = self.current(key) + wrong
        async def call(store: Store) -> Any:
            return await store.update(key, value, expected=expected, slot=slot)
        self.both(call)

    @rule(key=keys, wrong=off)
    def delete(self, key: str, wrong: int) -> None:
        expected = self.current(key) + wrong
        async def call(store: Store) -> Any:
            return await store.delete(key, expected=expected)
        self.both(call)

    @rule(prefix=prefixes, start=st.sampled_from(["", PODS, PODS + "ab\0", EVENTS + "b"]), limit=st.integers(0, 4))
    def read(self, prefix: str, start: str, limit: int) -> None:
        async def call(store: Store) -> Any:
            return await store.range(prefix, start=start, limit=limit)
        self.both(call)

    @rule(prefix=prefixes, limit=st.integers(0, 3), ago=back)
    def read_the_past(self, prefix: str, limit: int, ago: int) -> None:
        revision = max(1, self.memory.revision - ago)
        async def call(store: Store) -> Any:
            return await store.range(prefix, limit=limit, revision=revision)
        self.both(call)

    @precondition(lambda self: self.memory.revision > 0)
    @rule(prefix=st.sampled_from([PODS, PODS + "a"]), ago=st.integers(1, 12))
    def replay(self, prefix: str, ago: int) -> None:
        revision = max(0, self.memory.revision - ago)
        async def call(store: Store) -> Any:
            watch = store.watch(prefix, revision=revision)
            changes: list[Change] = []
            while watch.progress < store.revision:
                changes += await watch.__anext__()
            await watch.aclose()
            return changes
        self.both(call)

    @precondition(lambda self: self.memory.revision > 0)
    @rule(ago=st.integers(1, 12))
    def replay_without_history(self, ago: int) -> None:
        """All or nothing: what a store still holds in memory may differ, but there is never a gap."""
        revision = max(0, self.memory.revision - ago)
        async def replay(store: Store) -> list[Change] | None:
            watch = store.watch(EVENTS, revision=revision)
            try:
                changes: list[Change] = []
                while watch.progress < store.revision:
                    changes += await watch.__anext__()
                return changes
            except Compacted:
                return None
            finally:
                await watch.aclose()
        kept = self.run(replay(self.sqlite))
        assert kept is None or kept == self.run(replay(self.memory))

    @rule(ago=back)
    def compact(self, ago: int) -> None:
        revision = max(0, self.memory.revision - ago)
        async def call(store: Store) -> Any:
            return await store.compact(revision)
        self.both(call)

    @rule()
    def reopen(self) -> None:
        self.run(self.sqlite.close())
        self.sqlite = self.run(self.open())

    @invariant()
    def same(self) -> None:
        assert (self.sqlite.revision, self.sqlite.compacted) == (self.memory.revision, self.memory.compacted)

    def teardown(self) -> None:
        self.run(self.sqlite.close())
        self.runner.close()
        self.folder.cleanup()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=40, stateful_step_count=40, deadline=None,
                               suppress_health_check=[HealthCheck.too_slow])
