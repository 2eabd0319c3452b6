"""Group commit: one thread that puts all writes which are waiting into one transaction.

A durable commit costs a disk flush, some milliseconds, however much is in it. While one is under way the next writes
gather; so many clients together write far faster than one alone, and a lone one does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from master.store.common import Write
from master.store.protocol import Change, Record, StoreError

log = logging.getLogger(__name__)

MAX_BATCH = 1000  # writes in one transaction: bounds the time that a write waits for others in the same commit


class Backend(Protocol):
    """The database under the writer. Called from the writer's thread only."""

    def commit(self, writes: Sequence[Write]) -> list[Change | StoreError]:
        """Do the writes in one durable transaction; each succeeds or is refused by itself. StoreError: none is done."""

    def compact(self, revision: int) -> None:
        """Refuse reads before `revision` from now on; what they needed is removed by `upkeep`."""

    def upkeep(self, *, idle: bool) -> bool:
        """Do a few milliseconds of housekeeping; whether more is left. `idle`: no write is waiting. StoreError."""

    def compaction_done(self) -> bool:
        """Whether nothing is left to be removed."""

    def close(self) -> None:
        """Leave the database in good order."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A write and who waits for it."""

    write: Write
    future: asyncio.Future[Record]


@dataclass(frozen=True, slots=True)
class _Ping:
    """Somebody wants to know whether the thread is there."""

    future: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Compaction:
    revision: int
    future: asyncio.Future[None]


class Writer:
    """Owns the thread. Everything but the thread's own methods is called on the event loop."""

    def __init__(self, name: str, backend: Backend, publish: Callable[[Sequence[Change]], None]) -> None:
        """`publish` gets each batch's changes on the event loop, before those who wait for the writes."""
        self._loop = asyncio.get_running_loop()
        self._backend = backend
        self._publish = publish
        self._queue: queue.SimpleQueue[_Waiting | _Compaction | _Ping | None] = queue.SimpleQueue()
        self._compactions: list[_Compaction] = []
        self._closed = False
        self._stop = False
        self._more = True  # whether upkeep has something left to do
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def write(self, write: Write) -> Record:
        """Returns once the write is durable. A caller that stops waiting does not take the write back."""
        future: asyncio.Future[Record] = self._loop.create_future()
        self._put(_Waiting(write, future))
        return await future

    async def compact(self, revision: int) -> None:
        """Returns once the history before `revision` is gone."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._put(_Compaction(revision, future))
        await future

    async def ping(self) -> None:
        """Returns once the thread has come to it, after what it is doing now; never, where it has died."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._put(_Ping(future))
        await future

    async def close(self) -> None:
        """Do what is waiting, then end the thread."""
        if not self._closed:
            self._put(None)
            self._closed = True
        await asyncio.to_thread(self._thread.join)

    def _put(self, item: _Waiting | _Compaction | _Ping | None) -> None:
        if self._closed:
            raise StoreError("the store is closed")
        self._queue.put(item)

    # From here on: the thread.

    def _run(self) -> None:
        while not self._stop:
            batch = self._take()
            if batch:
                self._commit(batch)
            self._upkeep()
        self._backend.close()
        self._finish_compactions(StoreError("the store is closed"))

    def _take(self) -> list[_Waiting]:
        """All writes that are waiting; waits for one, unless there is upkeep to do meanwhile."""
        batch: list[_Waiting] = []
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get(block=not batch and not self._more and not self._stop)
            except queue.Empty:
                break
            if isinstance(item, _Waiting):
                batch.append(item)
            elif isinstance(item, _Compaction):
                self._start_compaction(item)
            elif isinstance(item, _Ping):
                self._answer(_settle, item.future, None)
            else:
                self._stop = True
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            results = self._backend.commit([waiting.write for waiting in batch])
        except StoreError as error:
            results = [error] * len(batch)
        except Exception as error:  # a fault of ours must not leave anybody waiting
            log.exception("the commit failed")
            results = [StoreError(f"the commit failed: {error}")] * len(batch)
        self._answer(self._deliver, batch, results)

    def _start_compaction(self, compaction: _Compaction) -> None:
        try:
            self._backend.compact(compaction.revision)
        except StoreError as error:
            self._answer(_settle, compaction.future, error)
            return
        self._compactions.append(compaction)
        self._more = True

    def _upkeep(self) -> None:
        try:
            self._more = self._backend.upkeep(idle=self._queue.empty())
        except StoreError as error:
            log.warning("housekeeping failed: %s", error)
            self._more = False  # the next write or compaction tries again
            self._finish_compactions(error)
        if self._backend.compaction_done():
            self._finish_compactions(None)

    def _finish_compactions(self, error: StoreError | None) -> None:
        for compaction in self._compactions:
            self._answer(_settle, compaction.future, error)
        self._compactions.clear()

    def _answer(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            self._stop = True  # the event loop is gone, and with it everyone who could be told

    # On the event loop again.

    def _deliver(self, batch: list[_Waiting], results: list[Change | StoreError]) -> None:
        changes = [result for result in results if isinstance(result, Change)]
        if changes:
            self._publish(changes)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Change):
                waiting.future.set_result(result.record)
            else:
                waiting.future.set_exception(result)


def _settle(future: asyncio.Future[None], error: StoreError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
