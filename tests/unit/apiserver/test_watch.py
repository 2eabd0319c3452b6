"""The watches of a server that stops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from master.apiserver.watch import Watches


async def test_a_watch_whose_time_is_just_over_does_not_keep_the_others_from_being_ended() -> None:
    """Between a time limit's end and the next turn of its task the limit can be moved no more."""
    loop = asyncio.get_running_loop()
    watches = Watches(cast("Any", None))
    closed = loop.create_future()

    def close() -> None:
        try:
            watches.close()
        except RuntimeError as error:
            closed.set_exception(error)
        else:
            closed.set_result(None)

    async def watch(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds) as timeout:
                watches._timeouts.add(timeout)
                if not seconds:
                    loop.call_soon(close)  # after the timer, before this task hears of it
                await loop.create_future()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(watch(3600))
        group.create_task(watch(0))
        await closed
