"""The rules by which nodes are ruled out, each with its own explanation, in the words that upstream's users know.

A rule looks at all nodes at once. Of several rules that refuse a node the first one speaks, in this file's order,
which is that of upstream's default profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from master.scheduler import requests
from master.scheduler.cluster import PODS, Cluster, Mask
from sampan.api.taints import tolerates
from sampan.api.types import core_v1


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nodes that are ruled out, and why. `final` says that no other pod's end would help."""

    nodes: Mask
    reason: str
    final: bool = True


Rule = Callable[[core_v1.Pod, Cluster, Mask], Sequence[Refusal]]
"""Called with the nodes that are still in question; refuses some of them."""


def tolerated(pod: core_v1.Pod, taint: core_v1.Taint) -> bool:
    """Whether one of the pod's tolerations covers the taint."""
    return any(tolerates(toleration, taint) for toleration in pod.spec.tolerations)


def node_unschedulable(pod: core_v1.Pod, cluster: Cluster, candidates: Mask) -> Sequence[Refusal]:
    """Cordoned nodes, unless the pod tolerates that."""
    taint = core_v1.Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
    if tolerated(pod, taint):
        return ()
    return [Refusal(candidates & cluster.unschedulable, "node(s) were unschedulable")]


def taint_toleration(pod: core_v1.Pod, cluster: Cluster, candidates: Mask) -> Sequence[Refusal]:
    """Nodes with a NoSchedule or NoExecute taint that the pod does not tolerate."""
    by_reason: dict[str, Mask] = {}
    for row in np.flatnonzero(candidates):
        taint = next((taint for taint in cluster.rows[row].taints if taint.effect in ("NoSchedule", "NoExecute")
                      and not tolerated(pod, taint)), None)
        if taint is not None:
            reason = f"node(s) had untolerated taint {{{taint.key}: {taint.value or ''}}}"
            by_reason.setdefault(reason, np.zeros_like(candidates))[row] = True
    return [Refusal(nodes, reason) for reason, nodes in by_reason.items()]


def node_affinity(pod: core_v1.Pod, cluster: Cluster, candidates: Mask) -> Sequence[Refusal]:
    """Nodes that nodeSelector or the required node affinity does not match."""
    selector = pod.spec.node_selector
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    if not selector and required is None:
        return ()
    refused = np.zeros_like(candidates)
    for row in np.flatnonzero(candidates):
        labels = cluster.rows[row].labels
        matches = all(labels.get(key) == value for key, value in selector.items())
        if matches and required is not None:
            matches = any(_matches_term(term, labels, cluster.names[row]) for term in required.node_selector_terms)
        refused[row] = not matches
    return [Refusal(refused, "node(s) didn't match Pod's node affinity/selector")]


def _matches_term(term: core_v1.NodeSelectorTerm, labels: Mapping[str, str], name: str) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    return (all(_matches(item, labels.get(item.key)) for item in term.match_expressions)
            and all(_matches(item, {"metadata.name": name}.get(item.key)) for item in term.match_fields))


def _matches(requirement: core_v1.NodeSelectorRequirement, value: str | None) -> bool:
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                have, limit = int(value or ""), int(requirement.values[0])
            except (ValueError, IndexError):
                return False
            return have > limit if requirement.operator == "Gt" else have < limit
        case _:
            return False


def node_ports(pod: core_v1.Pod, cluster: Cluster, candidates: Mask) -> Sequence[Refusal]:
    """Nodes on which another pod has one of the pod's host ports."""
    wanted = requests.host_ports(pod)
    if not wanted:
        return ()
    refused = np.zeros_like(candidates)
    for row in np.flatnonzero(candidates):
        refused[row] = any(port.conflicts(taken) for port in wanted for taken in cluster.rows[row].ports)
    return [Refusal(refused, "node(s) didn't have free ports for the requested pod ports", final=False)]


def node_resources_fit(pod: core_v1.Pod, cluster: Cluster, candidates: Mask) -> Sequence[Refusal]:
    """Nodes with too little left of something; each lack is told."""
    wanted = {**requests.pod_requests(pod), PODS: 1}
    vector = cluster.vector(wanted)
    free = cluster.allocatable - cluster.requested
    refusals: list[Refusal] = []
    for resource, column in cluster.resources.items():
        if vector[column] <= 0:
            continue
        lacking = candidates & (free[:, column] < vector[column])
        if lacking.any():
            reason = "Too many pods" if resource == PODS else f"Insufficient {resource}"
            too_small = cluster.allocatable[:, column] < vector[column]
            refusals += [Refusal(lacking & too_small, reason), Refusal(lacking & ~too_small, reason, final=False)]
    return refusals


DEFAULT_RULES: tuple[Rule, ...] = (
    node_unschedulable, taint_toleration, node_affinity, node_ports, node_resources_fit)
