"""Nodes, decided: when a silent one counts as lost, which taints its state asks for, which addresses its pods get."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from msgspec.structs import replace

from master.controllers.pods import find, is_true, replaced
from sampan.api.taints import tolerates
from sampan.api.times import Time
from sampan.api.types.core_v1 import Node, NodeCondition, Pod, PodCondition, Taint

GRACE = 40.0
"""Seconds without a sign of life after which a node's state is unknown."""
STARTUP_GRACE = 60.0
"""The same for a node that has never reported."""
RATE = 0.1
"""Nodes a second, in each zone, that may begin to evict their pods (--node-eviction-rate)."""
FOREVER = 10**9
"""Seconds: who tolerates a taint for decades is never evicted. The calendar ends before int64 does."""
UNHEALTHY_SHARE = 0.55
LARGE_ZONE = 50
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_BY_CONDITION = {
    ("Ready", "False"): NOT_READY, ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}
_OURS = frozenset({*_BY_CONDITION.values(), UNSCHEDULABLE})
_HEARTBEATS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def lost_conditions(node: Node, now: datetime) -> list[NodeCondition]:
    """The conditions of a node that has fallen silent."""
    result = list(node.status.conditions)
    for kind in _HEARTBEATS:
        present = find(result, kind)
        if present is None:
            result.append(NodeCondition(
                type=kind, status="Unknown", reason="NodeStatusNeverUpdated",
                message="Kubelet never posted node status.", last_transition_time=Time.of(now),
                last_heartbeat_time=node.metadata.creation_timestamp))
        elif present.status != "Unknown":
            result = replaced(result, replace(
                present, status="Unknown", reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.", last_transition_time=Time.of(now)))
    return result


class Evicting(Enum):
    """What becomes of the NoExecute taints of a node that is not ready: they evict its pods."""

    ADD = "add"
    KEEP = "keep"
    REMOVE = "remove"


def wanted_taints(node: Node, now: datetime, evicting: Evicting = Evicting.ADD) -> list[Taint]:
    """The node's taints with ours brought in line with its state; those of others stay as they are."""
    needed: dict[tuple[str, str], Taint] = {}

    def need(key: str, effect: str) -> None:
        needed[key, effect] = Taint(key=key, effect=effect, time_added=Time.of(now))

    evicts = evicting is Evicting.ADD or (evicting is Evicting.KEEP and is_evicting(node))
    for condition in node.status.conditions:
        key = _BY_CONDITION.get((condition.type, condition.status))
        if key is not None:
            need(key, "NoSchedule")
        if key in (NOT_READY, UNREACHABLE) and evicts:
            need(key, "NoExecute")
    if find(node.status.conditions, "Ready") is None:
        need(NOT_READY, "NoSchedule")
    if node.spec.unschedulable:
        need(UNSCHEDULABLE, "NoSchedule")
    kept = [taint for taint in node.spec.taints
            if taint.key not in _OURS or taint.effect == "PreferNoSchedule" or (taint.key, taint.effect) in needed]
    there = {(taint.key, taint.effect) for taint in kept}
    return [*kept, *(taint for key, taint in needed.items() if key not in there)]


def is_evicting(node: Node) -> bool:
    """Whether the node has one of the taints that evict because of its state."""
    return any(taint.key in (NOT_READY, UNREACHABLE) and taint.effect == "NoExecute" for taint in node.spec.taints)


def zone_of(node: Node) -> tuple[str, str]:
    """Nodes of one region and zone are likely to be lost for one reason."""
    labels = node.metadata.labels
    return labels.get("topology.kubernetes.io/region", ""), labels.get("topology.kubernetes.io/zone", "")


@dataclass(slots=True)
class Zone:
    """How many of a zone's nodes are well."""

    ready: int = 0
    lost: int = 0

    @property
    def rate(self) -> float:
        """How many nodes a second may begin to evict.

        Slowly, and not at all where most of a small zone is lost: then it is more likely that the network is broken.
        """
        size = self.ready + self.lost
        if self.ready and self.lost > 2 and self.lost / size >= UNHEALTHY_SHARE:
            return RATE / 10 if size > LARGE_ZONE else 0.0
        return RATE


def zones(nodes: Iterable[Node]) -> dict[tuple[str, str], Zone]:
    """The state of each zone."""
    result: defaultdict[tuple[str, str], Zone] = defaultdict(Zone)
    for node in nodes:
        zone = result[zone_of(node)]
        if is_true(node.status.conditions, "Ready"):
            zone.ready += 1
        else:
            zone.lost += 1
    return dict(result)


def all_lost(states: Mapping[tuple[str, str], Zone]) -> bool:
    """Whether no node at all is well: then it is the master that is cut off, and nothing is evicted."""
    return not any(zone.ready for zone in states.values())


def unready(pod: Pod, now: datetime) -> list[PodCondition] | None:
    """The conditions of a pod on a lost node: not ready. None where they say so already."""
    present = find(pod.status.conditions, "Ready")
    if present is None or present.status == "False":
        return None
    return [replace(item, status="False", last_transition_time=Time.of(now)) if item is present else item
            for item in pod.status.conditions]


@dataclass(frozen=True, slots=True)
class Eviction:
    """When a pod has to leave its tainted node; None for never."""

    at: datetime | None = None


def eviction(pod: Pod, taints: Sequence[Taint], now: datetime) -> Eviction:
    """Every NoExecute taint must be tolerated; the shortest tolerationSeconds of each counts.

    From when the taint came, or from when the pod came to the node, where the taint was there before.
    """
    due: list[datetime] = []
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        matching = [item for item in pod.spec.tolerations if tolerates(item, taint)]
        if not matching:
            return Eviction(now)
        seconds = [item.toleration_seconds for item in matching
                   if item.toleration_seconds is not None and item.toleration_seconds < FOREVER]
        if seconds:
            since = max((taint.time_added or Time.of(now)).timestamp(), _bound_at(pod))
            due.append(datetime.fromtimestamp(since + max(0, min(seconds)), tz=now.tzinfo))
    return Eviction(min(due)) if due else Eviction()


def _bound_at(pod: Pod) -> float:
    """When the pod came to its node, in seconds since 1970; 0 where nobody noted it."""
    scheduled = find(pod.status.conditions, "PodScheduled")
    at = scheduled.last_transition_time if scheduled is not None and scheduled.status == "True" else None
    return (at or pod.metadata.creation_timestamp or datetime.fromtimestamp(0, tz=UTC)).timestamp()


def allocate(cluster: IPv4Network | IPv6Network, prefix: int, taken: Mapping[str, str]) -> str | None:
    """The first free range of that size for a node; None where all are taken.

    `taken` is node to range; those may be of another size, from before the setting was changed.
    """
    bits = cluster.max_prefixlen - prefix
    first, last = int(cluster.network_address) >> bits, int(cluster.broadcast_address) >> bits
    used: set[int] = set()
    for text in taken.values():
        other = ip_network(text, strict=False)
        if other.version == cluster.version:
            start, end = int(other.network_address) >> bits, int(other.broadcast_address) >> bits
            used.update(range(max(first, start), min(last, end) + 1))
    chosen = next((number for number in range(first, last + 1) if number not in used), None)
    return None if chosen is None else f"{type(cluster.network_address)(chosen << bits)}/{prefix}"
