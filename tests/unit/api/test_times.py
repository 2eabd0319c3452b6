"""Time and MicroTime as text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.times import MicroTime, Time

INSTANTS = st.datetimes(timezones=st.just(UTC))


@given(INSTANTS)
def test_what_is_written_is_read_again(instant: datetime) -> None:
    assert Time.parse(str(Time.of(instant))) == instant.replace(microsecond=0)
    assert MicroTime.parse(str(MicroTime.of(instant))) == instant


@pytest.mark.parametrize(("instant", "time", "micro"), [
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000006Z"),
    (datetime(1, 1, 1, 0, 0, 2, tzinfo=UTC), "0001-01-01T00:00:02Z", "0001-01-01T00:00:02.000000Z")])
def test_the_layout(instant: datetime, time: str, micro: str) -> None:
    assert str(Time.of(instant)) == time
    assert str(MicroTime.of(instant)) == micro
