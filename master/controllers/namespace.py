"""Namespaces that are being deleted: their content goes first, then they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from master.controllers.base import Controller, Deps, ignore_missing
from master.controllers.pods import find
from sampan.api.errors import ApiError
from sampan.api.resources import NAMESPACES, PODS, PartialObjectMetadata, Resource
from sampan.api.times import Time
from sampan.api.types.core_v1 import Namespace, NamespaceCondition, NamespaceSpec, NamespaceStatus, Pod
from sampan.client.informer import either
from sampan.client.protocol import DeleteOptions
from sampan.loop.reconcile import Retry

FINALIZER = "kubernetes"
CONTENT_WAIT = 8.0
"""Seconds between looks while something other than pods (say, a foreign finalizer) holds the namespace.

Upstream expects that it takes 15 s, and looks again after half of that and a second.
"""


@dataclass(slots=True)
class Remains:
    """What is left after everything has been asked to go."""

    kinds: dict[str, int] = field(default_factory=dict)
    """``pods.`` or ``deployments.apps`` to how many are left."""
    finalizers: dict[str, int] = field(default_factory=dict)
    discovery_error: str = ""
    errors: list[str] = field(default_factory=list)
    wait: float = 0.0
    """Seconds until it is worth looking again."""

    @property
    def empty(self) -> bool:
        """Whether the namespace may go."""
        return not (self.kinds or self.finalizers or self.errors or self.discovery_error)


def count_remains(remains: Remains, resource: Resource[Any], items: Sequence[PartialObjectMetadata]) -> None:
    """Add one resource's leftovers. Pods go when their grace period has passed; nobody tells when the rest will."""
    if not items:
        return
    name = f"{resource.plural}.{resource.group}"
    remains.kinds[name] = remains.kinds.get(name, 0) + len(items)
    for item in items:
        for finalizer in item.metadata.finalizers:
            remains.finalizers[finalizer] = remains.finalizers.get(finalizer, 0) + 1
    if resource.key == PODS.key:
        grace = max(item.metadata.deletion_grace_period_seconds or 0 for item in items)
        remains.wait = max(remains.wait, grace / 2 + 1)
    else:
        remains.wait = max(remains.wait, CONTENT_WAIT)


def conditions(present: Sequence[NamespaceCondition], remains: Remains, now: datetime) -> list[NamespaceCondition]:
    """The five conditions that tell why a namespace is still there."""
    kinds = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(remains.kinds.items()))
    finalizers = ", ".join(f"{name} in {count} resource instances" for name, count in
                           sorted(remains.finalizers.items()))
    wanted = (
        ("NamespaceDeletionDiscoveryFailure", remains.discovery_error, "DiscoveryFailed", "ResourcesDiscovered",
         "Discovery failed for some groups, 1 failing: {}", "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", "", "GroupVersionParsingFailed", "ParsedGroupVersions",
         "{}", "All legacy kube types successfully parsed"),
        ("NamespaceDeletionContentFailure", ", ".join(sorted(remains.errors)), "ContentDeletionFailed",
         "ContentDeleted", f"Failed to delete all resource types, {len(remains.errors)} remaining: {{}}",
         "All content successfully deleted, may be waiting on finalization"),
        ("NamespaceContentRemaining", kinds, "SomeResourcesRemain", "ContentRemoved",
         "Some resources are remaining: {}", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", finalizers, "SomeFinalizersRemain", "ContentHasNoFinalizers",
         "Some content in the namespace has finalizers remaining: {}", "All content-preserving finalizers finished"),
    )
    result = []
    for kind, detail, bad, good, bad_text, good_text in wanted:
        status, reason, message = ("True", bad, bad_text.format(detail)) if detail else ("False", good, good_text)
        old = find(present, kind)
        if old is not None and (old.status, old.reason, old.message) == (status, reason, message):
            result.append(old)
            continue
        since = old.last_transition_time if old is not None and old.status == status else Time.of(now)
        result.append(NamespaceCondition(type=kind, status=status, reason=reason, message=message,
                                         last_transition_time=since))
    return result


class NamespaceController(Controller[str]):
    """Empties and then removes namespaces that somebody deleted."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("namespace", deps)
        self._namespaces = deps.informers.get(NAMESPACES)
        self._namespaces.add_handler(self._changed)
        deps.informers.get(PODS).add_handler(self._pod_changed)

    def _changed(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None and new.metadata.deletion_timestamp is not None:
            self.queue.add(new.metadata.name)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        """The last pod's end is what a deletion usually waits for."""
        if new is None:
            name = either(old, new).metadata.namespace
            namespace = self._namespaces.get(name)
            if namespace is not None and namespace.metadata.deletion_timestamp is not None:
                self.queue.add_after(name, 0.05)  # many pods often end together

    async def reconcile(self, key: str) -> None:
        """One pass over all resources."""
        if self._namespaces.get(key) is None:
            return
        try:
            namespace = await self.deps.client.get(NAMESPACES, key)
        except ApiError as error:
            if error.is_not_found:
                return
            raise
        if namespace.metadata.deletion_timestamp is None:
            return
        if FINALIZER not in namespace.spec.finalizers:
            if not namespace.spec.finalizers and not namespace.metadata.finalizers:
                await ignore_missing(self.deps.client.delete(NAMESPACES, key, options=DeleteOptions(
                    uid=namespace.metadata.uid)))
            return
        remains = await self._empty(key)
        namespace = await self._tell(namespace, remains)
        if remains.empty:  # by now all is written that was let in before the deletion; it must go too
            remains = await self._empty(key)
        if not remains.empty:
            raise Retry(f"some content remains in namespace {key}", after=remains.wait or None)
        rest = [item for item in namespace.spec.finalizers if item != FINALIZER]
        await ignore_missing(self.deps.client.update(NAMESPACES, replace(namespace, spec=NamespaceSpec(
            finalizers=rest)), subresource="finalize"))

    async def _empty(self, namespace: str) -> Remains:
        remains = Remains()
        try:
            resources = await self.deps.client.server_resources()
        except ApiError as error:
            remains.discovery_error = str(error)
            return remains
        # Pods first: what guards or feeds them should outlive them.
        for resource in sorted(resources, key=lambda item: item.key != PODS.key):
            if resource.namespaced and {"delete", "list"} <= set(resource.verbs):
                try:
                    await self._empty_one(namespace, resource, remains)
                except ApiError as error:
                    if not error.is_not_found:
                        remains.errors.append(f"{resource.plural}.{resource.group}: {error}")
        return remains

    async def _empty_one(self, namespace: str, resource: Resource[Any], remains: Remains) -> None:
        client, options = self.deps.client, DeleteOptions(propagation="Background")
        view = resource.metadata_only()
        items = (await client.list(view, namespace)).items
        if not items:
            return
        if "deletecollection" in resource.verbs:
            await client.delete_collection(view, namespace, options=options)
        else:
            for item in items:
                await ignore_missing(client.delete(view, item.metadata.name, namespace, options))
        count_remains(remains, resource, (await client.list(view, namespace)).items)

    async def _tell(self, namespace: Namespace, remains: Remains) -> Namespace:
        status = NamespaceStatus(phase="Terminating", conditions=conditions(
            namespace.status.conditions, remains, self.deps.clock.now()))
        if status == namespace.status:
            return namespace
        return await self.deps.client.update(NAMESPACES, replace(namespace, status=status), subresource="status")
