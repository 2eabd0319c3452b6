"""What upstream servers said, for as long as it holds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

OVERHEAD = 400
"""Bytes that an entry and its key take beside the value, about."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A value, its size in bytes, when it came and when it ends (monotonic seconds)."""

    value: V
    size: int
    since: float
    until: float


class Cache(Generic[K, V]):
    """Bounded by bytes; what was not asked for the longest goes first."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> Entry[V] | None:
        """What is known and still holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: K, value: V, size: int, now: float, lifetime: float) -> None:
        """Keep a value of so many bytes for so many seconds."""
        self._remove(key)
        size += OVERHEAD
        if lifetime <= 0 or size > self._limit:
            return
        self._entries[key] = Entry(value, size, now, now + lifetime)
        self._size += size
        while self._size > self._limit:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._size = 0

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
