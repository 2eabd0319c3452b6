"""Garbage, decided: what becomes of an object whose owners go.

Every owner reference is *solid* (the owner is there), *dangling* (it is not) or *waiting* (it is being deleted in the
foreground, and waits for its dependents). See "Garbage Collection" in the Kubernetes documentation and KEP-2336.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sampan.api.resources import Object
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.client.protocol import Propagation

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
OwnerState = Literal["solid", "dangling", "waiting"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an object: at most one of the three."""

    keep: tuple[OwnerReference, ...] | None = None
    """The owner references that remain, where some have to go."""
    delete: Propagation | None = None
    """How to delete the object."""
    unblock: bool = False
    """Before that, its dependents must no longer block it: they wait for their owners themselves, in a circle."""


NOTHING = Verdict()


def is_deleting_dependents(meta: ObjectMeta) -> bool:
    """Whether the object is being deleted in the foreground."""
    return meta.deletion_timestamp is not None and FOREGROUND in meta.finalizers


def is_orphaning(meta: ObjectMeta) -> bool:
    """Whether the object is being deleted and lets its dependents live."""
    return meta.deletion_timestamp is not None and ORPHAN in meta.finalizers


def owner_state(owner: ObjectMeta | None) -> OwnerState:
    """How a reference to this owner counts; None for one that is not there."""
    if owner is None:
        return "dangling"
    return "waiting" if is_deleting_dependents(owner) else "solid"


def judge(meta: ObjectMeta, states: Mapping[str, OwnerState], dependents: Sequence[Object]) -> Verdict:
    """What becomes of an object that is not being deleted itself; `states` has every owner's by uid."""
    references = meta.owner_references
    if not references:
        return NOTHING
    solid = tuple(item for item in references if states[item.uid] == "solid")
    if solid:
        return NOTHING if len(solid) == len(references) else Verdict(keep=solid)
    if dependents and any(states[item.uid] == "waiting" for item in references):
        return Verdict(delete="Foreground", unblock=any(is_deleting_dependents(item.metadata) for item in dependents))
    if ORPHAN in meta.finalizers:
        return Verdict(delete="Orphan")
    return Verdict(delete="Foreground" if FOREGROUND in meta.finalizers else "Background")


def blocking(uid: str, dependents: Iterable[Object]) -> list[Object]:
    """The dependents for which an owner that is deleted in the foreground waits."""
    return [item for item in dependents if any(
        owner.uid == uid and owner.block_owner_deletion for owner in item.metadata.owner_references)]
