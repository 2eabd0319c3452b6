"""When to look whether the network is still as wanted: at once when the kernel tells of a change, and now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from netplugin.protocol import NetworkError
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

Heal = Callable[[], Awaitable[None]]
Watch = Callable[[], AsyncIterator[None]]

SETTLE = 0.5
"""Seconds to wait after a change before looking: changes come in groups."""


class Keeper:
    """Heals one thing: when `watch` tells of a change, and every `resync` seconds for what no notification tells."""

    def __init__(self, what: str, heal: Heal, watch: Watch, resync: float, clock: Clock) -> None:
        self._what = what
        self._heal = heal
        self._watch = watch
        self._resync = resync
        self._clock = clock
        self._disturbed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._tick())
            failures = 0
            while True:
                await self._disturbed.wait()
                await self._clock.sleep(SETTLE)
                self._disturbed.clear()
                try:
                    await self._heal()
                    failures = 0
                except NetworkError as error:
                    failures += 1
                    log.warning("%s could not be repaired: %s", self._what, error)
                    await self._clock.sleep(Backoff(initial=1.0).delay(failures))
                    self._disturbed.set()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(self._resync)
            self._disturbed.set()

    async def _follow(self) -> None:
        async for _ in self._watch():
            self._disturbed.set()
