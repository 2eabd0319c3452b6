"""What all tables of `kubectl get` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from master.apiserver.kinds.common import Tree, metadata
from master.apiserver.strategy import Age, Column

NONE = "<none>"
UNKNOWN = "<unknown>"

NAME = Column("Name", format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", description="CreationTimestamp is the server time when this object was created.")


def wide(name: str, kind: str = "string") -> Column:
    """A column that only -o wide shows."""
    return Column(name, kind, priority=1)


@dataclass(frozen=True, slots=True)
class Table:
    """A printer made of columns and one function."""

    columns: Sequence[Column]
    make: Callable[[Tree], list[Any]]

    def cells(self, obj: Tree) -> list[Any]:
        """One row."""
        return self.make(obj)


def name(obj: Tree) -> str:
    """The object's name."""
    return metadata(obj).get("name") or ""


def age(obj: Tree) -> Age:
    """The object's age."""
    return Age(metadata(obj).get("creationTimestamp") or "")


def pairs(values: Mapping[str, str]) -> str:
    """A map as key=value,…, sorted; <none> when there is nothing."""
    return ",".join(f"{key}={values[key]}" for key in sorted(values)) or NONE


def shortened(entries: Sequence[str], none: str, limit: int = 3) -> str:
    """The first few entries, and how many more there are."""
    text = ",".join(entries[:limit])
    if len(entries) > limit:
        return f"{text} + {len(entries) - limit} more..."
    return text or none

