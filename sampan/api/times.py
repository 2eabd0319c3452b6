"""The API's two kinds of time.

``Time`` has a resolution of one second, ``MicroTime`` always six digits (Lease, Event). Both are UTC. Go clients
refuse a MicroTime with fewer digits, so the two are told apart in the types.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self


class Time(datetime):
    """An instant in UTC, written as ``2006-01-02T15:04:05Z``."""

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """The same instant, cut to whole seconds; `instant` has a time zone."""
        utc = instant.astimezone(UTC)
        return cls(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, tzinfo=UTC)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read RFC 3339; ValueError where the text is something else."""
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError(f"{text!r} has no time zone")
        return cls.of(instant)

    def __str__(self) -> str:
        return self.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"  # strftime pads no year below 1000


class MicroTime(datetime):
    """An instant in UTC, written as ``2006-01-02T15:04:05.000000Z``."""

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """The same instant; `instant` has a time zone."""
        utc = instant.astimezone(UTC)
        return cls(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=UTC)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read RFC 3339; ValueError where the text is something else."""
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError(f"{text!r} has no time zone")
        return cls.of(instant)

    def __str__(self) -> str:
        return self.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
