"""Applying what agents report, each within what a node may touch: itself, its Lease, its own pods, events about them.

The rules are those of upstream's NodeRestriction admission plugin. A report carries a status or a whole object, never
a change of a pod's spec, so a node cannot move or alter its pods by any message that there is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from master.nodes.identity import Identities, NodeIdentity, Refused
from master.nodes.world import World
from sampan.api import codec
from sampan.api.errors import ApiError, bad_request, conflict, forbidden_request, not_found
from sampan.api.resources import EVENTS, LEASES, NODES, PODS, Object, Resource
from sampan.api.types import coordination_v1, core_v1
from sampan.client.protocol import Client, DeleteOptions, Patch
from sampan.pb import node_pb2

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T", bound=Object)
LEASE_NAMESPACE = "kube-node-lease"
_TRIES = 6

_FREE_LABELS = frozenset((
    "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os", "node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone"))
_FREE_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")


def label_allowed(label: str) -> bool:
    """Whether a node may set that label on itself (NodeRestriction: the field's own domains are reserved)."""
    prefix, slash, _ = label.partition("/")
    if not slash or label in _FREE_LABELS:
        return True
    reserved = prefix in ("kubernetes.io", "k8s.io") or prefix.endswith((".kubernetes.io", ".k8s.io"))
    return not reserved or any(prefix == free or prefix.endswith(f".{free}") for free in _FREE_PREFIXES)


def merged_pod_status(current: core_v1.PodStatus, reported: core_v1.PodStatus) -> core_v1.PodStatus:
    """The agent's status, with what others own kept: conditions of types that it does not report (readiness gates)."""
    mine = {condition.type for condition in reported.conditions}
    others = [condition for condition in current.conditions if condition.type not in mine]
    return replace(reported, conditions=[*reported.conditions, *others],
                   qos_class=reported.qos_class or current.qos_class,
                   nominated_node_name=reported.nominated_node_name or current.nominated_node_name)


def merged_node(current: core_v1.Node, reported: core_v1.Node) -> core_v1.Node:
    """The Node with the agent's labels, annotations and status; its spec is others' business."""
    mine = {condition.type for condition in reported.status.conditions}
    others = [condition for condition in current.status.conditions if condition.type not in mine]
    metadata = replace(current.metadata, labels={**current.metadata.labels, **reported.metadata.labels},
                       annotations={**current.metadata.annotations, **reported.metadata.annotations})
    status = replace(reported.status, conditions=[*reported.status.conditions, *others],
                     volumes_attached=current.status.volumes_attached)
    return replace(current, metadata=metadata, status=status)


def _forbidden(resource: Resource[T], name: str, why: str) -> ApiError:
    return forbidden_request(resource.group, resource.plural, name, why)


def _require_own_node(who: NodeIdentity, node: core_v1.Node) -> None:
    name = node.metadata.name
    if name != who.node:
        raise _forbidden(NODES, name, f'node "{who.node}" is not allowed to modify node "{name}"')
    refused = sorted(label for label in node.metadata.labels if not label_allowed(label))
    if refused:
        raise _forbidden(NODES, name, f'node "{who.node}" is not allowed to set the following labels: '
                                      f'{", ".join(refused)}')


def _require_own_lease(who: NodeIdentity, lease: coordination_v1.Lease) -> None:
    name, holder = lease.metadata.name, lease.spec.holder_identity if lease.spec else None
    if (lease.metadata.namespace, name) != (LEASE_NAMESPACE, who.node) or holder != who.node:
        raise _forbidden(LEASES, name, f'node "{who.node}" may only renew its own lease in {LEASE_NAMESPACE}')


class NodeReports:
    """Writes reports through the Client. Refusals are ApiErrors; the service acknowledges with their code."""

    def __init__(self, client: Client, world: World, identities: Identities) -> None:
        self._client = client
        self._world = world
        self._identities = identities

    async def apply(self, who: NodeIdentity, report: node_pb2.Report, known_pods: Mapping[str, str]) -> None:
        """Carry out one report. `known_pods` are the uids (with names) that this node has had since it connected."""
        kind = report.WhichOneof("body")
        if kind == "pod":
            await self._pod(who, report.pod)
        elif kind == "node":
            await self._node(who, _read(core_v1.Node, report.node))
        elif kind == "lease":
            await self._lease(who, _read(coordination_v1.Lease, report.lease))
        elif kind == "event":
            await self._event(who, _read(core_v1.Event, report.event), known_pods)
        else:
            raise bad_request("a report of a kind that this master does not know")

    # Pods

    async def _pod(self, who: NodeIdentity, report: node_pb2.PodReport) -> None:
        status = _read(core_v1.PodStatus, report.status)

        async def attempt(fresh: bool) -> None:
            pod = await self._own_pod(who, report, fresh=fresh)
            if report.terminated and not pod.metadata.deletion_timestamp:
                raise conflict("", "pods", report.name, "the pod is not being deleted")
            merged = merged_pod_status(pod.status, status)
            if merged != pod.status:
                await self._client.update(PODS, replace(pod, status=merged), subresource="status")
            elif not fresh:
                await attempt(fresh=True)  # the cache may not show yet what was written last

        await _with_retries(attempt)
        if report.terminated:
            options = DeleteOptions(grace_period=0, uid=report.uid)
            try:
                await self._client.delete(PODS, report.name, report.namespace, options)
            except ApiError as error:
                if not error.is_not_found:
                    raise

    async def _own_pod(self, who: NodeIdentity, report: node_pb2.PodReport, *, fresh: bool) -> core_v1.Pod:
        pod = None if fresh else self._world.get(PODS, report.name, report.namespace)
        if pod is None or pod.metadata.uid != report.uid:
            pod = await self._client.get(PODS, report.name, report.namespace)
        if pod.spec.node_name != who.node:
            raise _forbidden(PODS, report.name, f'node "{who.node}" can only update pods that are bound to it')
        if pod.metadata.uid != report.uid:
            raise not_found("", "pods", report.name)  # the one that was meant is gone
        return pod

    # The node itself

    async def _node(self, who: NodeIdentity, reported: core_v1.Node) -> None:
        _require_own_node(who, reported)

        async def attempt(fresh: bool) -> None:
            current = None if fresh else self._world.get(NODES, who.node)
            try:
                current = current or await self._client.get(NODES, who.node)
            except ApiError as error:
                if not error.is_not_found:
                    raise
                current = await self._register(who, reported)
            merged = merged_node(current, reported)
            if merged == current and not fresh:
                await attempt(fresh=True)
            if merged.metadata != current.metadata:
                current = await self._client.update(NODES, replace(current, metadata=merged.metadata))
            if merged.status != current.status:
                await self._client.update(NODES, replace(current, status=merged.status), subresource="status")

        await _with_retries(attempt)

    async def _register(self, who: NodeIdentity, reported: core_v1.Node) -> core_v1.Node:
        """Create the Node; of its spec a new node may bring taints, its provider's id and unschedulable.

        It may have been deleted while this report was on its way: then it stays deleted.
        """
        try:
            await self._identities.admit(who)
        except Refused as error:
            raise _forbidden(NODES, who.node, str(error)) from error
        spec = core_v1.NodeSpec(taints=reported.spec.taints, provider_id=reported.spec.provider_id,
                                unschedulable=reported.spec.unschedulable)
        metadata = replace(reported.metadata, uid="", resource_version="", owner_references=[], finalizers=[])
        created = await self._client.create(NODES, replace(reported, metadata=metadata, spec=spec))
        log.info('node "%s" has registered', who.node)
        try:
            await self._identities.record(who, exists=False)
        except ApiError as error:  # it is recorded when the agent connects again
            log.warning('node "%s": its identity is not recorded yet: %s', who.node, error)
        return created

    async def _lease(self, who: NodeIdentity, lease: coordination_v1.Lease) -> None:
        _require_own_lease(who, lease)
        try:
            await self._client.patch(LEASES, who.node, Patch("merge", {"spec": codec.to_tree(lease.spec)}),
                                     LEASE_NAMESPACE)
        except ApiError as error:
            if not error.is_not_found:
                raise
            metadata = replace(lease.metadata, resource_version="", uid="")
            await self._client.create(LEASES, replace(lease, metadata=metadata))

    # Events

    async def _event(self, who: NodeIdentity, event: core_v1.Event, known_pods: Mapping[str, str]) -> None:
        about = event.involved_object
        if about.kind == "Pod":
            self._require_own_pod(who, about, known_pods)
            allowed = event.metadata.namespace == about.namespace
        else:
            allowed = about.kind == "Node" and about.name == who.node and event.metadata.namespace == "default"
        if not allowed:
            raise _forbidden(EVENTS, event.metadata.name,
                             f'node "{who.node}" may only report events about itself and its pods')
        event = replace(event, metadata=replace(event.metadata, resource_version="", uid=""))
        if (event.count or 1) > 1 and await self._count_up(event):
            return
        try:
            await self._client.create(EVENTS, event)
        except ApiError as error:
            if not error.is_already_exists or not await self._count_up(event):
                raise

    async def _count_up(self, event: core_v1.Event) -> bool:
        """The event has happened again: write its new count; False where the earlier one has expired."""
        try:
            old = await self._client.get(EVENTS, event.metadata.name, event.metadata.namespace)
            if (old.involved_object.kind, old.involved_object.uid) != (
                    event.involved_object.kind, event.involved_object.uid):
                raise _forbidden(EVENTS, event.metadata.name, "that event is about something else")
            await self._client.update(EVENTS, replace(event, metadata=old.metadata))
        except ApiError as error:
            if error.is_not_found:
                return False
            raise
        return True

    def _require_own_pod(self, who: NodeIdentity, about: core_v1.ObjectReference,
                         known_pods: Mapping[str, str]) -> None:
        pod = self._world.get(PODS, about.name or "", about.namespace or "")
        now = pod is not None and pod.spec.node_name == who.node and about.uid in (None, "", pod.metadata.uid)
        if not now and known_pods.get(about.uid or "") != f"{about.namespace}/{about.name}":
            raise _forbidden(EVENTS, "", f'node "{who.node}" may not report events about pod '
                                         f'"{about.namespace}/{about.name}"')


def _read(kind: type[S], data: bytes) -> S:
    try:
        return codec.decode(kind, data)
    except (msgspec.DecodeError, ValueError) as error:
        raise bad_request(f"the report's {kind.__name__} cannot be read: {error}") from error


async def _with_retries(attempt: Callable[[bool], Awaitable[None]]) -> None:
    """Try with what the cache has, then afresh, as long as others write at the same time."""
    for number in range(_TRIES):
        try:
            await attempt(number > 0)
            return
        except ApiError as error:
            if not (error.is_conflict or error.is_already_exists) or number == _TRIES - 1:
                raise
