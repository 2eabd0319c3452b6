"""The scheduler's view of the cluster: one row a node, one numpy column a fact, so that a rule is one pass over all.

Pods are counted on their node from the moment they are reserved there until they end or are seen to be elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from master.scheduler import requests
from master.scheduler.requests import HostPort
from sampan.api.types import core_v1

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

PODS = "pods"
BASE_RESOURCES = ("cpu", "memory", "ephemeral-storage", PODS)


@dataclass(frozen=True, slots=True)
class Placed:
    """A pod as it counts on its node."""

    node: str
    requests: Mapping[str, int]
    scoring: tuple[int, int]
    ports: tuple[HostPort, ...]
    owner: str


@dataclass(slots=True)
class Row:
    """What is known of a node beside its numbers."""

    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[core_v1.Taint, ...] = ()
    ports: list[HostPort] = field(default_factory=list)


class Cluster:
    """Nodes and what runs on them. Rows are reused; `alive` says which hold a node."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: list[Row] = []
        self.index: dict[str, int] = {}
        self.resources: dict[str, int] = {name: column for column, name in enumerate(BASE_RESOURCES)}
        self.alive: Mask = np.zeros(0, np.bool_)
        self.unschedulable: Mask = np.zeros(0, np.bool_)
        self.allocatable: Numbers = np.zeros((0, len(BASE_RESOURCES)), np.int64)
        self.requested: Numbers = np.zeros((0, len(BASE_RESOURCES)), np.int64)
        self.scored: Numbers = np.zeros((0, 2), np.int64)
        self._free: list[int] = []
        self._pods: dict[str, Placed] = {}
        self._owners: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        """Nodes."""
        return len(self.index)

    def set_node(self, node: core_v1.Node) -> None:
        """A node is there, or has changed."""
        name = node.metadata.name
        row = self.index[name] if name in self.index else self._new_row(name)
        self.rows[row].labels = node.metadata.labels
        self.rows[row].taints = tuple(node.spec.taints)
        self.unschedulable[row] = bool(node.spec.unschedulable)
        amounts = requests.amounts(node.status.allocatable)
        for resource in amounts:
            self._column(resource)
        self.allocatable[row] = [amounts.get(resource, 0) for resource in self.resources]

    def remove_node(self, name: str) -> None:
        """A node is gone; its pods are forgotten when they are seen to be gone."""
        row = self.index.pop(name, None)
        if row is not None:
            self.alive[row] = False
            self.names[row] = ""
            self._free.append(row)

    def place(self, pod: core_v1.Pod, node: str) -> None:
        """Count the pod on a node, and no longer on another."""
        self.forget(pod.metadata.uid)
        owner = next((ref.uid for ref in pod.metadata.owner_references if ref.controller), "")
        wanted = {**requests.pod_requests(pod), PODS: 1}
        placed = Placed(node, wanted, requests.scoring_requests(pod), requests.host_ports(pod), owner)
        for resource in wanted:
            self._column(resource)
        self._pods[pod.metadata.uid] = placed
        self._count(placed, 1)

    def forget(self, uid: str) -> None:
        """The pod no longer counts anywhere."""
        placed = self._pods.pop(uid, None)
        if placed is not None:
            self._count(placed, -1)

    def node_of(self, uid: str) -> str:
        """Where a pod is counted, "" for nowhere."""
        return self._pods[uid].node if uid in self._pods else ""

    def same_owner(self, uid: str) -> Numbers:
        """How many pods of that controller each node has."""
        counts = np.zeros(len(self.names), np.int64)
        for node, count in self._owners.get(uid, {}).items():
            if node in self.index:
                counts[self.index[node]] = count
        return counts

    def vector(self, wanted: Mapping[str, int]) -> Numbers:
        """Amounts in the order of the columns."""
        for resource in wanted:
            self._column(resource)
        return np.array([wanted.get(resource, 0) for resource in self.resources], np.int64)

    def _count(self, placed: Placed, sign: int) -> None:
        owners = self._owners.setdefault(placed.owner, {})
        owners[placed.node] = owners.get(placed.node, 0) + sign
        if not owners[placed.node]:
            del owners[placed.node]
        if not owners:
            del self._owners[placed.owner]
        row = self.index.get(placed.node)
        if row is None:
            return
        self.requested[row] += sign * self.vector(placed.requests)
        self.scored[row] += sign * np.array(placed.scoring, np.int64)
        for port in placed.ports:
            (self.rows[row].ports.append if sign > 0 else self.rows[row].ports.remove)(port)

    def _new_row(self, name: str) -> int:
        if not self._free:
            self._grow(max(16, 2 * len(self.names)))
        row = self._free.pop()
        self.names[row], self.rows[row], self.index[name] = name, Row(), row
        self.alive[row] = True
        self.requested[row] = 0
        self.scored[row] = 0
        for placed in [placed for placed in self._pods.values() if placed.node == name]:
            self._recount(row, placed)
        return row

    def _recount(self, row: int, placed: Placed) -> None:
        self.requested[row] += self.vector(placed.requests)
        self.scored[row] += np.array(placed.scoring, np.int64)
        self.rows[row].ports.extend(placed.ports)

    def _grow(self, size: int) -> None:
        more = size - len(self.alive)
        self.alive = np.concatenate([self.alive, np.zeros(more, np.bool_)])
        self.unschedulable = np.concatenate([self.unschedulable, np.zeros(more, np.bool_)])
        self.scored = np.concatenate([self.scored, np.zeros((more, 2), np.int64)])
        empty = np.zeros((more, len(self.resources)), np.int64)
        self.allocatable = np.concatenate([self.allocatable, empty])
        self.requested = np.concatenate([self.requested, empty])
        self._free.extend(range(size - 1, len(self.names) - 1, -1))
        self.rows.extend(Row() for _ in range(more))
        self.names.extend([""] * more)

    def _column(self, resource: str) -> int:
        if resource not in self.resources:
            self.resources[resource] = len(self.resources)
            column = np.zeros((len(self.alive), 1), np.int64)
            self.allocatable = np.concatenate([self.allocatable, column], axis=1)
            self.requested = np.concatenate([self.requested, column], axis=1)
        return self.resources[resource]
