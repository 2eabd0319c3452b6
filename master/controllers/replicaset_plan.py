"""ReplicaSets, decided: how many pods to create, which to delete, and what the status says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cmp_to_key

from master.controllers.owners import controller_reference
from master.controllers.pods import find, is_active, is_available, is_ready, ready_since
from sampan.api.times import Time
from sampan.api.types.apps_v1 import ReplicaSet, ReplicaSetCondition, ReplicaSetStatus
from sampan.api.types.core_v1 import Pod, PodSpec
from sampan.api.types.meta_v1 import ObjectMeta

BURST = 500
"""At most so many pods are created or deleted at once."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class Change:
    """What brings the number of pods to what is wanted."""

    create: int = 0
    delete: tuple[Pod, ...] = ()


def wanted(rs: ReplicaSet) -> int:
    """spec.replicas, by default 1."""
    return 1 if rs.spec.replicas is None else rs.spec.replicas


def plan(rs: ReplicaSet, pods: Sequence[Pod], related: Sequence[Pod], now: datetime) -> Change:
    """Compare the active pods with what is wanted.

    `related` are the pods of all ReplicaSets under the same controller: where a node runs several of them, one there
    is missed least.
    """
    surplus = len(pods) - wanted(rs)
    if surplus < 0:
        return Change(create=min(-surplus, BURST))
    if surplus == 0:
        return Change()
    return Change(delete=tuple(rank_for_deletion(pods, related, now)[:min(surplus, BURST)]))


def rank_for_deletion(pods: Sequence[Pod], related: Sequence[Pod], now: datetime) -> list[Pod]:
    """The pods, those that are missed least first (upstream's ActivePodsWithRanks)."""
    on_node = Counter(pod.spec.node_name for pod in related if is_active(pod) and pod.spec.node_name)

    def simple(pod: Pod) -> tuple[bool, int, bool, int, int]:
        return (bool(pod.spec.node_name), _PHASES.get(pod.status.phase or "", 0), is_ready(pod), deletion_cost(pod),
                -on_node[pod.spec.node_name or ""])

    def compare(a: Pod, b: Pod) -> int:
        left, right = simple(a), simple(b)
        if left != right:
            return -1 if left < right else 1
        if is_ready(a):
            order = _younger(ready_since(a), ready_since(b), a, b, now)
            if order:
                return order
        if _restarts(a) != _restarts(b):
            return _restarts(b) - _restarts(a)
        return _younger(a.metadata.creation_timestamp, b.metadata.creation_timestamp, a, b, now)

    return sorted(pods, key=cmp_to_key(compare))


_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def deletion_cost(pod: Pod) -> int:
    """The annotation's number, 0 where it is missing or malformed."""
    try:
        return int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _restarts(pod: Pod) -> int:
    return max((status.restart_count for status in pod.status.container_statuses), default=0)


def _younger(a: datetime | None, b: datetime | None, pod_a: Pod, pod_b: Pod, now: datetime) -> int:
    """Younger goes first, but only ages of different magnitude count; between equals the uid decides, at random."""
    if a == b:
        return 0
    if a is None or b is None:
        return -1 if a is None else 1
    magnitude = _magnitude(now - a) - _magnitude(now - b)
    if magnitude:
        return magnitude
    return -1 if pod_a.metadata.uid < pod_b.metadata.uid else 1


def _magnitude(age: object) -> int:
    seconds = getattr(age, "total_seconds", lambda: 0.0)()
    return int(math.log2(seconds * 1e9)) if seconds > 0 else -1


def pod_from_template(rs: ReplicaSet) -> Pod:
    """The pod that the template describes, controlled by the ReplicaSet."""
    template = rs.spec.template
    meta = (template.metadata if template else None) or ObjectMeta()
    return Pod(metadata=ObjectMeta(generate_name=f"{rs.metadata.name}-", namespace=rs.metadata.namespace,
                                   labels=meta.labels, annotations=meta.annotations, finalizers=meta.finalizers,
                                   owner_references=[controller_reference(rs)]),
               spec=(template.spec if template else None) or PodSpec(containers=[]))


def status(rs: ReplicaSet, pods: Sequence[Pod], failure: str, now: datetime) -> ReplicaSetStatus:
    """The status for the active pods; `failure` is what the last attempt to change their number ran into."""
    template = rs.spec.template
    labels = ((template.metadata if template else None) or ObjectMeta()).labels
    min_ready = rs.spec.min_ready_seconds or 0
    return ReplicaSetStatus(
        replicas=len(pods),
        fully_labeled_replicas=sum(labels.items() <= pod.metadata.labels.items() for pod in pods) or None,
        ready_replicas=sum(map(is_ready, pods)) or None,
        available_replicas=sum(is_available(pod, min_ready, now) for pod in pods) or None,
        observed_generation=rs.metadata.generation,
        conditions=_conditions(rs, len(pods) - wanted(rs), failure, now))


def _conditions(rs: ReplicaSet, surplus: int, failure: str, now: datetime) -> list[ReplicaSetCondition]:
    others = [item for item in rs.status.conditions if item.type != "ReplicaFailure"]
    if not failure:
        return others
    reason = "FailedCreate" if surplus < 0 else "FailedDelete"
    present = find(rs.status.conditions, "ReplicaFailure")
    if present is not None and present.reason == reason:
        # With its first message: that of each try may name another pod, and every status written means a next try.
        return [*others, present]
    return [*others, ReplicaSetCondition(type="ReplicaFailure", status="True", reason=reason, message=failure,
                                         last_transition_time=Time.of(now))]


def next_available(rs: ReplicaSet, pods: Sequence[Pod], now: datetime) -> float | None:
    """Seconds until the next ready pod becomes available; None where none waits for that."""
    min_ready = rs.spec.min_ready_seconds or 0
    waits = [min_ready - (now - since).total_seconds() for pod in pods
             if min_ready and (since := ready_since(pod)) is not None and not is_available(pod, min_ready, now)]
    return max(0.1, min(waits)) if waits else None
