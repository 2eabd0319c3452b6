"""A kind's own rules, as the write path calls them.

The write path works on generic trees (dicts of JSON). By the time a strategy sees one it has been parsed, pruned of
unknown fields and nulls, and its types checked by the schema; metadata is in order. One strategy a kind, one file an
API group, in `master/apiserver/kinds/`; they are pure but for `allocate` and `release`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sampan.api.errors import FieldError

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What an authenticator knows beside, by key: a token's pod and node, say."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a strategy may know of the request."""

    user: User
    now: datetime
    dry_run: bool = False
    subresource: str = ""


class Strategy:
    """The rules of a kind that has none of its own; kinds override what they need.

    Order on create: `default`, `prepare_create`, `validate`, `allocate`. On update: `default`, `prepare_update`,
    `validate`, `validate_update`, `allocate_update`. Generation: the write path sets 1 on create and adds one when
    `changes_generation` says so.
    """

    name_rule = "subdomain"
    """How names are checked: subdomain (DNS-1123 subdomain), label (DNS-1123 label), service (DNS-1035), path."""
    has_generation = False
    """Whether metadata.generation counts changes of the spec."""
    status_field = "status"
    """The part of the object that only the status subresource writes; "" for kinds without one."""
    allow_create_on_update = False
    """Whether a PUT to a name that is not there creates it (Leases, Events, Endpoints … as upstream has it)."""
    keeps_dependents = False
    """Whether a deletion that does not say what becomes of dependents orphans them (core/v1's old default)."""
    allow_unconditional_update = True
    """Whether a PUT without resourceVersion overwrites."""

    def default(self, obj: Tree) -> None:
        """Fill in defaults, in place; must give the same result when called twice."""

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """Drop what a creator may not set (its status), set what the server decides; in place."""

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """Carry over from `old` what an update may not change silently (on the main resource: the status)."""

    def changes_generation(self, new: Tree, old: Tree) -> bool:
        """Whether the update changes what the generation counts."""
        return bool(new.get("spec") != old.get("spec"))

    def validate(self, obj: Tree, context: Context) -> Sequence[FieldError]:
        """Everything that is wrong with the object in itself."""
        return ()

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Sequence[FieldError]:
        """Everything that is wrong with the change; `context.subresource` tells which door it came through."""
        return ()

    def warnings(self, obj: Tree) -> Sequence[str]:
        """What deserves a Warning header."""
        return ()

    def update_warnings(self, new: Tree, old: Tree) -> Sequence[str]:
        """What of an update deserves one: nothing where only others' work would be told what its author was told."""
        return self.warnings(new)

    async def allocate(self, obj: Tree, context: Context) -> None:
        """Reserve what the new object needs from shared pools (a Service's clusterIP), in place; ApiError if none.

        On a dry run, pick without reserving.
        """

    async def allocate_update(self, new: Tree, old: Tree, context: Context) -> None:
        """The same for what an update needs in addition to what `old` holds; gives nothing back yet."""

    async def release(self, obj: Tree, keep: Tree | None = None) -> None:
        """Give back what `obj` holds and `keep` does not.

        Called when an object is gone (its state), when a new one was not stored after all (it), after an update
        (the old state, keeping the new one's) and when an update was not stored (the other way round).
        """

    def grace_period(self, obj: Tree, requested: int | None) -> int:
        """Seconds between the request to delete and the end; 0 deletes at once. Only pods have other than 0."""
        return 0

    def fields(self, obj: Tree) -> dict[str, str]:
        """What field selectors may ask for beside metadata.name and metadata.namespace, with the object's values."""
        return {}

    def scale(self, obj: Tree) -> Tree | None:
        """The autoscaling/v1 Scale's spec and status, None for kinds without that subresource."""
        return None

    def set_scale(self, obj: Tree, replicas: int) -> None:
        """Write the scale's replicas into the object, in place."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`. `priority` above 0 shows it only with -o wide."""

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


class TablePrinter(Protocol):
    """Turns objects of a kind into rows of a meta.k8s.io/v1 Table."""

    @property
    def columns(self) -> Sequence[Column]:
        """The columns' definitions, Name first."""

    def cells(self, obj: Tree) -> list[Any]:
        """The object's cells; an age is an `Age`, so that rows can be cached and times filled in late."""


@dataclass(frozen=True, slots=True)
class Age:
    """A cell that shows how long ago an instant was, as kubectl writes it (`5m`, `3d4h`); "" reads <unknown>.

    `text` is a pattern such as "2 ({} ago)" into which the age goes.
    """

    since: str
    text: str = "{}"
