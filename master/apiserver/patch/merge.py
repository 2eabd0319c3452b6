"""JSON merge patch (RFC 7386): null removes, objects merge, everything else replaces."""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]


def apply_merge_patch(tree: Tree, patch: Tree) -> Tree:
    """The patched copy. Nulls inside values that the object did not have are dropped, as the RFC says."""
    return _merge(tree, patch)


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result
