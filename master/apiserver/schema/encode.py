"""Writes an object as JSON in upstream's order, with a gap for the revision that the store will give it."""

from __future__ import annotations

from typing import Any

import msgspec

Tree = dict[str, Any]

_FIRST = ("kind", "apiVersion", "metadata")
_META_FIRST = ("name", "generateName", "namespace", "uid")
_SLOT = b'"resourceVersion":""'

_encoder = msgspec.json.Encoder()


def encode_with_slot(tree: Tree) -> tuple[bytes, int]:
    """The object as compact JSON, and the offset at which the digits of its resourceVersion belong.

    kind, apiVersion and metadata come first, and in metadata the identity and then an empty resourceVersion: the slot
    is between its quotes. Whatever resourceVersion the tree has is left out. The tree is not changed.
    """
    metadata = tree.get("metadata") or {}
    ordered = {key: metadata[key] for key in _META_FIRST if key in metadata}
    ordered["resourceVersion"] = ""
    for key, value in metadata.items():
        if key not in ordered:
            ordered[key] = value
    result: Tree = {key: tree[key] for key in _FIRST if key in tree}
    result["metadata"] = ordered
    for key, value in tree.items():
        if key not in result:
            result[key] = value
    data = _encoder.encode(result)
    # The first occurrence is ours: quotes inside strings are escaped, and nothing before it is an object.
    return data, data.index(_SLOT) + len(_SLOT) - 1
