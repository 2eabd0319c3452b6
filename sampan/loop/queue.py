"""A queue of keys in which each key stands at most once, and is worked on by at most one worker at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from sampan.loop.backoff import Backoff

K = TypeVar("K", bound=Hashable)


class Watcher(Protocol):
    """Told what happens in a queue, to count it."""

    def added(self, key: Hashable) -> None:
        """The key has become ready to be worked on."""

    def taken(self, key: Hashable) -> None:
        """Somebody begins to work on it."""

    def finished(self, key: Hashable) -> None:
        """That work has ended, well or badly."""

    def retried(self) -> None:
        """A key that failed is to be tried again."""


class WorkQueue(Generic[K]):
    """Keyed and deduplicating: a key added while it is being worked on comes again once that work is done.

    Delays use the event loop's timers, so an idle queue costs nothing. A key that is added while it waits out a
    delay is worked on at once, and the delay is dropped.
    """

    def __init__(self, backoff: Backoff | None = None, *, watcher: Watcher | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._watcher = watcher
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are ready to be worked on."""
        return len(self._ready)

    @property
    def delayed(self) -> int:
        """Keys that wait out a delay."""
        return len(self._timers)

    @property
    def idle(self) -> bool:
        """Whether nothing is ready and nothing is being worked on; delayed keys do not count."""
        return not self._ready and not self._working

    def add(self, key: K) -> None:
        """Have the key worked on soon."""
        self._cancel_timer(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._changed.set()
            if self._watcher:
                self._watcher.added(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key worked on after a delay; of several delays for one key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        if key in self._waiting or key in self._again:
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def add_failed(self, key: K) -> float:
        """Have the key tried again after its back-off; returns the delay in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.delay(self._failures[key])
        self.add_after(key, delay)
        if self._watcher:
            self._watcher.retried()
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts the back-off anew."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures in a row."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; call `done` with it afterwards."""
        while not self._ready:
            self._changed.clear()
            await self._changed.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working.add(key)
        if self._watcher:
            self._watcher.taken(key)
        return key

    def done(self, key: K) -> None:
        """Work on the key has ended, well or badly."""
        self._working.discard(key)
        if self._watcher:
            self._watcher.finished(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Drop all delays, so that nothing keeps the event loop busy."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
