"""Patches for the fake client: the three kinds, with the strategic one cut to the lists that controllers patch.

The API server's own patches follow the schema; here a small table of merge keys is enough.
"""

from __future__ import annotations

import copy
from typing import Any, cast

from sampan.api import errors
from sampan.client.protocol import Patch

Tree = dict[str, Any]

_MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "env": "name", "volumes": "name",
    "conditions": "type", "ownerReferences": "uid", "volumeMounts": "mountPath", "addresses": "type",
    "imagePullSecrets": "name", "containerStatuses": "name",
}
_SETS = {"finalizers"}


def apply_patch(tree: Tree, patch: Patch) -> Tree:
    """The patched copy; ApiError 400 or 422 where the patch does not fit."""
    if patch.kind == "json":
        return _json(tree, patch.body)
    if not isinstance(patch.body, dict):
        raise errors.bad_request("the patch is not an object")
    if patch.kind == "merge":
        return _merge(copy.deepcopy(tree), copy.deepcopy(patch.body))
    return _strategic(copy.deepcopy(tree), copy.deepcopy(patch.body))


def _json(tree: Tree, operations: Tree | list[Tree]) -> Tree:
    import jsonpatch  # noqa: PLC0415 - only the master and tests have it

    try:
        return dict(jsonpatch.apply_patch(tree, cast("list[Tree]", operations)))
    except jsonpatch.JsonPatchException as error:
        raise errors.ApiError(422, "Invalid", f"the server rejected our request: {error}") from error


def _merge(target: Tree, patch: Tree) -> Tree:
    """RFC 7396."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            below = target.get(name)
            target[name] = _merge(below if isinstance(below, dict) else {}, value)
        else:
            target[name] = value
    return target


def _strategic(target: Tree, patch: Tree) -> Tree:
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        present = target.get(name)
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            base = present if isinstance(present, dict) and value.pop("$patch", "") != "replace" else {}
            target[name] = _strategic(base, value)
        elif isinstance(value, list) and name in _SETS:
            target[name] = [*(present or []), *(item for item in value if item not in (present or []))]
        elif isinstance(value, list) and name in _MERGE_KEYS:
            target[name] = _merge_list(present or [], value, _MERGE_KEYS[name])
        else:
            target[name] = value
    return target


def _merge_list(present: list[Tree], patch: list[Tree], key: str) -> list[Tree]:
    result = list(present)
    for item in patch:
        where = next((index for index, old in enumerate(result) if old.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if where is not None:
                del result[where]
        elif where is None:
            result.append(item)
        else:
            result[where] = _strategic(result[where], item)
    return result
