"""JSON to typed objects and back, and generic trees between them."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

from sampan.api.times import MicroTime, Time

T = TypeVar("T")
Tree = dict[str, Any]


def _encode_hook(value: object) -> object:
    if isinstance(value, (Time, MicroTime)):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is not part of the API's types")


def _decode_hook(kind: type, value: object) -> object:
    if kind in (Time, MicroTime) and isinstance(value, str):
        return kind.parse(value)
    raise NotImplementedError(f"{kind.__name__} is not part of the API's types")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)


@lru_cache(maxsize=256)
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast("type[Any]", kind), dec_hook=_decode_hook)


def decode(kind: type[T], data: bytes) -> T:
    """Read a typed object; msgspec.DecodeError where the bytes do not fit the type. Unknown fields are ignored."""
    return cast("T", _decoder(cast("Hashable", kind)).decode(data))


def encode(value: object) -> bytes:
    """Write a typed object or a tree as compact JSON."""
    return _encoder.encode(value)


def to_tree(value: object) -> Tree:
    """A typed object as generic JSON."""
    return cast("Tree", msgspec.to_builtins(value, enc_hook=_encode_hook))


def from_tree(kind: type[T], tree: Tree) -> T:
    """Generic JSON as a typed object; msgspec.ValidationError where it does not fit."""
    return msgspec.convert(tree, kind, dec_hook=_decode_hook)
