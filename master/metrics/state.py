"""What the cluster's objects say, as metrics under the names of kube-state-metrics; served at /metrics/state.

A page of its own, as kube-state-metrics is a target of its own: it grows with the cluster, and its labels `namespace`
and `pod` are the objects', which a scrape must keep (`honor_labels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sampan.api.quantity import Quantity, QuantityError
from sampan.api.types import apps_v1, core_v1

PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_POD = ("namespace", "pod", "uid")
_CONTAINER = (*_POD, "container")
_UNITS = {"cpu": "core", "memory": "byte", "ephemeral-storage": "byte"}


class _Families:
    """Collects samples by name, in the order in which the names come."""

    def __init__(self) -> None:
        self._found: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def gauge(self, name: str, text: str, labels: Mapping[str, str], value: float) -> None:
        family = self._found.get(name)
        if family is None:
            family = self._found[name] = GaugeMetricFamily(name, text, labels=tuple(labels))
        family.add_metric(tuple(labels.values()), value)

    def counter(self, name: str, text: str, labels: Mapping[str, str], value: float) -> None:
        family = self._found.get(name)
        if family is None:
            family = self._found[name] = CounterMetricFamily(name, text, labels=tuple(labels))
        family.add_metric(tuple(labels.values()), value)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._found.values())


def pods(everything: Iterable[core_v1.Pod]) -> Iterator[Metric]:
    """kube_pod_*."""
    found = _Families()
    for pod in everything:
        _pod(found, pod)
    return iter(found)


def _pod(found: _Families, pod: core_v1.Pod) -> None:
    meta, status = pod.metadata, pod.status
    labels = dict(zip(_POD, (meta.namespace, meta.name, meta.uid), strict=True))
    owner = next((item for item in meta.owner_references if item.controller), None)
    found.gauge("kube_pod_info", "Information about pod.", {
        **labels, "node": pod.spec.node_name or "", "pod_ip": status.pod_ip or "", "host_ip": status.host_ip or "",
        "created_by_kind": owner.kind if owner else "", "created_by_name": owner.name if owner else ""}, 1)
    for phase in PHASES:
        found.gauge("kube_pod_status_phase", "The pods current phase.", {**labels, "phase": phase},
                    status.phase == phase)
    _ready(found, labels, status.conditions)
    if meta.creation_timestamp:
        found.gauge("kube_pod_created", "Unix creation timestamp", labels, meta.creation_timestamp.timestamp())
    if status.start_time:
        found.gauge("kube_pod_start_time", "Start time in unix timestamp for a pod.", labels,
                    status.start_time.timestamp())
    for container in status.container_statuses:
        _container(found, {**labels, "container": container.name}, container)
    for spec in pod.spec.containers:
        named = {**labels, "container": spec.name, "node": pod.spec.node_name or ""}
        resources = spec.resources
        for kind, amounts in (("requests", resources.requests if resources else {}),
                              ("limits", resources.limits if resources else {})):
            _amounts(found, f"kube_pod_container_resource_{kind}", f"The number of {kind} resource by a container.",
                     named, amounts)


def _ready(found: _Families, labels: Mapping[str, str], conditions: Sequence[core_v1.PodCondition]) -> None:
    states = {item.type: item.status for item in conditions}
    for state in ("True", "False", "Unknown"):
        named = {**labels, "condition": state.lower()}
        found.gauge("kube_pod_status_ready", "Describes whether the pod is ready to serve requests.", named,
                    states.get("Ready") == state)
        found.gauge("kube_pod_status_scheduled", "Describes the status of the scheduling process for the pod.", named,
                    states.get("PodScheduled") == state)


def _container(found: _Families, labels: Mapping[str, str], status: core_v1.ContainerStatus) -> None:
    found.counter("kube_pod_container_status_restarts", "The number of container restarts per container.", labels,
                  status.restart_count)
    found.gauge("kube_pod_container_status_ready", "Describes whether the containers readiness check succeeded.",
                labels, status.ready)
    found.gauge("kube_pod_container_info", "Information about a container in a pod.",
                {**labels, "image": status.image, "image_id": status.image_id,
                 "container_id": status.container_id or ""}, 1)
    state, last = status.state, status.last_state
    for name in ("running", "waiting", "terminated"):
        found.gauge(f"kube_pod_container_status_{name}", f"Describes whether the container is currently in {name} "
                    "state.", labels, bool(state and getattr(state, name)))
    if state and state.waiting and state.waiting.reason:
        found.gauge("kube_pod_container_status_waiting_reason", "Describes the reason the container is currently in "
                    "waiting state.", {**labels, "reason": state.waiting.reason}, 1)
    if state and state.terminated and state.terminated.reason:
        found.gauge("kube_pod_container_status_terminated_reason", "Describes the reason the container is currently "
                    "in terminated state.", {**labels, "reason": state.terminated.reason}, 1)
    if last and last.terminated:
        found.gauge("kube_pod_container_status_last_terminated_reason", "Describes the last reason the container was "
                    "in terminated state.", {**labels, "reason": last.terminated.reason or "Unknown"}, 1)


def nodes(everything: Iterable[core_v1.Node]) -> Iterator[Metric]:
    """kube_node_*."""
    found = _Families()
    for node in everything:
        labels, info = {"node": node.metadata.name}, node.status.node_info
        address = next((item.address for item in node.status.addresses if item.type == "InternalIP"), "")
        found.gauge("kube_node_info", "Information about a cluster node.", {
            **labels, "internal_ip": address, "pod_cidr": node.spec.pod_cidr or "",
            "kernel_version": info.kernel_version if info else "", "os_image": info.os_image if info else "",
            "container_runtime_version": info.container_runtime_version if info else "",
            "kubelet_version": info.kubelet_version if info else ""}, 1)
        if node.metadata.creation_timestamp:
            found.gauge("kube_node_created", "Unix creation timestamp", labels,
                        node.metadata.creation_timestamp.timestamp())
        found.gauge("kube_node_spec_unschedulable", "Whether a node can schedule new pods.", labels,
                    bool(node.spec.unschedulable))
        for taint in node.spec.taints:
            found.gauge("kube_node_spec_taint", "The taint of a cluster node.",
                        {**labels, "key": taint.key, "value": taint.value or "", "effect": taint.effect}, 1)
        for condition in node.status.conditions:
            for state in ("True", "False", "Unknown"):
                found.gauge("kube_node_status_condition", "The condition of a cluster node.",
                            {**labels, "condition": condition.type, "status": state.lower()},
                            condition.status == state)
        for kind, amounts in (("capacity", node.status.capacity), ("allocatable", node.status.allocatable)):
            _amounts(found, f"kube_node_status_{kind}", f"The {kind} for different resources of a node.", labels,
                     amounts)
    return iter(found)


def _amounts(found: _Families, name: str, text: str, labels: Mapping[str, str], amounts: Mapping[str, str]) -> None:
    for resource, amount in amounts.items():
        try:
            value = Quantity.parse(amount).milli / 1000
        except QuantityError:
            continue
        found.gauge(name, text, {**labels, "resource": resource.replace("-", "_"),
                                 "unit": _UNITS.get(resource, "integer")}, value)


def deployments(everything: Iterable[apps_v1.Deployment]) -> Iterator[Metric]:
    """kube_deployment_*."""
    found = _Families()
    for item in everything:
        labels = {"namespace": item.metadata.namespace, "deployment": item.metadata.name}
        status = item.status
        wanted = item.spec.replicas if item.spec and item.spec.replicas is not None else 1
        for name, text, value in (
                ("spec_replicas", "Number of desired pods for a deployment.", wanted),
                ("metadata_generation", "Sequence number representing a specific generation of the desired state.",
                 item.metadata.generation),
                ("status_observed_generation", "The generation observed by the deployment controller.",
                 status.observed_generation),
                ("status_replicas", "The number of replicas per deployment.", status.replicas),
                ("status_replicas_ready", "The number of ready replicas per deployment.", status.ready_replicas),
                ("status_replicas_available", "The number of available replicas per deployment.",
                 status.available_replicas),
                ("status_replicas_unavailable", "The number of unavailable replicas per deployment.",
                 status.unavailable_replicas),
                ("status_replicas_updated", "The number of updated replicas per deployment.",
                 status.updated_replicas)):
            found.gauge(f"kube_deployment_{name}", text, labels, value or 0)
    return iter(found)


Source = Callable[[], Iterable[Any]]


def collect(nodes_of: Source, pods_of: Source, deployments_of: Source | None) -> Iterator[Metric]:
    """Everything now."""
    yield from nodes(nodes_of())
    yield from pods(pods_of())
    if deployments_of:
        yield from deployments(deployments_of())
