"""The Store protocol: keys to bytes under one global revision, as etcd has it.

Values are whole JSON objects already encoded. The writer knows an object's revision only when it commits, so a
write may name a `slot`: the offset in the value at which the revision's decimal digits are inserted. What is read
back is ready to be sent to a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Record:
    """A key's value as of `revision`, the revision of its last write; `created` is that of its first."""

    key: str
    value: bytes
    revision: int
    created: int


@dataclass(frozen=True, slots=True)
class Change:
    """A committed write. A deletion has the deletion's revision in `record.revision` and the last value in it.

    `previous` is the value before and `previous_revision` that value's revision; None and 0 for a creation.
    """

    record: Record
    previous: bytes | None
    previous_revision: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Records in key order, read at `revision`; `more` says whether the limit cut it, `remaining` by how many."""

    records: Sequence[Record]
    revision: int
    more: bool = False
    remaining: int = 0


class StoreError(Exception):
    """The store cannot do that now; the message says what to do."""


class KeyExists(StoreError):
    """Create found the key."""


class KeyMissing(StoreError):
    """Update or delete found no such key."""


class RevisionConflict(StoreError):
    """The key's revision is another than expected; `current` is what stands there."""

    def __init__(self, current: Record) -> None:
        super().__init__(f"{current.key} is at revision {current.revision}")
        self.current = current


class Compacted(StoreError):
    """The revision asked for is older than the history kept; `oldest` is the first that still can be read."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history before revision {oldest} has been compacted")
        self.oldest = oldest


class Watch(Protocol):
    """An iterator over commits, in order, each batch together; close it with `aclosing`.

    A batch may be empty: then only `progress` has changed. Raises Compacted where history does not reach back, and
    StoreError when the reader is too slow to be kept or the store is closed; after either it has ended.
    """

    @property
    def progress(self) -> int:
        """The reader has been given everything under its prefix up to this revision."""

    def __aiter__(self) -> Watch:
        """Itself."""

    async def __anext__(self) -> Sequence[Change]:
        """The next commits under the prefix; waits for them."""

    async def aclose(self) -> None:
        """Stop watching."""


class Store(Protocol):
    """All calls are safe from one event loop. A write that returned is durable.

    Keys under a prefix given to the implementation as `unversioned` (Events and Leases) share the global revision
    but keep no history: they cannot be read at an old revision, and a watch from the past gets Compacted unless the
    few last changes, which are held in memory, reach back far enough. So no watch ever has a gap.
    """

    @property
    def revision(self) -> int:
        """The revision of the last commit; 0 for a new store."""

    @property
    def compacted(self) -> int:
        """The oldest revision that can be read or watched from; 0 as long as all history is kept."""

    async def get(self, key: str) -> Record | None:
        """The key as it is now."""

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Range:
        """Keys with a prefix, from key `start` on (inclusive), at an old revision if given (Compacted if too old)."""

    async def create(self, key: str, value: bytes, *, slot: int | None = None) -> Record:
        """Write a new key; KeyExists."""

    async def update(self, key: str, value: bytes, *, expected: int, slot: int | None = None) -> Record:
        """Write a key whose revision is `expected`; KeyMissing, RevisionConflict."""

    async def delete(self, key: str, *, expected: int) -> Record:
        """Remove a key whose revision is `expected`; returns it with the deletion's revision."""

    def watch(self, prefix: str, *, revision: int) -> Watch:
        """Commits after `revision` to keys with the prefix: first from history, then as they happen."""

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`, which stays readable; returns when it is gone."""

    async def ping(self) -> None:
        """Return once whoever does the writing has answered, without a write; StoreError when the store is closed."""

    async def close(self) -> None:
        """Finish what is being written, then stop."""
