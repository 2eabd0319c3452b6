"""The garbage collector: objects whose owners are gone go too.

The graph of owners and dependents is not kept apart: it is what the informers of all resources show, indexed by uid
and by owner. What they do not show (yet) is looked up before anything is deleted.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from master.controllers import garbage_plan as plans
from master.controllers.base import Controller, Deps, ignore_missing
from master.controllers.owners import metadata_patch, owners_patch
from sampan.api.errors import ApiError
from sampan.api.resources import EVENTS, Object, Resource
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.client.informer import Informer, either
from sampan.client.protocol import DeleteOptions
from sampan.loop.reconcile import Retry

log = logging.getLogger(__name__)

ABSENT_SIZE = 500
"""Owners remembered as gone, so that a thousand dependents do not ask for the same one."""
NEEDED = {"delete", "list", "watch", "patch"}


@dataclass(frozen=True, slots=True)
class Identity:
    """One object of any kind."""

    group: str
    plural: str
    namespace: str
    name: str
    uid: str


class GarbageCollector(Controller[Identity]):
    """Follows owner references through all resources."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("garbage", deps, workers=10, component="garbage-collector-controller")
        self._resources: dict[tuple[str, str], Resource[Any]] = {}
        self._informers: dict[tuple[str, str], Informer[Any]] = {}
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def run(self) -> None:
        """Work until cancelled."""
        await self.refresh()
        await super().run()

    async def refresh(self) -> None:
        """Follow every resource that the server serves now; call it again when custom ones have changed."""
        for resource in await self.deps.client.server_resources():
            if resource.key in self._resources or resource.key == EVENTS.key or not set(resource.verbs) >= NEEDED:
                continue
            self._resources[resource.key] = resource.metadata_only()
            informer = self.deps.informers.metadata(resource)
            informer.add_indexer("uid", lambda obj: [obj.metadata.uid])
            informer.add_indexer("owner", lambda obj: [owner.uid for owner in obj.metadata.owner_references])
            self._informers[resource.key] = informer
            informer.add_handler(self._handler(resource))
        for informer in self._informers.values():
            await informer.wait_synced()

    def _handler(self, resource: Resource[Any]) -> Any:
        def changed(old: Object | None, new: Object | None) -> None:
            self._changed(resource, old, new)
        return changed

    def _changed(self, resource: Resource[Any], old: Object | None, new: Object | None) -> None:
        meta = either(old, new).metadata
        if new is None:
            self._remember_absent(meta.namespace, meta.uid)
            for dependent, owner in self._dependents(meta.uid):
                self.queue.add(_identity(owner, dependent))
            for item in meta.owner_references:  # an owner may have waited for this one
                for found, where in self._find(item.uid):
                    if plans.is_deleting_dependents(found.metadata):
                        self.queue.add(_identity(where, found))
            return
        going = meta.deletion_timestamp is not None
        if old is not None and old.metadata.owner_references == meta.owner_references and (
                old.metadata.deletion_timestamp is not None) == going and old.metadata.finalizers == meta.finalizers:
            return
        if meta.owner_references or (going and {plans.FOREGROUND, plans.ORPHAN} & set(meta.finalizers)):
            self.queue.add(_identity(resource, new))
        lost = {owner.uid for owner in old.metadata.owner_references} if old is not None else set()
        for uid in lost:
            for found, where in self._find(uid):
                if plans.is_deleting_dependents(found.metadata):
                    self.queue.add(_identity(where, found))

    async def reconcile(self, key: Identity) -> None:
        """Decide over one object."""
        resource, informer = self._resources[key.group, key.plural], self._informers[key.group, key.plural]
        obj = informer.get(key.name, key.namespace)
        if obj is None or obj.metadata.uid != key.uid:
            return
        meta = obj.metadata
        if plans.is_orphaning(meta):
            await self._orphan(resource, obj)
        elif plans.is_deleting_dependents(meta):
            await self._delete_dependents(resource, obj)
        elif meta.deletion_timestamp is None and meta.owner_references:
            await self._collect(resource, obj)

    async def _collect(self, resource: Resource[Any], obj: Object) -> None:
        states = {owner.uid: await self._state(resource, obj, owner) for owner in obj.metadata.owner_references}
        if all(state == "solid" for state in states.values()):
            return
        fresh = await self._fresh(resource, obj)  # never act on an old view
        if fresh is None or fresh.metadata.deletion_timestamp is not None:
            return
        states = {owner.uid: states.get(owner.uid) or await self._state(resource, fresh, owner)
                  for owner in fresh.metadata.owner_references}
        dependents = [dependent for dependent, _ in self._dependents(obj.metadata.uid)]
        verdict = plans.judge(fresh.metadata, states, dependents)
        name, namespace = fresh.metadata.name, fresh.metadata.namespace
        if verdict.keep is not None:
            await ignore_missing(self.deps.client.patch(resource, name, owners_patch(fresh, verdict.keep), namespace))
        if verdict.unblock:
            await self._unblock(fresh)
        if verdict.delete is not None:
            log.debug("%s %s/%s: its owners are gone", resource.plural, namespace, name)
            await ignore_missing(self.deps.client.delete(resource, name, namespace, DeleteOptions(
                propagation=verdict.delete, uid=fresh.metadata.uid, revision=fresh.metadata.resource_version)))

    async def _delete_dependents(self, resource: Resource[Any], obj: Object) -> None:
        """Foreground: the owner goes once no dependent blocks it."""
        uid = obj.metadata.uid
        dependents = dict(self._by_identity(uid))
        waiting = plans.blocking(uid, dependents.values())
        for identity, dependent in dependents.items():
            if dependent in waiting and dependent.metadata.deletion_timestamp is None:
                self.queue.add(identity)
        if not waiting:
            await self._drop_finalizer(resource, obj, plans.FOREGROUND)

    async def _orphan(self, resource: Resource[Any], obj: Object) -> None:
        uid = obj.metadata.uid
        for dependent, where in list(self._dependents(uid)):
            rest = [owner for owner in dependent.metadata.owner_references if owner.uid != uid]
            await ignore_missing(self.deps.client.patch(
                self._resources[where.key], dependent.metadata.name, owners_patch(dependent, rest),
                dependent.metadata.namespace))
        await self._drop_finalizer(resource, obj, plans.ORPHAN)

    async def _unblock(self, obj: Object) -> None:
        uid = obj.metadata.uid
        for dependent, where in list(self._dependents(uid)):
            owners = [replace(owner, block_owner_deletion=False) if owner.uid == uid else owner
                      for owner in dependent.metadata.owner_references]
            await ignore_missing(self.deps.client.patch(
                self._resources[where.key], dependent.metadata.name, owners_patch(dependent, owners),
                dependent.metadata.namespace))

    async def _drop_finalizer(self, resource: Resource[Any], obj: Object, finalizer: str) -> None:
        fresh = await self._fresh(resource, obj)
        if fresh is None or finalizer not in fresh.metadata.finalizers:
            return
        rest = [item for item in fresh.metadata.finalizers if item != finalizer]
        await ignore_missing(self.deps.client.patch(
            resource, fresh.metadata.name, metadata_patch(fresh.metadata, finalizers=rest or None),
            fresh.metadata.namespace))

    # Looking

    async def _state(self, resource: Resource[Any], obj: Object, owner: OwnerReference) -> plans.OwnerState:
        where = self._owner_resource(owner)
        if where is None:
            raise Retry(f"{obj.metadata.name} is owned by {owner.api_version} {owner.kind}, which is not served",
                        after=60.0)
        if where.namespaced and not resource.namespaced:
            log.warning("%s %s: a cluster-scoped object cannot be owned by a namespaced %s", resource.plural,
                        obj.metadata.name, owner.kind)
            return "solid"  # upstream leaves it alone, too
        namespace = obj.metadata.namespace if where.namespaced else ""
        seen = next((found.metadata for found, _ in self._find(owner.uid)
                     if found.metadata.namespace == namespace), None)
        if seen is not None:
            return plans.owner_state(seen)
        if (namespace, owner.uid) in self._absent:
            return "dangling"
        return plans.owner_state(await self._look_up(where, owner, namespace, obj))

    async def _look_up(self, where: Resource[Any], owner: OwnerReference, namespace: str,
                       obj: Object) -> ObjectMeta | None:
        try:
            found: Object = await self.deps.client.get(where, owner.name, namespace)
        except ApiError as error:
            if not error.is_not_found:
                raise
        else:
            if found.metadata.uid == owner.uid:
                return found.metadata
        if any(self._find(owner.uid)):
            self.deps.events.warning(obj, "OwnerRefInvalidNamespace", (
                f"ownerRef [{owner.api_version}/{owner.kind}, namespace: {namespace}, name: {owner.name}, "
                f"uid: {owner.uid}] does not exist in namespace \"{namespace}\""))
        self._remember_absent(namespace, owner.uid)
        return None

    def _owner_resource(self, owner: OwnerReference) -> Resource[Any] | None:
        group = owner.api_version.rpartition("/")[0]
        return next((item for item in self._resources.values()
                     if item.kind == owner.kind and item.group == group), None)

    async def _fresh(self, resource: Resource[Any], obj: Object) -> Object | None:
        try:
            found: Object = await self.deps.client.get(resource, obj.metadata.name, obj.metadata.namespace)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        return found if found.metadata.uid == obj.metadata.uid else None

    def _find(self, uid: str) -> Iterator[tuple[Object, Resource[Any]]]:
        for key, informer in self._informers.items():
            for obj in informer.by_index("uid", uid):
                yield obj, self._resources[key]

    def _dependents(self, uid: str) -> Iterator[tuple[Object, Resource[Any]]]:
        for key, informer in self._informers.items():
            for obj in informer.by_index("owner", uid):
                yield obj, self._resources[key]

    def _by_identity(self, uid: str) -> Iterator[tuple[Identity, Object]]:
        for dependent, where in self._dependents(uid):
            yield _identity(where, dependent), dependent

    def _remember_absent(self, namespace: str, uid: str) -> None:
        self._absent[namespace, uid] = None
        while len(self._absent) > ABSENT_SIZE:
            self._absent.popitem(last=False)


def _identity(resource: Resource[Any], obj: Object) -> Identity:
    return Identity(*resource.key, obj.metadata.namespace, obj.metadata.name, obj.metadata.uid)
