"""What upstream servers said, for as long as it holds; as bytes, which take a tenth of the memory of objects."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")

OVERHEAD = 400
"""Bytes that an entry takes beside its value, about."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, when it came and when it ends (monotonic seconds)."""

    value: bytes
    since: float
    until: float


class Cache(Generic[K]):
    """Bounded by bytes; what was not asked for the longest goes first."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[K, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> Entry | None:
        """What is known and still holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: K, value: bytes, now: float, lifetime: float) -> None:
        """Keep a value for so many seconds."""
        self._remove(key)
        if lifetime <= 0 or _cost(value) > self._limit:
            return
        self._entries[key] = Entry(value, now, now + lifetime)
        self._size += _cost(value)
        while self._size > self._limit:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._size = 0

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= _cost(entry.value)


def _cost(value: bytes) -> int:
    return len(value) + OVERHEAD
