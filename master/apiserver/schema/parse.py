"""Request bodies to generic trees: JSON and YAML, with what a hostile or careless client may send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Tree = dict[str, Any]

MAX_BODY = 3 * 1024 * 1024
"""Bytes; upstream's limit for a request body (the server answers 413 beyond it)."""
MAX_DEPTH = 200
"""Levels of nesting that are read; upstream reads 10,000, but no API type has use for them."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A body's tree, and the paths of the fields that stood in it twice (only looked for when asked)."""

    tree: Tree
    duplicates: tuple[str, ...] = ()


def parse(body: bytes, content_type: str = "application/json", *, find_duplicates: bool = False) -> Parsed:
    """Read a JSON or YAML object; ApiError 400 where it is none, 415 for another content type."""
    raise NotImplementedError


def parse_value(body: bytes, content_type: str = "application/json") -> Any:
    """Read any JSON or YAML value (a JSON patch is a list); ApiError 400."""
    raise NotImplementedError
