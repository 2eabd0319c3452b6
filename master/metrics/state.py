"""What the cluster's objects say, as metrics under the names of kube-state-metrics; served at /metrics/state.

A page of its own, as kube-state-metrics is a target of its own: it grows with the cluster, and its labels `namespace`
and `pod` are the objects', which a scrape must keep (`honor_labels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sampan.api.quantity import Quantity, QuantityError
from sampan.api.types import apps_v1, core_v1

PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_POD = ("namespace", "pod", "uid")
_CONTAINER = (*_POD, "container")
_UNITS = {"cpu": "core", "memory": "byte", "ephemeral-storage": "byte"}


class Page:
    """Prometheus' text, collected by metric.

    Written here and not by way of prometheus-client's objects: one for each of the thirty samples of each pod would
    take a hundred megabytes for some thousand pods, and seconds instead of tenths.
    """

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def gauge(self, name: str, text: str, labels: Mapping[str, str], value: float) -> None:
        """Add a sample of a gauge."""
        self._add(name, "gauge", text, labels, value)

    def counter(self, name: str, text: str, labels: Mapping[str, str], value: float) -> None:
        """Add a sample of a counter; its name ends in _total."""
        self._add(name, "counter", text, labels, value)

    def _add(self, name: str, kind: str, text: str, labels: Mapping[str, str], value: float) -> None:
        lines = self._found.get(name)
        if lines is None:
            lines = self._found[name] = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        pairs = ",".join([f'{key}="{escape(text)}"' for key, text in labels.items()])
        lines.append(f"{name}{{{pairs}}} {float(value)}")

    def render(self) -> bytes:
        """All of it."""
        return "".join("\n".join(lines) + "\n" for lines in self._found.values()).encode()


def escape(value: str) -> str:
    """A label's value as the text format wants it."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def pods(page: Page, everything: Iterable[core_v1.Pod]) -> None:
    """kube_pod_*."""
    for pod in everything:
        _pod(page, pod)


def _pod(page: Page, pod: core_v1.Pod) -> None:
    meta, status = pod.metadata, pod.status
    labels = dict(zip(_POD, (meta.namespace, meta.name, meta.uid), strict=True))
    owner = next((item for item in meta.owner_references if item.controller), None)
    page.gauge("kube_pod_info", "Information about pod.", {
        **labels, "node": pod.spec.node_name or "", "pod_ip": status.pod_ip or "", "host_ip": status.host_ip or "",
        "created_by_kind": owner.kind if owner else "", "created_by_name": owner.name if owner else ""}, 1)
    for phase in PHASES:
        page.gauge("kube_pod_status_phase", "The pods current phase.", {**labels, "phase": phase},
                    status.phase == phase)
    _ready(page, labels, status.conditions)
    if meta.creation_timestamp:
        page.gauge("kube_pod_created", "Unix creation timestamp", labels, meta.creation_timestamp.timestamp())
    if status.start_time:
        page.gauge("kube_pod_start_time", "Start time in unix timestamp for a pod.", labels,
                    status.start_time.timestamp())
    for container in status.container_statuses:
        _container(page, {**labels, "container": container.name}, container)
    for spec in pod.spec.containers:
        named = {**labels, "container": spec.name, "node": pod.spec.node_name or ""}
        resources = spec.resources
        for kind, amounts in (("requests", resources.requests if resources else {}),
                              ("limits", resources.limits if resources else {})):
            _amounts(page, f"kube_pod_container_resource_{kind}", f"The number of {kind} resource by a container.",
                     named, amounts)


def _ready(page: Page, labels: Mapping[str, str], conditions: Sequence[core_v1.PodCondition]) -> None:
    states = {item.type: item.status for item in conditions}
    for state in ("True", "False", "Unknown"):
        named = {**labels, "condition": state.lower()}
        page.gauge("kube_pod_status_ready", "Describes whether the pod is ready to serve requests.", named,
                    states.get("Ready") == state)
        page.gauge("kube_pod_status_scheduled", "Describes the status of the scheduling process for the pod.", named,
                    states.get("PodScheduled") == state)


def _container(page: Page, labels: Mapping[str, str], status: core_v1.ContainerStatus) -> None:
    page.counter("kube_pod_container_status_restarts_total", "The number of container restarts per container.", labels,
                  status.restart_count)
    page.gauge("kube_pod_container_status_ready", "Describes whether the containers readiness check succeeded.",
                labels, status.ready)
    page.gauge("kube_pod_container_info", "Information about a container in a pod.",
                {**labels, "image": status.image, "image_id": status.image_id,
                 "container_id": status.container_id or ""}, 1)
    state, last = status.state, status.last_state
    for name in ("running", "waiting", "terminated"):
        page.gauge(f"kube_pod_container_status_{name}", f"Describes whether the container is currently in {name} "
                    "state.", labels, bool(state and getattr(state, name)))
    if state and state.waiting and state.waiting.reason:
        page.gauge("kube_pod_container_status_waiting_reason", "Describes the reason the container is currently in "
                    "waiting state.", {**labels, "reason": state.waiting.reason}, 1)
    if state and state.terminated and state.terminated.reason:
        page.gauge("kube_pod_container_status_terminated_reason", "Describes the reason the container is currently "
                    "in terminated state.", {**labels, "reason": state.terminated.reason}, 1)
    if last and last.terminated:
        page.gauge("kube_pod_container_status_last_terminated_reason", "Describes the last reason the container was "
                    "in terminated state.", {**labels, "reason": last.terminated.reason or "Unknown"}, 1)


def nodes(page: Page, everything: Iterable[core_v1.Node]) -> None:
    """kube_node_*."""
    for node in everything:
        labels, info = {"node": node.metadata.name}, node.status.node_info
        address = next((item.address for item in node.status.addresses if item.type == "InternalIP"), "")
        page.gauge("kube_node_info", "Information about a cluster node.", {
            **labels, "internal_ip": address, "pod_cidr": node.spec.pod_cidr or "",
            "kernel_version": info.kernel_version if info else "", "os_image": info.os_image if info else "",
            "container_runtime_version": info.container_runtime_version if info else "",
            "kubelet_version": info.kubelet_version if info else ""}, 1)
        if node.metadata.creation_timestamp:
            page.gauge("kube_node_created", "Unix creation timestamp", labels,
                        node.metadata.creation_timestamp.timestamp())
        page.gauge("kube_node_spec_unschedulable", "Whether a node can schedule new pods.", labels,
                    bool(node.spec.unschedulable))
        for taint in node.spec.taints:
            page.gauge("kube_node_spec_taint", "The taint of a cluster node.",
                        {**labels, "key": taint.key, "value": taint.value or "", "effect": taint.effect}, 1)
        for condition in node.status.conditions:
            for state in ("True", "False", "Unknown"):
                page.gauge("kube_node_status_condition", "The condition of a cluster node.",
                            {**labels, "condition": condition.type, "status": state.lower()},
                            condition.status == state)
        for kind, amounts in (("capacity", node.status.capacity), ("allocatable", node.status.allocatable)):
            _amounts(page, f"kube_node_status_{kind}", f"The {kind} for different resources of a node.", labels,
                     amounts)


def _amounts(page: Page, name: str, text: str, labels: Mapping[str, str], amounts: Mapping[str, str]) -> None:
    for resource, amount in amounts.items():
        try:
            value = Quantity.parse(amount).milli / 1000
        except QuantityError:
            continue
        page.gauge(name, text, {**labels, "resource": resource.replace("-", "_"),
                                 "unit": _UNITS.get(resource, "integer")}, value)


def deployments(page: Page, everything: Iterable[apps_v1.Deployment]) -> None:
    """kube_deployment_*."""
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
            page.gauge(f"kube_deployment_{name}", text, labels, value or 0)


def collect(all_nodes: Iterable[core_v1.Node], all_pods: Iterable[core_v1.Pod],
            all_deployments: Iterable[apps_v1.Deployment]) -> bytes:
    """Everything. Objects are never changed in place, so this may run in a thread."""
    page = Page()
    nodes(page, all_nodes)
    pods(page, all_pods)
    deployments(page, all_deployments)
    return page.render()
