"""Nodes, decided: when a silent one counts as lost, and which taints its state asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from msgspec.structs import replace

from master.controllers.pods import find, replaced
from sampan.api.times import Time
from sampan.api.types.core_v1 import Node, NodeCondition, Pod, PodCondition, Taint, Toleration

GRACE = 40.0
"""Seconds without a sign of life after which a node's state is unknown."""
STARTUP_GRACE = 60.0
"""The same for a node that has never reported."""
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


def wanted_taints(node: Node, now: datetime) -> list[Taint]:
    """The node's taints with ours brought in line with its state; those of others stay as they are."""
    needed: dict[tuple[str, str], Taint] = {}
    for condition in node.status.conditions:
        key = _BY_CONDITION.get((condition.type, condition.status))
        if key is not None:
            needed[key, "NoSchedule"] = Taint(key=key, effect="NoSchedule")
        if key in (NOT_READY, UNREACHABLE):
            needed[key, "NoExecute"] = Taint(key=key, effect="NoExecute", time_added=Time.of(now))
    if find(node.status.conditions, "Ready") is None:
        needed[NOT_READY, "NoSchedule"] = Taint(key=NOT_READY, effect="NoSchedule")
    if node.spec.unschedulable:
        needed[UNSCHEDULABLE, "NoSchedule"] = Taint(key=UNSCHEDULABLE, effect="NoSchedule", time_added=Time.of(now))
    kept = [taint for taint in node.spec.taints
            if taint.key not in _OURS or taint.effect == "PreferNoSchedule" or (taint.key, taint.effect) in needed]
    there = {(taint.key, taint.effect) for taint in kept}
    return [*kept, *(taint for key, taint in needed.items() if key not in there)]


def unready(pod: Pod, now: datetime) -> list[PodCondition] | None:
    """The conditions of a pod on a lost node: not ready. None where they say so already."""
    present = find(pod.status.conditions, "Ready")
    if present is None or present.status == "False":
        return None
    return [replace(item, status="False", last_transition_time=Time.of(now)) if item is present else item
            for item in pod.status.conditions]


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether a toleration matches a taint (core/v1 Toleration)."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and (toleration.value or "") == (taint.value or "")


@dataclass(frozen=True, slots=True)
class Eviction:
    """When a pod has to leave its tainted node; None for never."""

    at: datetime | None = None


def eviction(pod: Pod, taints: Sequence[Taint], now: datetime) -> Eviction:
    """Every NoExecute taint must be tolerated; the shortest tolerationSeconds counts from when its taint came."""
    due: list[datetime] = []
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        matching = [item for item in pod.spec.tolerations if tolerates(item, taint)]
        if not matching:
            return Eviction(now)
        seconds = [item.toleration_seconds for item in matching if item.toleration_seconds is not None]
        if seconds:
            since = (taint.time_added or Time.of(now)).timestamp()
            due.append(datetime.fromtimestamp(since + max(0, min(seconds)), tz=now.tzinfo))
    return Eviction(min(due)) if due else Eviction()


def allocate(cluster: IPv4Network | IPv6Network, prefix: int, taken: Mapping[str, str]) -> str | None:
    """The first free range of that size for a node; None where all are taken. `taken` is node to range."""
    used = set(taken.values())
    return next((str(subnet) for subnet in cluster.subnets(new_prefix=prefix) if str(subnet) not in used), None)
