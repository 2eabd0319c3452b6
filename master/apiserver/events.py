"""Events are forgotten after an hour (kube-apiserver's --event-ttl)."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from master.apiserver import keys
from master.apiserver.registry import Registry
from master.store.protocol import KeyMissing, RevisionConflict, StoreError
from sampan.api.resources import EVENTS
from sampan.api.times import MicroTime

Tree = dict[str, Any]
log = logging.getLogger(__name__)

LIFETIME = timedelta(hours=1)
INTERVAL = 60.0  # seconds; one walk over the cache for all events instead of a timer for each
BATCH = 200
"""Events that are looked at before others get their turn."""


def last_seen(event: Tree, latest: datetime) -> datetime | None:
    """When an event happened last; None where it says nothing that can be believed: nothing is after `latest`."""
    series = event.get("series") or {}
    metadata = event.get("metadata") or {}
    times = []
    for text in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"),
                 metadata.get("creationTimestamp")):
        try:
            times.append(MicroTime.parse(text or ""))
        except ValueError:
            continue
    return max((time for time in times if time <= latest), default=None)


class EventExpiry:
    """Deletes old events."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._served = registry.of(EVENTS)

    async def run(self) -> None:
        """Walk once a minute until cancelled."""
        while True:
            await self._registry.clock.sleep(INTERVAL)
            try:
                await self.expire()
            except StoreError as error:
                log.warning("events are not expired: %s", error)

    async def expire(self) -> int:
        """Delete what is too old; tells how many."""
        listing = await self._served.cache.list(revision="0")
        now, count = self._registry.clock.now(), 0
        for index, entry in enumerate(listing.entries):
            if index % BATCH == BATCH - 1:
                await self._registry.clock.sleep(0)
            seen = last_seen(entry.decode(), now + LIFETIME)  # clocks may differ a little, but not for ever
            if seen is not None and seen > now - LIFETIME:
                continue
            try:
                await self._registry.store.delete(keys.key(EVENTS, entry.namespace, entry.name),
                                                  expected=entry.revision)
                count += 1
            except (KeyMissing, RevisionConflict):
                continue  # somebody else was quicker, or it happened again
        return count
