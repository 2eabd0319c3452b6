"""Strategic merge patch: like a JSON merge patch, but lists of objects merge by a key that the schema names.

Source: k8s.io/apimachinery/pkg/util/strategicpatch and the community's strategic-merge-patch.md. A patch may carry
directives beside its fields:

* ``$patch: replace | delete | merge`` in an object or a list's entry,
* ``$retainKeys: [...]``: drop the object's other fields,
* ``$deleteFromPrimitiveList/name: [...]``: take values out of a list of strings,
* ``$setElementOrder/name: [...]``: how the merged list is to be ordered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from master.apiserver.patch.copying import copy_tree
from master.apiserver.patch.lists import go_value, hashable, in_order, key_of, same_key
from master.apiserver.patch.merge_rules import Rules, rules_of
from sampan.api.errors import ApiError, bad_request

Tree = dict[str, Any]
Definitions = Mapping[str, dict[str, Any]]

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"

_BAD_RETAIN = "invalid patch format of retainKeys"
_BAD_PRIMITIVES = "invalid patch format of primitive list"
_BAD_ORDER = "invalid patch format of setElementOrder list"


def apply_strategic_patch(tree: Tree, patch: Tree, definition: str, definitions: Definitions) -> Tree:
    """The patched copy; `definition` such as ``io.k8s.api.core.v1.Pod`` says how lists merge. ApiError 400/422."""
    return _merge_object(copy_tree(tree), copy_tree(patch), rules_of(definition, definitions))


def _merge_object(target: Tree, patch: Tree, rules: Rules) -> Tree:
    """Merge in place, or give back what replaces the target."""
    if _PATCH in patch:
        directive = patch.pop(_PATCH)
        if directive == "replace":
            return patch
        if directive == "delete":
            return {}
        if directive != "merge":
            raise _unprocessable(f"unknown patch type: {directive} in map: {go_value(patch)}")
    _retain_keys(target, patch)
    _ordered_lists(target, patch, rules)
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            _delete_values(target, key.removeprefix(_DELETE_FROM), value)
        elif value is None:
            target.pop(key, None)
        elif key not in target or type(target[key]) is not type(value):
            kept, clean = _without_directives(value)
            if kept:
                target[key] = clean
            else:
                target.pop(key, None)
        elif isinstance(value, dict):
            rule = rules.field(key)
            target[key] = value if rule.replace else _merge_object(target[key], value, rule.inner)
        elif isinstance(value, list):
            target[key] = _merge_list(target[key], value, key, rules)
        else:
            target[key] = value
    return target


def _retain_keys(target: Tree, patch: Tree) -> None:
    """Drop the fields that the patch's author does not know of: a volume's old type when a new one is set."""
    if _RETAIN not in patch:
        return
    keys = patch.pop(_RETAIN)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise bad_request(_BAD_RETAIN)
    kept = set(keys)
    for key, value in patch.items():
        if value is not None and not key.startswith((_DELETE_FROM, _ORDER)) and key not in kept:
            raise bad_request(_BAD_RETAIN)
    for key in target.keys() - kept:
        del target[key]


def _delete_values(target: Tree, key: str, values: object) -> None:
    if not isinstance(values, list):
        raise bad_request(_BAD_PRIMITIVES)
    if isinstance(target.get(key), list):
        gone = set(map(hashable, values))
        target[key] = [item for item in target[key] if hashable(item) not in gone]


def _ordered_lists(target: Tree, patch: Tree, rules: Rules) -> None:
    """Merge the lists whose wanted order the patch gives, and take them out of the patch."""
    for name in [name for name in patch if name.startswith(_ORDER)]:
        order = patch.pop(name)
        key = name.removeprefix(_ORDER)
        if not isinstance(order, list):
            raise bad_request(_BAD_ORDER)
        before, change = target.get(key), patch.get(key)
        if not all(value is None or isinstance(value, list) for value in (before, change)):
            raise bad_request(_BAD_ORDER)
        rule = rules.field(key)
        _check_order(change or [], order, rule.merge_key)
        if before is None and change is None:
            continue
        if change is None:
            merged = list(before or [])
        elif before is None:
            merged = _without_directives(change)[1]
        else:
            merged = _merge_list(list(before), change, key, rules)
        patch.pop(key, None)
        target[key] = in_order(merged, order, before or [], rule.merge_key)


def _check_order(change: list[Any], order: list[Any], merge_key: str) -> None:
    """The patch's own entries must stand in the wanted order, and in the order that it asks for."""
    left = iter(order)
    for item in change:
        if isinstance(item, dict) and _PATCH in item:
            continue
        if merge_key:
            key_of(item, merge_key)
        if order and not any(same_key(item, candidate, merge_key) for candidate in left):
            raise _unprocessable(f"The order in patch list:\n{go_value(change)}\n doesn't match {_ORDER[:-1]} list:\n"
                                 f"{go_value(order)}\n")


def _merge_list(target: list[Any], patch: list[Any], key: str, rules: Rules) -> list[Any]:
    """Merge two lists as their field's rule says; without one the patch's list replaces."""
    rule = rules.field(key)
    if not rule.merge:
        return patch
    if not target and not patch:
        return target
    if any(isinstance(item, list) for item in (*target, *patch)):
        raise _unprocessable("lists of lists are not supported")
    kinds = {type(item) is dict for item in (*target, *patch)}
    if len(kinds) > 1:
        raise _unprocessable(f"list element types are not identical: {go_value([target, patch])}")
    if not kinds.pop():
        both = list(dict.fromkeys([*target, *patch]))
        return in_order(both, patch, target, "")
    if not rule.merge_key:
        raise _unprocessable(f"cannot merge lists without merge key for {key}")
    before, changes = _list_directives(target, patch, rule.merge_key)
    return in_order(_merge_entries(before, changes, rule.merge_key, rule.inner), changes, before, rule.merge_key)


def _list_directives(target: list[Tree], patch: list[Tree], merge_key: str) -> tuple[list[Tree], list[Tree]]:
    """Do what the patch's special entries ask; the rest of it is still to be merged."""
    changes = []
    gone = set()
    replace = False
    for item in patch:
        directive = item.get(_PATCH)
        if _PATCH not in item:
            changes.append(item)
        elif directive == "delete":
            gone.add(hashable(key_of(item, merge_key)))
        elif directive == "replace":
            replace = True
        elif directive == "merge":
            raise _unprocessable("merging lists cannot yet be specified in the patch")
        else:
            raise _unprocessable(f"unknown patch type: {directive} in map: {go_value(item)}")
    left = [entry for entry in target if hashable(entry.get(merge_key)) not in gone]
    return (changes, []) if replace else (left, changes)


def _merge_entries(target: list[Tree], changes: list[Tree], merge_key: str, inner: Rules) -> list[Tree]:
    result = list(target)
    places = {hashable(entry.get(merge_key)): index for index, entry in reversed(list(enumerate(result)))}
    for item in changes:
        wanted = hashable(key_of(item, merge_key))
        place = places.setdefault(wanted, len(result))
        if place < len(result):
            result[place] = _merge_object(result[place], item, inner)
        else:
            result.append(_without_directives(item)[1])
    return result


def _without_directives(value: Any) -> tuple[bool, Any]:
    """What is new is taken as it is, but for directives and nulls; False where it asks to be deleted."""
    if isinstance(value, dict):
        if value.get(_PATCH) == "delete":
            return False, None
        result = {}
        for key, child in value.items():
            if child is None or key in (_PATCH, _RETAIN) or key.startswith((_DELETE_FROM, _ORDER)):
                continue
            kept, clean = _without_directives(child)
            if kept:
                result[key] = clean
        return True, result
    if isinstance(value, list):
        return True, [clean for kept, clean in map(_without_directives, value) if kept]
    return True, value


def _unprocessable(message: str) -> ApiError:
    return ApiError(422, "Invalid", message)


