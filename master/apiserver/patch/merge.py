"""JSON merge patch (RFC 7386): null removes, objects merge, everything else replaces."""

from __future__ import annotations

from typing import Any

from master.apiserver.patch.copying import copy_tree

Tree = dict[str, Any]


def apply_merge_patch(tree: Tree, patch: Tree) -> Tree:
    """The patched copy. Nulls inside values that the object did not have are dropped, as the RFC says."""
    result = copy_tree(tree)
    _merge(result, copy_tree(patch))
    return result


def _merge(target: Tree, patch: Tree) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            inner = target.get(key)
            if not isinstance(inner, dict):
                inner = target[key] = {}
            _merge(inner, value)
        else:
            target[key] = value
