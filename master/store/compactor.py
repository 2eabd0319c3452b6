"""Forgetting the past, a while after it has passed."""

from __future__ import annotations

import logging

from master.store.protocol import Store, StoreError
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)


class Compactor:
    """Keeps between one and two `interval`s of history, in seconds; five minutes is what API clients expect."""

    def __init__(self, store: Store, clock: Clock, *, interval: float = 300.0) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval

    async def run(self) -> None:
        """Every interval, compact to the revision that the store had an interval ago."""
        before = self._store.revision
        while True:
            await self._clock.sleep(self._interval)
            now = self._store.revision
            try:
                if before > self._store.compacted:
                    await self._store.compact(before)
                    log.debug("compacted the history before revision %d", before)
            except StoreError as error:
                log.warning("compaction to revision %d failed, again in %.0f s: %s", before, self._interval, error)
            before = now
