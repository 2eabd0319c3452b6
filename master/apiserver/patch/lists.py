"""The order of merged lists, and the keys of their entries."""

from __future__ import annotations

from typing import Any

from sampan.api.errors import ApiError

Tree = dict[str, Any]


def go_value(value: Any) -> str:
    """A value as Go prints it in upstream's messages: ``map[a:1 b:[x y]]``."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{go_value(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(go_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "<nil>" if value is None else str(value)


def key_of(item: Any, merge_key: str) -> Any:
    """An entry's merge key; ApiError 422 where it has none."""
    if not isinstance(item, dict) or merge_key not in item:
        raise ApiError(422, "Invalid", f"map: {go_value(item)} does not contain declared merge key: {merge_key}")
    return item[merge_key]


def same_key(left: Any, right: Any, merge_key: str) -> bool:
    """Whether two entries are the same one; without a merge key the values themselves are compared."""
    return bool(key_of(left, merge_key) == key_of(right, merge_key) if merge_key else left == right)


def in_order(merged: list[Any], wanted: list[Any], before: list[Any], merge_key: str) -> list[Any]:
    """Sort a merged list: entries of `wanted` in its order, the others in that of `before`, interleaved.

    An entry that the patch does not name comes before one that it does only where both stood in that order before;
    so entries that the patch adds come first, as upstream has it.
    """
    places = {_hashable(item, merge_key): index for index, item in reversed(list(enumerate(wanted)))}
    old = {_hashable(item, merge_key): index for index, item in reversed(list(enumerate(before)))}
    named = [item for item in merged if _hashable(item, merge_key) in places]
    others = [item for item in merged if _hashable(item, merge_key) not in places]
    named.sort(key=lambda item: places[_hashable(item, merge_key)])
    others.sort(key=lambda item: old.get(_hashable(item, merge_key), len(old)))
    result: list[Any] = []
    left = 0
    for item in named:
        place = old.get(_hashable(item, merge_key), -1)
        while left < len(others) and old.get(_hashable(others[left], merge_key), len(old)) < place:
            result.append(others[left])
            left += 1
        result.append(item)
    return result + others[left:]


def _hashable(item: Any, merge_key: str) -> Any:
    return hashable(key_of(item, merge_key) if merge_key else item)


def hashable(value: Any) -> Any:
    """Something that stands for a value in a dict; a boolean is no number, as in JSON."""
    return (type(value), value) if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
