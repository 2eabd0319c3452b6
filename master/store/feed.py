"""Handing commits to watchers: shared by the stores that live in this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from master.store.common import History, Unversioned
from master.store.protocol import Change, Compacted, StoreError

Replay = Callable[[str, int, int], Awaitable[tuple[Sequence[Change], int]]]
"""Reads history: (prefix, after, until) to some changes in order and the revision that they reach."""


class Feed:
    """Knows the revision of the last commit and passes every commit on to the watchers concerned.

    Lives on the event loop: `publish` and the watches' methods are called there only.
    """

    def __init__(self, unversioned: Unversioned, revision: int, replay: Replay, *, buffer: int, recent: int) -> None:
        """`buffer` is how many changes a watcher may be behind, `recent` how many without history are kept."""
        self.revision = revision
        self.buffer = buffer
        self._unversioned = unversioned
        self._replay = replay
        self._watches: set[FeedWatch] = set()
        self._recent: deque[Change] = deque()
        self._recent_limit = recent
        self._recent_after = revision  # of changes without history all after this revision are in _recent
        self._closed = False

    def watch(self, prefix: str, revision: int) -> FeedWatch:
        """Begin a watch; what it has missed is read when its reader asks."""
        watch = FeedWatch(self, prefix, revision, self._replay)
        if self._closed:
            watch.end(StoreError("the store is closed"))
            return watch
        if revision < self.revision:
            history = self._unversioned.history(prefix)
            if history is History.KEPT:
                watch.replay_until(self.revision)
            elif history is History.NONE and revision >= self._recent_after:
                watch.push([change for change in self._recent if change.record.revision > revision])
            else:
                watch.end(Compacted(self.revision))
                return watch
        self._watches.add(watch)
        return watch

    def publish(self, changes: Sequence[Change]) -> None:
        """A batch has been committed."""
        self.revision = changes[-1].record.revision
        for change in changes:
            if change.record.key in self._unversioned:
                self._recent.append(change)
        while len(self._recent) > self._recent_limit:
            self._recent_after = self._recent.popleft().record.revision
        for watch in tuple(self._watches):
            watch.push(changes)

    def drop(self, watch: FeedWatch) -> None:
        """Pass nothing on to that watch any more."""
        self._watches.discard(watch)

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        for watch in tuple(self._watches):
            watch.end(StoreError("the store is closed"))


class FeedWatch:
    """One watch (see protocol.Watch): history first, then what was committed meanwhile and from then on."""

    def __init__(self, feed: Feed, prefix: str, revision: int, replay: Replay) -> None:
        self._feed = feed
        self._prefix = prefix
        self._cursor = revision  # history has been handed out up to here
        self._after = revision
        self._until = revision
        self._replay = replay
        self._buffer: list[Change] = []
        self._waiter: asyncio.Future[None] | None = None
        self._end: BaseException | None = None

    def replay_until(self, revision: int) -> None:
        """Read history up to that revision before anything that is pushed."""
        self._until = revision

    def push(self, changes: Sequence[Change]) -> None:
        """Take what concerns this watch; ends it when too much lies there unread."""
        mine = [change for change in changes
                if change.record.key.startswith(self._prefix) and change.record.revision > self._after]
        if not mine:
            return
        self._buffer += mine
        if len(self._buffer) > self._feed.buffer:
            self._buffer.clear()
            self.end(StoreError(f"the watch of {self._prefix} is too slow: more than {self._feed.buffer} "
                                "changes were waiting for it"))
        self._wake()

    def end(self, why: BaseException) -> None:
        """The reader gets this error, once."""
        self._end = self._end or why
        self._feed.drop(self)
        self._wake()

    @property
    def progress(self) -> int:
        """The reader has been given everything under its prefix up to this revision."""
        if self._cursor < self._until:
            return self._cursor
        if self._buffer:
            return self._buffer[0].record.revision - 1
        return max(self._after, self._feed.revision) if self._end is None else self._cursor

    def __aiter__(self) -> FeedWatch:
        return self

    async def __anext__(self) -> Sequence[Change]:
        while self._end is None and self._cursor < self._until:
            try:
                changes, self._cursor = await self._replay(self._prefix, self._cursor, self._until)
            except StoreError as error:
                self.end(error)
                break
            if changes or self._cursor >= self._until:
                return changes  # at the end of history even if empty: the reader has made progress
        while self._end is None and not self._buffer:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._end is not None:
            why, self._end = self._end, StopAsyncIteration()
            raise why
        batch, self._buffer = self._buffer, []
        self._cursor = self._until = batch[-1].record.revision
        return batch

    async def aclose(self) -> None:
        """Stop watching."""
        self.end(StopAsyncIteration())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
