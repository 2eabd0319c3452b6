"""The loop that every controller is: take a key, make the world fit it, try again with back-off where that fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from sampan.loop.queue import WorkQueue

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class Retry(Exception):
    """Raised by a reconcile function that expects to be called again: no error is logged."""

    def __init__(self, why: str, after: float | None = None) -> None:
        """`after` is in seconds; without it the key's back-off decides."""
        super().__init__(why)
        self.after = after


class ReconcileLoop(Generic[K]):
    """Runs `reconcile(key)` for the queue's keys, several keys in parallel, one key never twice at once."""

    def __init__(self, name: str, queue: WorkQueue[K], reconcile: Callable[[K], Awaitable[None]],
                 *, workers: int = 4) -> None:
        self.name = name
        self.queue = queue
        self._reconcile = reconcile
        self._workers = workers

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self.queue.close()

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self._reconcile(key)
            except Retry as retry:
                log.debug("%s: %s: again: %s", self.name, key, retry)
                if retry.after is None:
                    self.queue.add_failed(key)
                else:
                    self.queue.add_after(key, retry.after)
            except Exception as error:
                delay = self.queue.add_failed(key)
                log.warning("%s: %s: %s; again in %.1f s", self.name, key, error or type(error).__name__, delay,
                            exc_info=log.isEnabledFor(logging.DEBUG))
            else:
                self.queue.forget(key)
            finally:
                self.queue.done(key)
