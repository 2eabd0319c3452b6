"""Strategic merge patch: like a JSON merge patch, but lists of objects merge by a key that the schema names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tree = dict[str, Any]
Definitions = Mapping[str, dict[str, Any]]


def apply_strategic_patch(tree: Tree, patch: Tree, definition: str, definitions: Definitions) -> Tree:
    """The patched copy; `definition` such as ``io.k8s.api.core.v1.Pod`` says how lists merge. ApiError 400/422."""
    raise NotImplementedError
