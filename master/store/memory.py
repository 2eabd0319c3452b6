"""The store in memory: the fake for tests, and the simplest thing that fulfils the protocol."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from master.store.common import History, Unversioned, Write, check, future_revision, prefix_end, splice
from master.store.feed import Feed
from master.store.protocol import Change, Compacted, Range, Record, StoreError, Watch


class MemoryStore:
    """Keeps the newest record of each key, and the changes that led there since the last compaction."""

    def __init__(self, *, unversioned: Sequence[str] = (), revision: int = 0, watch_buffer: int = 10_000,
                 recent: int = 1_000) -> None:
        self._unversioned = Unversioned(tuple(unversioned))
        self._records: dict[str, Record] = {}
        self._changes: list[Change] = []  # of keys with history, ascending
        self._compacted = revision
        self._closed = False
        self._feed = Feed(self._unversioned, revision, self._replay, buffer=watch_buffer, recent=recent)

    @property
    def revision(self) -> int:
        """The revision of the last commit."""
        return self._feed.revision

    @property
    def compacted(self) -> int:
        """The oldest revision that can be read or watched from."""
        return self._compacted

    async def get(self, key: str) -> Record | None:
        """The key as it is now."""
        self._check_open()
        return self._records.get(key)

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Range:
        """Keys with a prefix."""
        self._check_open()
        revision = revision or self.revision
        first, end = max(prefix, start), prefix_end(prefix)
        found = [record for key, record in sorted(self._at(prefix, revision).items()) if first <= key < end]
        page = found[:limit] if limit else found
        return Range(page, revision, len(page) < len(found), len(found) - len(page))

    async def create(self, key: str, value: bytes, *, slot: int | None = None) -> Record:
        """Write a new key."""
        return self._apply(Write(key, value, None, slot))

    async def update(self, key: str, value: bytes, *, expected: int, slot: int | None = None) -> Record:
        """Write a key whose revision is `expected`."""
        return self._apply(Write(key, value, expected, slot))

    async def delete(self, key: str, *, expected: int) -> Record:
        """Remove a key whose revision is `expected`."""
        return self._apply(Write(key, None, expected))

    def watch(self, prefix: str, *, revision: int) -> Watch:
        """Commits after `revision`."""
        return self._feed.watch(prefix, revision)

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`."""
        self._check_open()
        if revision > self.revision:
            raise future_revision(revision, self.revision)
        self._compacted = max(self._compacted, revision)
        self._changes = self._changes[self._index_after(self._compacted):]

    async def ping(self) -> None:
        """Nobody has to be asked."""
        self._check_open()

    async def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._feed.close()

    def _apply(self, write: Write) -> Record:
        self._check_open()
        current = self._records.get(write.key)
        check(write, current)
        revision = self.revision + 1
        if write.value is None:
            assert current is not None
            record = Record(write.key, current.value, revision, current.created)
            del self._records[write.key]
        else:
            record = Record(write.key, splice(write.value, write.slot, revision), revision,
                            current.created if current else revision)
            self._records[write.key] = record
        change = Change(record, current.value if current else None, current.revision if current else 0,
                        write.value is None)
        if write.key not in self._unversioned:
            self._changes.append(change)
        self._feed.publish([change])
        return record

    def _at(self, prefix: str, revision: int) -> dict[str, Record]:
        """All records as of a revision: the present, with the changes since taken back, newest first."""
        if revision == self.revision:
            return self._records
        if revision > self.revision:
            raise future_revision(revision, self.revision)
        if revision < self._compacted:
            raise Compacted(self._compacted)
        if self._unversioned.history(prefix) is not History.KEPT:
            raise Compacted(self.revision)
        records = dict(self._records)
        for change in reversed(self._changes[self._index_after(revision):]):
            key, created = change.record.key, change.record.created
            if change.previous is None:
                del records[key]
            else:
                records[key] = Record(key, change.previous, change.previous_revision, created)
        return records

    async def _replay(self, prefix: str, after: int, until: int) -> tuple[Sequence[Change], int]:
        if after < self._compacted:
            raise Compacted(self._compacted)
        return [change for change in self._changes[self._index_after(after):self._index_after(until)]
                if change.record.key.startswith(prefix)], until

    def _index_after(self, revision: int) -> int:
        return bisect_left(self._changes, revision + 1, key=lambda change: change.record.revision)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")
