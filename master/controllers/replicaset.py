"""ReplicaSets and ReplicationControllers, carried out: pods are created, deleted, adopted and released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec.structs import replace

from master.controllers import replicaset_plan as plans
from master.controllers.base import Controller, Deps, Key, namespace_terminating, slow_start
from master.controllers.expectations import Expectations
from master.controllers.owners import by_controller, claim, controller_of, orphans, plan_claims
from master.controllers.pods import is_active
from sampan.api.codec import from_tree, to_tree
from sampan.api.errors import ApiError
from sampan.api.resources import PODS, REPLICASETS, REPLICATIONCONTROLLERS, Object, Resource
from sampan.api.selectors import LabelSelector, of_object
from sampan.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec, ReplicaSetStatus
from sampan.api.types.core_v1 import Pod, ReplicationController, ReplicationControllerStatus
from sampan.api.types.meta_v1 import LabelSelector as SelectorFields
from sampan.client.informer import either, key_of
from sampan.client.protocol import DeleteOptions

CATCH_UP = 1.0
"""Seconds until a look whether the informer has caught up, if it tells of nothing before."""


T = TypeVar("T", bound=Object)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind that keeps a number of pods; how an object of it is seen as a ReplicaSet, and takes its status.

    `name` is the queue's, `component` the source of events.
    """

    resource: Resource[T]
    name: str
    component: str
    view: Callable[[T], ReplicaSet]
    with_status: Callable[[T, ReplicaSetStatus], T]


REPLICA_SETS = Kind(REPLICASETS, "replicaset", "replicaset-controller", lambda rs: rs,
                    lambda rs, status: replace(rs, status=status))


def _as_replica_set(rc: ReplicationController) -> ReplicaSet:
    """A ReplicationController decides as a ReplicaSet does; apiVersion and kind stay: pods and events refer to them."""
    spec = ReplicaSetSpec(replicas=rc.spec.replicas, min_ready_seconds=rc.spec.min_ready_seconds,
                          selector=SelectorFields(match_labels=rc.spec.selector), template=rc.spec.template)
    return ReplicaSet(api_version=rc.api_version, kind=rc.kind, metadata=rc.metadata, spec=spec,
                      status=from_tree(ReplicaSetStatus, to_tree(rc.status)))


REPLICATION_CONTROLLERS = Kind(
    REPLICATIONCONTROLLERS, "replicationcontroller", "replication-controller", _as_replica_set,
    lambda rc, status: replace(rc, status=from_tree(ReplicationControllerStatus, to_tree(status))))


class ReplicaSetController(Controller[Key], Generic[T]):
    """Keeps the number of pods of each ReplicaSet, or of each object of another such kind."""

    def __init__(self, deps: Deps, kind: Kind[T]) -> None:
        super().__init__(kind.name, deps, workers=5, component=kind.component)
        self._kind = kind
        self._sets = deps.informers.get(kind.resource)
        self._pods = deps.informers.get(PODS)
        self._pods.add_indexer("controller", by_controller)
        self._sets.add_indexer("controller", by_controller)
        self._sets.add_indexer("namespace", lambda rs: [rs.metadata.namespace])
        self._expected: Expectations[Key] = Expectations(self._pods, deps.clock)
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)

    def _set_changed(self, old: T | None, new: T | None) -> None:
        self.queue.add(key_of(either(old, new)))

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for pod in (old, new):
            owner = controller_of(pod) if pod is not None else None
            if pod is not None and owner is not None and owner.kind == self._kind.resource.kind:
                self.queue.add((pod.metadata.namespace, owner.name))
        if new is not None and controller_of(new) is None and new.metadata.labels:
            for rs in self._sets.by_index("namespace", new.metadata.namespace):
                if of_object(self._kind.view(rs).spec.selector).matches(new.metadata.labels):
                    self.queue.add(key_of(rs))

    async def reconcile(self, key: Key) -> None:
        """Claim pods, change their number, write the status."""
        namespace, name = key
        found = self._sets.get(name, namespace)
        if found is None:
            self._expected.forget(key)
            return
        rs = self._kind.view(found)
        # Asked before the pods are looked at: what arrives after that is not among them.
        behind = self._expected.pending(key)
        pods = await self._claimed(rs, of_object(rs.spec.selector))
        failure: ApiError | None = None
        if rs.metadata.deletion_timestamp is None and not behind:
            failure = await self._change(rs, pods)
        await self._write_status(found, rs, pods, failure)
        if failure is not None:
            raise failure
        wait = plans.next_available(rs, pods, self.deps.clock.now())
        if wait is not None:
            self.queue.add_after(key, wait)
        if behind:  # a pod that came and went between two lists is never told of
            self.queue.add_after(key, CATCH_UP)

    async def _claimed(self, rs: ReplicaSet, selector: LabelSelector) -> list[Pod]:
        candidates = [pod for value in (rs.metadata.uid, orphans(rs.metadata.namespace))
                      for pod in self._pods.by_index("controller", value) if is_active(pod)]
        return await claim(self.deps.client, PODS, rs, self._kind.resource, plan_claims(rs, selector, candidates))

    async def _change(self, rs: ReplicaSet, pods: list[Pod]) -> ApiError | None:
        change = plans.plan(rs, pods, self._related(rs) if len(pods) > plans.wanted(rs) else [],
                            self.deps.clock.now())
        if change.create:
            _, failure = await slow_start(change.create, lambda _: self._create(rs))
            return None if failure is not None and namespace_terminating(failure) else failure
        if change.delete:
            results = await asyncio.gather(*(self._delete(rs, pod) for pod in change.delete), return_exceptions=True)
            for error in results:
                if isinstance(error, ApiError):
                    return error
                if isinstance(error, BaseException):
                    raise error
        return None

    def _related(self, rs: ReplicaSet) -> list[Pod]:
        owner = controller_of(rs)
        uids = [item.metadata.uid for item in self._sets.by_index("controller", owner.uid)] if owner is not None else [
            rs.metadata.uid]
        return [pod for uid in uids for pod in self._pods.by_index("controller", uid)]

    async def _create(self, rs: ReplicaSet) -> None:
        try:
            pod = await self.deps.client.create(PODS, plans.pod_from_template(rs))
        except ApiError as error:
            if not namespace_terminating(error):
                self.deps.events.warning(rs, "FailedCreate", f"Error creating: {error}")
            raise
        self._expected.wrote(key_of(rs), pod)
        self.deps.events.normal(rs, "SuccessfulCreate", f"Created pod: {pod.metadata.name}")

    async def _delete(self, rs: ReplicaSet, pod: Pod) -> None:
        name, namespace = pod.metadata.name, pod.metadata.namespace
        try:
            await self.deps.client.delete(PODS, name, namespace, DeleteOptions(uid=pod.metadata.uid))
        except ApiError as error:
            if not (error.is_not_found or error.is_conflict):
                self.deps.events.warning(rs, "FailedDelete", f"Error deleting: {error}")
                raise
        else:
            self.deps.events.normal(rs, "SuccessfulDelete", f"Deleted pod: {name}")
        self._expected.deleted(key_of(rs), pod)

    async def _write_status(self, found: T, rs: ReplicaSet, pods: list[Pod], failure: ApiError | None) -> None:
        status = plans.status(rs, pods, str(failure or ""), self.deps.clock.now())
        if _counts(status) != _counts(rs.status):
            try:
                await self.deps.client.update(self._kind.resource, self._kind.with_status(found, status),
                                              subresource="status")
            except ApiError as error:
                if not error.is_not_found:
                    raise


def _counts(status: ReplicaSetStatus) -> tuple[object, ...]:
    """A status in a form in which a missing count equals zero."""
    return (status.replicas, status.fully_labeled_replicas or 0, status.ready_replicas or 0,
            status.available_replicas or 0, status.observed_generation or 0, status.conditions)
