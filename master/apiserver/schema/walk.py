"""Compiled schemas: one pass over a parsed tree that prunes, canonicalises and checks types.

A schema becomes a `Walk`: a function that takes a value and where it stands, and gives back the value in its one
form. Objects and lists are worked on in place. What does not fit at all raises `Misfit`, which collects its path on
the way out, so that the common case pays nothing for messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from master.apiserver.schema.errors import cannot_handle
from master.apiserver.schema.parse import go_name
from sampan.api.errors import FieldError, required

Tree = dict[str, Any]
Place = tuple[Any, str | int] | None
"""Where a value stands: the place of what holds it, and its name or index there. None is the whole object."""

MAX_UNKNOWN = 100
"""Unknown fields that are told of, as upstream's decoder does; there may be hundreds of thousands."""


@dataclass(slots=True)
class Outcome:
    """What the walk found: unknown fields (removed from the tree) and required fields that are missing.

    A missing required field is in `errors` only where upstream's validation complains; in the tree it has got the
    zero value that Go would have given it, so that validation and typed views can go on.
    """

    unknown: list[str] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)

    def is_unknown(self, place: Place) -> None:
        """Remember a field that the schema does not have."""
        if len(self.unknown) < MAX_UNKNOWN:
            self.unknown.append(show_place(place))


Walk = Callable[[Any, Place, Outcome], Any]


class Misfit(Exception):
    """A value of the wrong type. `text` is a whole message, or "" where it is made of the rest."""

    def __init__(self, value: object, go_type: str, text: str = "", *, literal: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.shown = f"number {value}" if literal else go_name(value)
        self.go_type = go_type
        self.struct = ""
        self.fields: list[str] = []

    def message(self) -> str:
        """As Go's JSON decoder says it."""
        if self.text:
            return self.text
        where = f"Go struct field {self.struct}.{'.'.join(reversed(self.fields))}" if self.struct else "Go value"
        return f"json: cannot unmarshal {self.shown} into {where} of type {self.go_type}"


def show_place(place: Place) -> str:
    """``spec.containers[0].name``."""
    parts: list[str] = []
    while place is not None:
        place, name = place[0], place[1]
        parts.append(f"[{name}]" if isinstance(name, int) else f".{name}")
    return "".join(reversed(parts)).removeprefix(".")



@dataclass(frozen=True, slots=True)
class Missing:
    """What to do when a required field is missing: complain, fill in `zero()`, walk what was filled in."""

    name: str
    report: bool
    zero: Callable[[], Any] | None
    walk: Walk | None


class ObjectWalk:
    """A definition with known fields."""

    __slots__ = ("fields", "keep_unknown", "required", "struct", "type")

    def __init__(self, struct: str, go_type: str) -> None:
        self.struct = struct
        self.type = go_type
        # A value whose type is exactly the first needs no look; the last says whether an empty value is dropped.
        self.fields: dict[str, tuple[type | None, Walk, bool]] = {}
        self.required: tuple[Missing, ...] = ()
        self.keep_unknown = False

    def __call__(self, value: Any, place: Place, found: Outcome) -> Any:
        """Walk one object, in place."""
        if type(value) is not dict:
            raise Misfit(value, self.type)
        fields = self.fields
        dropped: list[str] = []
        key = ""
        try:
            for key, child in value.items():
                entry = fields.get(key)
                if entry is None:
                    if self.keep_unknown:
                        continue
                    found.is_unknown((place, key))
                elif child is not None:
                    if type(child) is entry[0]:
                        continue
                    walked = entry[1](child, (place, key), found)
                    if walked or not entry[2]:
                        if walked is not child:
                            value[key] = walked
                        continue
                dropped.append(key)
        except Misfit as misfit:
            misfit.struct = misfit.struct or self.struct
            misfit.fields.append(key)
            raise
        for key in dropped:
            del value[key]
        for missing in self.required:
            if missing.name not in value:
                self._fill(missing, value, place, found)
        return value

    @staticmethod
    def _fill(missing: Missing, value: Tree, place: Place, found: Outcome) -> None:
        here = (place, missing.name)
        if missing.report:
            found.errors.append(required(show_place(here)))
        if missing.zero is not None:
            value[missing.name] = missing.zero()
            if missing.walk is not None:
                missing.walk(value[missing.name], here, found)


class ListWalk:
    """A list; nulls in it become zero values, as in Go."""

    __slots__ = ("plain", "type", "walk", "zero")

    def __init__(self, plain: type | None, walk: Walk, zero: Callable[[], Any], go_type: str) -> None:
        self.plain = plain
        self.walk = walk
        self.zero = zero
        self.type = go_type

    def __call__(self, value: Any, place: Place, found: Outcome) -> Any:
        """Walk one list, in place."""
        if type(value) is not list:
            raise Misfit(value, self.type)
        plain = self.plain
        for index, child in enumerate(value):
            if type(child) is not plain:
                given = self.zero() if child is None else child
                value[index] = self.walk(given, (place, index), found)
        return value


class MapWalk:
    """An object whose keys are data, such as labels."""

    __slots__ = ("plain", "type", "walk", "zero")

    def __init__(self, plain: type | None, walk: Walk, zero: Callable[[], Any], go_type: str) -> None:
        self.plain = plain
        self.walk = walk
        self.zero = zero
        self.type = go_type

    def __call__(self, value: Any, place: Place, found: Outcome) -> Any:
        """Walk one map, in place."""
        if type(value) is not dict:
            raise Misfit(value, self.type)
        plain = self.plain
        for key, child in value.items():
            if type(child) is not plain:
                given = self.zero() if child is None else child
                value[key] = self.walk(given, (place, key), found)
        return value


class Schema:
    """A definition, compiled once. `raw` is the OpenAPI schema that it was made of."""

    def __init__(self, walk: Walk, raw: Tree, kind: str, version: str) -> None:
        self.raw = raw
        self.kind = kind
        self.version = version
        self._walk = walk

    def clean(self, tree: Tree) -> Outcome:
        """Make the tree canonical, in place: unknown fields and nulls go, quantities and times get their one form.

        Raises ApiError 400 with upstream's text where a value has the wrong type.
        """
        found = Outcome()
        try:
            self._walk(tree, None, found)
        except Misfit as misfit:
            raise cannot_handle(self.version, self.kind, misfit.message()) from None
        return found
