"""Copies of JSON trees."""

from __future__ import annotations

from typing import TypeVar, cast

import msgspec

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def copy_tree(tree: T) -> T:
    """A copy that shares nothing. By way of JSON text: several times faster than copy.deepcopy."""
    return cast("T", _decode(_encode(tree)))
