"""Who controls what: owner references, and how a controller claims the objects that its selector matches.

An object has at most one controlling owner. A controller adopts orphans that its selector matches, and releases
objects of its own that the selector no longer matches (upstream's ControllerRefManager).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sampan.api.codec import to_tree
from sampan.api.errors import ApiError
from sampan.api.resources import Object, Resource
from sampan.api.selectors import LabelSelector
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.client.protocol import Client, Patch
from sampan.loop.reconcile import Retry

T = TypeVar("T", bound=Object)


def controller_of(obj: Object) -> OwnerReference | None:
    """The reference to the owner that controls the object."""
    return next((owner for owner in obj.metadata.owner_references if owner.controller), None)


def controller_reference(owner: Object) -> OwnerReference:
    """The reference by which `owner` controls an object."""
    return OwnerReference(api_version=owner.api_version, kind=owner.kind, name=owner.metadata.name,
                          uid=owner.metadata.uid, controller=True, block_owner_deletion=True)


def by_controller(obj: Object) -> Sequence[str]:
    """For an informer's index: the controller's uid, or ``orphan/<namespace>`` for objects without one."""
    owner = controller_of(obj)
    return [owner.uid if owner else orphans(obj.metadata.namespace)]


def orphans(namespace: str) -> str:
    """The index value of a namespace's uncontrolled objects."""
    return f"orphan/{namespace}"


@dataclass(frozen=True, slots=True)
class Claims(Generic[T]):
    """What belongs to a controller: what it has and keeps, what it should adopt, and what it should release."""

    keep: list[T]
    adopt: list[T]
    release: list[T]


def plan_claims(owner: Object, selector: LabelSelector, candidates: Iterable[T]) -> Claims[T]:
    """Decide over objects of the owner's namespace."""
    claims: Claims[T] = Claims([], [], [])
    going = owner.metadata.deletion_timestamp is not None
    for obj in candidates:
        holder = controller_of(obj)
        matches = selector.matches(obj.metadata.labels)
        if holder is not None and holder.uid == owner.metadata.uid:
            if matches:
                claims.keep.append(obj)
            elif not going:
                claims.release.append(obj)
        elif holder is None and matches and not going and obj.metadata.deletion_timestamp is None:
            claims.adopt.append(obj)
    return claims


def adopted(obj: T, owner: Object) -> list[OwnerReference]:
    """The object's owner references with `owner` as controller."""
    others = [item for item in obj.metadata.owner_references if item.uid != owner.metadata.uid]
    return [*others, controller_reference(owner)]


def metadata_patch(meta: ObjectMeta, **changes: Any) -> Patch:
    """A merge patch of metadata that is refused with 409 unless the object is still exactly the one that was seen."""
    return Patch("merge", {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, **changes}})


def owners_patch(obj: Object, references: Sequence[OwnerReference]) -> Patch:
    """Replace the owner references."""
    return metadata_patch(obj.metadata, ownerReferences=[to_tree(item) for item in references] or None)


async def claim(client: Client, resource: Resource[T], owner: Object, owner_resource: Resource[Any],
                claims: Claims[T]) -> list[T]:
    """Carry out adoptions and releases; returns all that the owner controls now."""
    result = list(claims.keep)
    if claims.adopt:
        # The owner as the informer has it may be gone, and its name taken by another.
        fresh: Object = await client.get(owner_resource, owner.metadata.name, owner.metadata.namespace)
        if fresh.metadata.uid != owner.metadata.uid or fresh.metadata.deletion_timestamp is not None:
            raise Retry(f"{owner.kind} {owner.metadata.name} has just been deleted")
    for obj in claims.adopt:
        taken = await _patched(client, resource, obj, owners_patch(obj, adopted(obj, owner)))
        if taken is not None:
            result.append(taken)
    for obj in claims.release:
        others = [item for item in obj.metadata.owner_references if item.uid != owner.metadata.uid]
        await _patched(client, resource, obj, owners_patch(obj, others))
    return result


async def _patched(client: Client, resource: Resource[T], obj: T, patch: Patch) -> T | None:
    try:
        return await client.patch(resource, obj.metadata.name, patch, obj.metadata.namespace)
    except ApiError as error:
        if error.is_not_found or error.is_invalid:  # gone, or made anew under its old name
            return None
        raise
