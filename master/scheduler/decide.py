"""Pure: which node a pod goes to, or why it goes to none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from master.scheduler import requests
from master.scheduler.cluster import Cluster
from master.scheduler.rules import DEFAULT_RULES, Rule
from sampan.api.types import core_v1


@dataclass(frozen=True, slots=True)
class Decision:
    """A node's name, or "" and the reason in upstream's wording."""

    node: str = ""
    refusal: str = ""


def decide(pod: core_v1.Pod, cluster: Cluster, rng: random.Random, rules: Sequence[Rule] = DEFAULT_RULES) -> Decision:
    """Filter and score all nodes; of equally good ones one is drawn."""
    if not len(cluster):
        return Decision(refusal="no nodes available to schedule pods")
    candidates = cluster.alive.copy()
    counts: dict[str, int] = {}
    hopeless = 0
    for rule in rules:
        refused = np.zeros_like(candidates)
        final = np.zeros_like(candidates)
        for refusal in rule(pod, cluster, candidates):
            number = int(refusal.nodes.sum())
            if number:
                counts[refusal.reason] = counts.get(refusal.reason, 0) + number
                refused |= refusal.nodes
                final |= refusal.nodes if refusal.final else np.zeros_like(final)
        hopeless += int(final.sum())
        candidates &= ~refused
    if not candidates.any():
        return Decision(refusal=explain(len(cluster), counts, hopeless))
    points = np.where(candidates, score(pod, cluster), -np.inf)
    best = np.flatnonzero(points >= points.max() - 1e-9)
    return Decision(node=cluster.names[int(rng.choice(best.tolist()))])


def explain(nodes: int, counts: dict[str, int], hopeless: int) -> str:
    """The text of FailedScheduling: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. …`.

    The last sentence tells whether taking other pods away would help. There are no priorities yet, so there never
    is a pod that may be taken away.
    """
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    helpless = {"Preemption is not helpful for scheduling": hopeless,
                "No preemption victims found for incoming pod": nodes - hopeless}
    preemption = ", ".join(sorted(f"{count} {reason}" for reason, count in helpless.items() if count))
    head = f"0/{nodes} nodes are available"
    return f"{head}: {reasons}. preemption: {head}: {preemption}."


def score(pod: core_v1.Pod, cluster: Cluster) -> npt.NDArray[np.float64]:
    """Points from 0 to 300 per node, higher is better.

    The free share of CPU and memory after placement, how evenly both are used (upstream's LeastAllocated and
    BalancedAllocation), and how few pods of the same controller are there, so that replicas spread.
    """
    wanted = np.array(requests.scoring_requests(pod), np.float64)
    total = np.maximum(cluster.allocatable[:, :2].astype(np.float64), 1)
    used = np.clip((cluster.scored + wanted) / total, 0, 1)
    free = (1 - used).mean(axis=1) * 100
    balance = (1 - used.std(axis=1)) * 100
    owner = next((ref.uid for ref in pod.metadata.owner_references if ref.controller), "")
    spread = np.full(len(free), 100.0)
    if owner:
        siblings = cluster.same_owner(owner)
        most = int(siblings.max()) if len(siblings) else 0
        if most:
            spread = (1 - siblings / most) * 100
    result: npt.NDArray[np.float64] = free + balance + spread
    return result
