from __future__ import annotations

import pytest

from master.apiserver.kinds.common import drop_unset, go_map, go_selector, immutable, same


@pytest.mark.parametrize(("one", "other", "equal"), [
    ({}, None, True), ({"a": ""}, {}, True), ({"a": []}, {}, True), ({"a": {}}, {}, True), ({"a": 0}, {}, False),
    ({"a": False}, {}, False), ({"a": 1}, {"a": 1}, True), ({"a": True}, {"a": 1}, False), ([1], [1, 2], False),
    ({"matchLabels": {"a": ""}}, {"matchLabels": {}}, False), ({"matchLabels": {}}, {}, True),
    ([{"a": ""}], [{}], True), ("x", {}, False),
])
def test_same(one: object, other: object, equal: bool) -> None:
    assert same(one, other) is equal
    assert same(other, one) is equal


def test_go_syntax() -> None:
    assert str(go_map({"b": 'q"', "a": "1"})) == 'map[string]string{"a":"1", "b":"q\\""}'
    assert str(go_map(None)) == "map[string]string(nil)"
    assert str(go_selector(None)) == '"null"'


def test_drop_unset_leaves_what_is_set() -> None:
    tree = {"a": "", "b": 0, "c": "x", "d": False}
    drop_unset(tree, ("a", "b", "c"))
    assert tree == {"c": "x", "d": False}


def test_immutable_shows_nothing_as_null() -> None:
    assert [str(error) for error in immutable("type", None, "a")] == ['type: Invalid value: "null": field is immutable']
