"""Tasks that are kept alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)


async def supervise(name: str, run: Callable[[], Awaitable[None]], clock: Clock, *,
                    backoff: Backoff | None = None, calm: float = 60.0) -> None:
    """Call `run` again whenever it fails or returns, with back-off; after `calm` seconds of running it starts anew.

    For the long-lived parts of a process, which must outlive the failures of what they talk to.
    """
    backoff = backoff or Backoff(initial=0.5)
    failures = 0
    while True:
        started = clock.monotonic()
        try:
            await run()
            log.info("%s ended; starting it again", name)
        except asyncio.CancelledError:
            raise
        except Exception:  # any failure of the part is answered by running it again
            log.exception("%s failed", name)
        failures = 1 if clock.monotonic() - started >= calm else failures + 1
        await clock.sleep(backoff.delay(failures))
