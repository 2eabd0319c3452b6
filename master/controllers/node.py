"""Nodes, carried out: signs of life, taints, address ranges."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_network

from msgspec.structs import replace

from master.controllers import node_plan as plans
from master.controllers.base import Controller, Deps, ignore_missing
from master.controllers.pods import find
from sampan.api.codec import to_tree
from sampan.api.errors import ApiError
from sampan.api.resources import LEASES, NODES, PODS
from sampan.api.types.coordination_v1 import Lease
from sampan.api.types.core_v1 import Node, NodeStatus, ObjectReference, Pod, PodStatus
from sampan.client.informer import either
from sampan.client.protocol import Patch

LEASE_NAMESPACE = "kube-node-lease"
MONITOR_SECONDS = 5.0
"""How often a lost node is looked at again while too much of its zone is lost (--node-monitor-period)."""


def reference(node: Node) -> ObjectReference:
    """How events name a node; kubectl describe looks for its name as uid as well."""
    return ObjectReference(kind="Node", name=node.metadata.name, uid=node.metadata.uid, api_version="v1")


@dataclass(slots=True)
class _Signs:
    """What was last seen of a node, and when by our own clock: the node's may be wrong."""

    lease: object
    heartbeat: object
    at: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """Which node of a zone began to evict last, and until when the next one has to wait."""

    node: str
    until: float


class NodeLifecycleController(Controller[str]):
    """Marks nodes that fell silent, and keeps taints in line with conditions.

    A heartbeat costs one comparison; one timer a node looks whether they still come.
    """

    def __init__(self, deps: Deps, *, grace: float = plans.GRACE) -> None:
        super().__init__("node-lifecycle", deps, component="node-controller")
        self._grace = grace
        self._nodes, self._leases = deps.informers.get(NODES), deps.informers.get(LEASES)
        self._signs: dict[str, _Signs] = {}
        self._marked: set[str] = set()  # nodes whose pods have been marked since they fell silent
        self._turns: dict[tuple[str, str], _Turn] = {}  # by zone
        self._all_lost = False
        self._nodes.add_handler(self._node_changed)
        self._leases.add_handler(self._lease_changed)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        name = either(old, new).metadata.name
        if new is None:
            self._signs.pop(name, None)
            self._marked.discard(name)
            self._tell(either(old, new), "RemovingNode", f"Removing Node {name} from Controller")
            self._look_at_all()
            return
        if old is None:
            self._tell(new, "RegisteredNode", f"Registered Node {name} in Controller")
        self._note_signs(name)
        if old is None or old.spec != new.spec or _states(old) != _states(new):
            self.queue.add(name)
            self._look_at_all()

    def _look_at_all(self) -> None:
        """Every node is concerned when the last one is lost, or the first one comes back."""
        lost = plans.all_lost(plans.zones(self._nodes))
        if lost != self._all_lost:
            self._all_lost = lost
            for node in self._nodes:
                self.queue.add(node.metadata.name)

    def _tell(self, node: Node, reason: str, what: str) -> None:
        self.deps.events.normal(reference(node), reason, f"Node {node.metadata.name} event: {what}")

    def _lease_changed(self, old: Lease | None, new: Lease | None) -> None:
        if new is not None and new.metadata.namespace == LEASE_NAMESPACE:
            self._note_signs(new.metadata.name)

    def _note_signs(self, name: str) -> None:
        """Remember when a node's Lease or status last moved."""
        node = self._nodes.get(name)
        if node is None:
            return
        lease = self._leases.get(name, LEASE_NAMESPACE)
        ready = find(node.status.conditions, "Ready")
        renewed = lease.spec.renew_time if lease is not None else None
        # The time in a condition that we have written ourselves is no sign of life.
        heartbeat = ready.last_heartbeat_time if ready is not None else None
        known = self._signs.get(name)
        if known is None or (known.lease, known.heartbeat) != (renewed, heartbeat):
            self._signs[name] = _Signs(renewed, heartbeat, self.deps.clock.monotonic())

    async def reconcile(self, key: str) -> None:
        """Mark the node if it is silent, then bring its taints in line."""
        node = self._nodes.get(key)
        if node is None:
            return
        self._note_signs(key)
        never = find(node.status.conditions, "Ready") is None
        grace = max(self._grace, plans.STARTUP_GRACE) if never else self._grace
        silent = self.deps.clock.monotonic() - self._signs[key].at
        if silent > grace:
            node = await self._mark_lost(node)
        else:
            self.queue.add_after(key, grace - silent + 0.5)
        ready = find(node.status.conditions, "Ready")
        # A node that says itself that it is not ready also says how its pods are; for a silent one they are marked.
        if ready is None or ready.status != "Unknown":
            self._marked.discard(key)
        elif key not in self._marked:
            await self._mark_pods(node)
            self._marked.add(key)
        taints = plans.wanted_taints(node, self.deps.clock.now(), self._evicting(node))
        if taints != node.spec.taints:
            body = {"metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                    "spec": {"taints": [to_tree(taint) for taint in taints] or None}}
            await ignore_missing(self.deps.client.patch(NODES, key, Patch("merge", body)))

    def _evicting(self, node: Node) -> plans.Evicting:
        """Whether the node may evict its pods now if it is not ready; it is looked at again where it has to wait."""
        ready = find(node.status.conditions, "Ready")
        if ready is None or ready.status == "True":
            return plans.Evicting.ADD
        # The copy of the node that was just marked may not have arrived yet.
        states = plans.zones([node, *(item for item in self._nodes if item.metadata.name != node.metadata.name)])
        if plans.all_lost(states):
            return plans.Evicting.REMOVE
        if plans.is_evicting(node):
            return plans.Evicting.KEEP
        zone, now = plans.zone_of(node), self.deps.clock.monotonic()
        rate, turn = states[zone].rate, self._turns.get(zone)
        wait = 0.0 if turn is None or turn.node == node.metadata.name else turn.until - now
        if not rate or wait > 0:
            self.queue.add_after(node.metadata.name, max(wait, 1.0) if rate else MONITOR_SECONDS)
            return plans.Evicting.KEEP
        self._turns[zone] = _Turn(node.metadata.name, now + 1 / rate)
        return plans.Evicting.ADD

    async def _mark_lost(self, node: Node) -> Node:
        conditions = plans.lost_conditions(node, self.deps.clock.now())
        if conditions == node.status.conditions:
            return node
        ready = find(node.status.conditions, "Ready")
        if ready is not None and ready.status == "True":
            name = node.metadata.name
            self.deps.events.normal(reference(node), "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        status: NodeStatus = replace(node.status, conditions=conditions)
        return await self.deps.client.update(NODES, replace(node, status=status), subresource="status")

    async def _mark_pods(self, node: Node) -> None:
        """Pods on a lost node leave their Services' endpoints."""
        async def mark(pod: Pod) -> None:
            conditions = plans.unready(pod, self.deps.clock.now())
            if conditions is not None:
                status: PodStatus = replace(pod.status, conditions=conditions)
                await ignore_missing(self.deps.client.update(PODS, replace(pod, status=status), subresource="status"))
                self.deps.events.warning(pod, "NodeNotReady", "Node is not ready")

        # Those that are being deleted as well: they would still count as serving. Not from an informer, which may not
        # show yet what the node said last: it is done once.
        pods = await self.deps.client.list(PODS, field_selector=f"spec.nodeName={node.metadata.name}")
        await asyncio.gather(*map(mark, pods.items))


class NodeRangeController(Controller[str]):
    """Gives every node its range of pod addresses."""

    def __init__(self, deps: Deps, cluster_cidr: str, *, prefix: int = 24) -> None:
        # One worker: no range is given twice.
        super().__init__("node-ipam", deps, workers=1, component="cidrAllocator")
        self._cluster = ip_network(cluster_cidr)
        self._prefix = max(prefix, self._cluster.prefixlen)
        self._nodes = deps.informers.get(NODES)
        self._given: dict[str, str] = {}
        self._nodes.add_handler(self._changed)

    def _changed(self, old: Node | None, new: Node | None) -> None:
        node = either(old, new)
        if new is None:
            self._given.pop(node.metadata.name, None)
            for other in self._nodes:  # one may have waited for this range
                if not other.spec.pod_cidr:
                    self.queue.add(other.metadata.name)
        elif new.spec.pod_cidr:
            self._given[node.metadata.name] = new.spec.pod_cidr
        else:
            self.queue.add(node.metadata.name)

    async def reconcile(self, key: str) -> None:
        """Give the node a range unless it has one."""
        node = self._nodes.get(key)
        if node is None or node.spec.pod_cidr:
            return
        chosen = self._given.get(key) or plans.allocate(self._cluster, self._prefix, self._given)
        if chosen is None:
            self.deps.events.normal(reference(node), "CIDRNotAvailable", f"Node {key} status is now: CIDRNotAvailable")
            return
        self._given[key] = chosen
        patch = Patch("merge", {"metadata": {"uid": node.metadata.uid},
                                "spec": {"podCIDR": chosen, "podCIDRs": [chosen]}})
        try:
            await ignore_missing(self.deps.client.patch(NODES, key, patch))
        except ApiError as error:
            if not error.is_invalid:
                raise
            # Somebody has given it another range meanwhile; the informer will tell which.
            self.deps.events.normal(reference(node), "CIDRAssignmentFailed",
                                    f"Node {key} status is now: CIDRAssignmentFailed")


def _states(node: Node) -> list[tuple[str, str]]:
    return [(item.type, item.status) for item in node.status.conditions]
