import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.duration import human
from master.apiserver.entry import Entry
from master.apiserver.strategy import Age
from master.apiserver.table import Row, partial, read_include
from sampan.api.errors import ApiError

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(("seconds", "text"), [
    (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (10 * MINUTE, "10m"),
    (10 * MINUTE + 5, "10m"), (179 * MINUTE, "179m"), (3 * HOUR, "3h"), (3 * HOUR + 5 * MINUTE, "3h5m"),
    (8 * HOUR + 59 * MINUTE, "8h"), (47 * HOUR, "47h"), (48 * HOUR, "2d"), (50 * HOUR, "2d2h"), (8 * DAY, "8d"),
    (8 * DAY + HOUR, "8d"), (729 * DAY, "729d"), (730 * DAY, "2y"), (731 * DAY, "2y1d"), (8 * 365 * DAY + DAY, "8y"),
])
def test_durations_read_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert human(seconds) == text


@given(st.lists(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.lists(st.text(max_size=3))))
def test_rows_without_ages_are_their_cells(cells: list[Any]) -> None:
    assert json.loads(b"[" + Row(cells).cells(0) + b"]") == cells


@given(st.lists(st.sampled_from(["a", 1, Age("2026-01-01T00:00:00Z"), Age("", "{} ago"),
                                 Age("2026-01-01T00:00:00Z", "2 ({} ago)")])))
def test_ages_are_filled_in_when_the_row_is_sent(cells: Sequence[Any]) -> None:
    row = Row(cells)
    now = 1767225600.0  # 2026-01-01T00:00:00Z
    for later, text in ((90, "90s"), (7200, "120m")):
        shown = {"": "<unknown>"}
        expected = [cell.text.replace("{}", shown.get(cell.since, text)) if isinstance(cell, Age) else cell
                    for cell in cells]
        assert json.loads(b"[" + row.cells(now + later) + b"]") == expected


def test_partial_objects_keep_the_metadata_as_it_is() -> None:
    raw = b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","labels":{"x":"\xc3\xbc}"}},"spec":{"metadata":{}}}'
    assert json.loads(partial(raw)) == {
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a",
                                                                                     "labels": {"x": "ü}"}}}


def test_include_object() -> None:
    assert read_include("") == "Metadata"
    with pytest.raises(ApiError):
        read_include("Everything")


def test_rows_stay_with_their_entry() -> None:
    from master.apiserver.kinds.table import DEFAULT_PRINTER

    entry = Entry(b'{"metadata":{"name":"a"}}', 1, "", "a")
    entry.row = Row(DEFAULT_PRINTER.cells(entry.decode()))
    assert json.loads(b"[" + entry.row.cells(0) + b"]")[0] == "a"
