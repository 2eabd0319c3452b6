"""JSON patch (RFC 6902)."""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]

MAX_OPERATIONS = 10_000


def apply_json_patch(tree: Tree, patch: Any) -> Tree:
    """The patched copy; `patch` is the parsed body, a list of operations. 400, 413 (too many operations) or 422."""
    raise NotImplementedError
