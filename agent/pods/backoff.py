"""Restart back-off as pure arithmetic over attempts: upstream's 10 s, doubled up to 5 min, forgotten after 10 min.

Each container carries in a label how long to wait after its end, so that a restarted agent goes on where it was.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from agent.pods.model import Attempt, Failure

INITIAL = 10.0
MAXIMUM = 300.0
FORGET_AFTER = 2 * MAXIMUM


def restart_at(attempt: Attempt, wanted_hash: str) -> datetime | None:
    """When a container that has ended may be followed by the next; None for at once.

    The first restart is immediate, and so is one with a changed image, or after 10 minutes of running.
    """
    if attempt.hash != wanted_hash or attempt.ran_for > FORGET_AFTER or not attempt.backoff:
        return None
    return attempt.finished_at + timedelta(seconds=attempt.backoff) if attempt.finished_at else None


def next_backoff(previous: Attempt | None, wanted_hash: str) -> float:
    """Seconds that the container after `previous` will have to wait when it ends; 0 for a first one."""
    if previous is None:
        return 0.0
    if previous.hash != wanted_hash or previous.ran_for > FORGET_AFTER or not previous.backoff:
        return INITIAL
    return min(MAXIMUM, previous.backoff * 2)


def fail(previous: Failure | None, now: datetime, reason: str, message: str, *, initial: float = INITIAL,
         maximum: float = MAXIMUM) -> Failure:
    """One more failure of a step in a row: the wait doubles from `initial` to `maximum` seconds."""
    count = previous.count + 1 if previous else 1
    delay = min(maximum, initial * 2 ** min(count - 1, 16))
    return Failure(count, now + timedelta(seconds=delay), reason, message)


def duration(seconds: float) -> str:
    """Whole seconds as Go prints a duration: ``10s``, ``2m40s``, ``5m0s``."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"
