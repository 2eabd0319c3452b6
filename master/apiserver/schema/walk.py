"""Compiled schemas: one pass over a parsed tree that prunes, canonicalises and checks types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sampan.api.errors import FieldError

Tree = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What the walk found: unknown fields (removed from the tree) and required fields that are missing.

    A missing required field is in `errors` only where upstream's validation complains; in the tree it has got the
    zero value that Go would have given it, so that validation and typed views can go on.
    """

    unknown: list[str] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)


class Schema:
    """A definition, compiled once. `raw` is the OpenAPI schema that it was made of."""

    raw: Tree

    def clean(self, tree: Tree) -> Outcome:
        """Make the tree canonical, in place: unknown fields and nulls go, quantities and times get their one form.

        Raises ApiError 400 with upstream's text where a value has the wrong type.
        """
        raise NotImplementedError
