"""The watch cache's memory: objects in key order, and the changes that led to them."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from master.apiserver.entry import CacheEvent, Entry, Match


@dataclass(slots=True)
class Objects:
    """Entries by key ("namespace/name", or "name") and in key order; so a namespace is one slice."""

    keys: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    by_key: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: dict[str, Entry]) -> Objects:
        """From entries in any order."""
        keys = sorted(entries)
        return cls(keys, [entries[key] for key in keys], entries)

    def put(self, key: str, entry: Entry) -> None:
        """Add or replace."""
        index = bisect_left(self.keys, key)
        if key in self.by_key:
            self.entries[index] = entry
        else:
            self.keys.insert(index, key)
            self.entries.insert(index, entry)
        self.by_key[key] = entry

    def remove(self, key: str) -> None:
        """Take out, if it is there."""
        if self.by_key.pop(key, None) is not None:
            index = bisect_left(self.keys, key)
            del self.keys[index]
            del self.entries[index]

    def span(self, prefix: str, start: str = "") -> tuple[int, int]:
        """The indexes of the first key with the prefix, from `start` on, and of the first after them."""
        first = bisect_left(self.keys, max(prefix, start))
        end = bisect_left(self.keys, prefix[:-1] + chr(ord(prefix[-1]) + 1)) if prefix else len(self.keys)
        return first, max(first, end)

    def page(self, prefix: str, start: str, match: Match | None, limit: int) -> Page:
        """Up to `limit` entries (0: all) that match."""
        first, end = self.span(prefix, start)
        if match is None:
            cut = min(end, first + limit) if limit else end
            last = self.keys[cut - 1] if cut < end else ""
            return Page(self.entries[first:cut], last, end - cut if last else None)
        if not limit:
            return Page([entry for entry in self.entries[first:end] if match(entry)])
        found: list[int] = []
        for index in range(first, end):
            if match(self.entries[index]):
                if len(found) == limit:
                    return Page([self.entries[hit] for hit in found], self.keys[found[-1]])
                found.append(index)
        return Page([self.entries[hit] for hit in found])


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; `last` is its last key where more follows, else "". `remaining` None: unknown, or none."""

    entries: Sequence[Entry]
    last: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one object: `old` is None for a creation, `new` for a deletion. `at` is monotonic seconds."""

    key: str
    old: Entry | None
    new: Entry | None
    revision: int
    at: float


class Events:
    """A step as watchers see it: three events at most, each encoded once however many watch."""

    __slots__ = ("_added", "_deleted", "_modified", "step")

    def __init__(self, step: Step) -> None:
        self.step = step
        self._added: CacheEvent | None = None
        self._modified: CacheEvent | None = None
        self._deleted: CacheEvent | None = None

    def seen_by(self, match: Match | None) -> CacheEvent | None:
        """The event for a selector, None if it does not concern it.

        An object that comes to match is ADDED; one that no longer does is DELETED, and shown as it last matched.
        """
        old, new = self.step.old, self.step.new
        was = old is not None and (match is None or match(old))
        if new is not None and (match is None or match(new)):
            if was:
                self._modified = self._modified or CacheEvent.of("MODIFIED", new)
                return self._modified
            self._added = self._added or CacheEvent.of("ADDED", new)
            return self._added
        if was and old is not None:
            self._deleted = self._deleted or CacheEvent.of("DELETED", old.at(self.step.revision))
            return self._deleted
        return None


class Window:
    """The last steps, at most `limit`; those older than `age` seconds go as well, but for the `keep` last."""

    def __init__(self, limit: int, age: float, keep: int = 100) -> None:
        self.floor = 0
        """Every step after this revision is in the window."""
        self._limit = limit
        self._age = age
        self._keep = keep
        self._steps: deque[Step] = deque()

    def reset(self, revision: int) -> None:
        """Forget everything; a new history begins after the revision."""
        self._steps.clear()
        self.floor = revision

    def add(self, step: Step) -> None:
        """Remember a step, and forget what is too old."""
        self._steps.append(step)
        while len(self._steps) > self._limit or (
                len(self._steps) > self._keep and self._steps[0].at < step.at - self._age):
            self.floor = self._steps.popleft().revision

    def after(self, revision: int) -> list[Step]:
        """The steps after a revision, which must not be below the floor."""
        steps = []
        for step in reversed(self._steps):
            if step.revision <= revision:
                break
            steps.append(step)
        steps.reverse()
        return steps


def undo(objects: Objects, steps: Iterable[Step]) -> Objects:
    """The objects as they were before those steps, which are ascending. Leaves `objects` alone."""
    before: dict[str, Entry | None] = {}
    for step in steps:
        before.setdefault(step.key, step.old)
    if not before:
        return objects
    entries = {key: entry for key, entry in objects.by_key.items() if key not in before}
    entries.update({key: entry for key, entry in before.items() if entry is not None})
    return Objects.of(entries)
