"""A service's process: run until a signal, and say in one line what kept it from running."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


def run(work: Callable[[], Awaitable[None]], expected: tuple[type[Exception], ...]) -> int:
    """Run `work` on an event loop until it ends or SIGTERM or SIGINT comes; returns the exit code.

    `expected` are the errors that say what is wrong with the host rather than with the program: they are told in one
    line each. Anything else is raised.
    """
    import uvloop  # noqa: PLC0415 - takes part only when a loop is about to run

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signalled(work))
    except Exception as failure:
        failures = _leaves(failure)
        if not all(isinstance(error, expected) for error in failures):
            raise
        for reason in failures:
            log.error("%s", reason)  # noqa: TRY400 - it says what to do; a traceback would not
        return 1
    return 0


async def _until_signalled(work: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await work()
    except asyncio.CancelledError:
        log.info("stopped")


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
