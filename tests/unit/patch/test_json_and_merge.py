import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.patch import apply_json_patch, apply_merge_patch
from master.apiserver.patch.json_patch import MAX_OPERATIONS
from sampan.api.errors import ApiError

BASE: dict[str, Any] = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e/f": {"g~h": True}}


@pytest.mark.parametrize(("patch", "wanted"), [
    ([], BASE),
    ([{"op": "add", "path": "/a", "value": 2}], {**BASE, "a": 2}),
    ([{"op": "add", "path": "/b/c/-", "value": 3}], {**BASE, "b": {"c": [1, 2, 3], "d": "x"}}),
    ([{"op": "add", "path": "/b/c/0", "value": 0}], {**BASE, "b": {"c": [0, 1, 2], "d": "x"}}),
    ([{"op": "remove", "path": "/b"}], {"a": 1, "e/f": {"g~h": True}}),
    ([{"op": "replace", "path": "/e~1f/g~0h", "value": None}], {**BASE, "e/f": {"g~h": None}}),
    ([{"op": "move", "from": "/b/d", "path": "/z"}], {**BASE, "b": {"c": [1, 2]}, "z": "x"}),
    ([{"op": "copy", "from": "/b", "path": "/z"}], {**BASE, "z": BASE["b"]}),
    ([{"op": "test", "path": "/a", "value": 1}], BASE),
    ([{"op": "replace", "path": "", "value": {"x": 1}}], {"x": 1}),
    ([{"op": "add", "path": "/b/c/-1", "value": 3, "from": 5}], {**BASE, "b": {"c": [1, 2, 3], "d": "x"}}),
    ([{"op": "add", "path": "/b/c/-3", "value": 0}], {**BASE, "b": {"c": [0, 1, 2], "d": "x"}}),
    ([{"op": "replace", "path": "/b/c/-2", "value": {"k": [0]}}, {"op": "add", "path": "/b/c/-2/k/-1", "value": 1}],
     {**BASE, "b": {"c": [{"k": [0, 1]}, 2], "d": "x"}}),
    ([{"op": "test", "path": "/b/c/-1", "value": 2}, {"op": "remove", "path": "/b/c/-1"}],
     {**BASE, "b": {"c": [1], "d": "x"}}),
    ([{"op": "move", "from": "/b/c/-2", "path": "/b/c/-1"}], {**BASE, "b": {"c": [2, 1], "d": "x"}}),
    ([{"op": "copy", "from": "/b/c/-2", "path": "/b/c/-1"}], {**BASE, "b": {"c": [1, 2, 1], "d": "x"}}),
    ([{"op": "add", "path": "/b/c/-1", "value": {}}, {"op": "test", "path": "/b/c/-1/x", "value": None},
      {"op": "remove", "path": "/b/c/-1"}], BASE),
    ([{"op": "add", "path": "/b/-1", "value": 1}], {**BASE, "b": {"c": [1, 2], "d": "x", "-1": 1}}),
])
def test_json_patch(patch: list[Any], wanted: dict[str, Any]) -> None:
    before, given_patch = copy.deepcopy(BASE), copy.deepcopy(patch)
    assert apply_json_patch(BASE, patch) == wanted
    assert before == BASE
    assert patch == given_patch


@pytest.mark.parametrize(("patch", "code"), [
    ({}, 400), ("x", 400), ([1], 400), ([{"op": "jump", "path": "/a"}], 422), ([{"op": "add", "path": "a"}], 422),
    ([{"op": "add", "path": "/a"}], 422), ([{"op": "move", "path": "/a"}], 422), ([{"path": "/a", "value": 1}], 422),
    ([{"op": "test", "path": "/a", "value": 2}], 422), ([{"op": "test", "path": "/nope", "value": 2}], 422),
    ([{"op": "remove", "path": "/nope"}], 422), ([{"op": "replace", "path": "/nope", "value": 1}], 422),
    ([{"op": "add", "path": "/b/c/9", "value": 1}], 422), ([{"op": "add", "path": "/nope/x", "value": 1}], 422),
    ([{"op": "add", "path": "/b/c/x", "value": 1}], 422), ([{"op": "add", "path": "/a/x", "value": 1}], 422),
    ([{"op": "replace", "path": "", "value": [1]}], 422), ([{"op": "remove", "path": ""}], 422),
    ([{"op": "copy", "from": "/nope", "path": "/x"}], 422), ([{"op": "add", "path": "/~2", "value": 1}], 422),
    ([{"op": "add", "path": "/b/c/-4", "value": 1}], 422), ([{"op": "remove", "path": "/b/c/-3"}], 422),
    ([{"op": "move", "from": "/b", "path": "/b/c"}], 422), ([{"op": "move", "from": "", "path": "/a"}], 422),
    ([{"op": "test", "path": "/b/c/-9", "value": None}], 422),
    ([{"op": "test", "path": "/a", "value": 1}] * (MAX_OPERATIONS + 1), 413),
    ([{"op": "add", "path": "/l", "value": ["x" * 1000]}]
     + [{"op": "copy", "from": "/l", "path": "/l/-"}] * 30, 422),
])
def test_json_patches_that_are_refused(patch: Any, code: int) -> None:
    before = copy.deepcopy(BASE)
    with pytest.raises(ApiError) as caught:
        apply_json_patch(BASE, patch)
    assert caught.value.code == code
    assert before == BASE


# RFC 7386, appendix A, as far as both sides are objects
@pytest.mark.parametrize(("target", "patch", "wanted"), [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}), ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}), ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}), ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}), ({"a": "x"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
])
def test_merge_patch(target: dict[str, Any], patch: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = copy.deepcopy((target, patch))
    assert apply_merge_patch(target, patch) == wanted
    assert before == (target, patch)


trees: Any = st.recursive(
    st.booleans() | st.integers(0, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8)
objects = st.dictionaries(st.sampled_from("abc"), trees)


@given(objects, objects)
def test_merging_twice_is_merging_once(target: dict[str, Any], patch: dict[str, Any]) -> None:
    once = apply_merge_patch(target, patch)
    assert apply_merge_patch(once, patch) == once
    assert apply_merge_patch(target, {}) == target
    assert apply_merge_patch({}, patch) == patch


@given(objects, objects)
def test_nothing_is_shared(target: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((target, patch))
    scribble(apply_merge_patch(target, patch))
    scribble(apply_json_patch(target, [{"op": "add", "path": "/z", "value": patch}]))
    assert before == (target, patch)


def scribble(value: Any) -> None:
    for child in list(value.values() if isinstance(value, dict) else value):
        if isinstance(child, (dict, list)):
            scribble(child)
    value.clear()


@pytest.mark.parametrize(("patch", "text"), [
    ({"op": "add"}, "error decoding patch: json: cannot unmarshal object into Go value of type []interface {}"),
    ([1], "json: cannot unmarshal number into Go value of type jsonpatch.Operation"),
    ([{"op": "jump", "path": "/a"}], "Unexpected kind: jump"), ([{"path": "/a"}], "Unexpected kind: unknown"),
    ([{"op": "test", "path": "/a", "value": 2}], "testing value /a failed: test failed"),
    ([{"op": "remove", "path": "/x"}], 'remove operation does not apply: doc is missing path: "/x": missing value'),
    ([{"op": "move", "path": "/x"}], "move operation failed to decode from: operation 0 is missing from field"),
])
def test_what_is_said_of_a_json_patch(patch: Any, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch(BASE, patch)
    said = caught.value.message.removeprefix("the server rejected our request due to an error in our request: ")
    assert said == text
