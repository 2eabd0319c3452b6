"""What the cluster's objects say, as metrics under the names of kube-state-metrics; served at /metrics/state.

A page of its own, as kube-state-metrics is a target of its own: it grows with the cluster, and its labels `namespace`
and `pod` are the objects', which a scrape must keep (`honor_labels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sampan.api.quantity import Quantity, QuantityError
from sampan.api.types import apps_v1, core_v1

PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_STATES = (("True", "true"), ("False", "false"), ("Unknown", "unknown"))
_UNITS = {"cpu": "core", "memory": "byte", "ephemeral-storage": "byte"}


class Page:
    """Prometheus' text, collected by metric.

    Written here and not by way of prometheus-client's objects: one for each of the thirty samples of each pod would
    take a hundred megabytes for some thousand pods, and seconds instead of tenths.
    """

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, text: str, labels: str, value: float) -> None:
        """A sample; `labels` as the format wants them."""
        lines = self._found.get(name)
        if lines is None:
            lines = self._found[name] = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines.append(f"{name}{{{labels}}} {float(value)}")

    def render(self) -> bytes:
        """All of it."""
        return "".join("\n".join(lines) + "\n" for lines in self._found.values()).encode()


@dataclass(frozen=True, slots=True)
class Subject:
    """What samples are about: its labels stand before the sample's own."""

    page: Page
    labels: str = ""

    def of(self, **labels: str) -> Subject:
        """Something below it."""
        return Subject(self.page, self._and(labels))

    def gauge(self, name: str, text: str, value: float, /, **labels: str) -> None:
        """A sample of a gauge."""
        self.page.add(name, "gauge", text, self._and(labels) if labels else self.labels, value)

    def counter(self, name: str, text: str, value: float, /, **labels: str) -> None:
        """A sample of a counter; the name ends in _total."""
        self.page.add(name, "counter", text, self._and(labels) if labels else self.labels, value)

    def _and(self, labels: Mapping[str, str]) -> str:
        own = ",".join([f'{key}="{escape(value)}"' for key, value in labels.items()])
        return f"{self.labels},{own}" if self.labels else own


def escape(value: str) -> str:
    """A label's value as the text format wants it."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def collect(all_nodes: Iterable[core_v1.Node], all_pods: Iterable[core_v1.Pod],
            all_deployments: Iterable[apps_v1.Deployment]) -> bytes:
    """Everything. Objects are never changed in place, so this may run in a thread."""
    page = Page()
    for node in all_nodes:
        tell_node(page, node)
    for pod in all_pods:
        tell_pod(page, pod)
    for deployment in all_deployments:
        tell_deployment(page, deployment)
    return page.render()


def tell_pod(page: Page, pod: core_v1.Pod) -> None:
    """kube_pod_*."""
    meta, status, node = pod.metadata, pod.status, pod.spec.node_name or ""
    about = Subject(page).of(namespace=meta.namespace, pod=meta.name, uid=meta.uid)
    owner = next((item for item in meta.owner_references if item.controller), None)
    about.gauge("kube_pod_info", "Information about pod.", 1, node=node, pod_ip=status.pod_ip or "",
                host_ip=status.host_ip or "", created_by_kind=owner.kind if owner else "",
                created_by_name=owner.name if owner else "")
    for phase in PHASES:
        about.gauge("kube_pod_status_phase", "The pods current phase.", status.phase == phase, phase=phase)
    _conditions(about, status.conditions)
    if meta.creation_timestamp:
        about.gauge("kube_pod_created", "Unix creation timestamp", meta.creation_timestamp.timestamp())
    if status.start_time:
        about.gauge("kube_pod_start_time", "Start time in unix timestamp for a pod.", status.start_time.timestamp())
    for container in status.container_statuses:
        _container(about.of(container=container.name), container)
    for spec in pod.spec.containers:
        box = about.of(container=spec.name, node=node)
        if spec.resources:
            _amounts(box, "kube_pod_container_resource_requests", "The number of requested request resource by a "
                     "container.", spec.resources.requests)
            _amounts(box, "kube_pod_container_resource_limits", "The number of requested limit resource by a "
                     "container.", spec.resources.limits)


def _conditions(about: Subject, conditions: Sequence[core_v1.PodCondition]) -> None:
    states = {item.type: item.status for item in conditions}
    for state, label in _STATES:
        about.gauge("kube_pod_status_ready", "Describes whether the pod is ready to serve requests.",
                    states.get("Ready") == state, condition=label)
        about.gauge("kube_pod_status_scheduled", "Describes the status of the scheduling process for the pod.",
                    states.get("PodScheduled") == state, condition=label)


def _container(about: Subject, status: core_v1.ContainerStatus) -> None:
    about.counter("kube_pod_container_status_restarts_total", "The number of container restarts per container.",
                  status.restart_count)
    about.gauge("kube_pod_container_status_ready", "Describes whether the containers readiness check succeeded.",
                status.ready)
    about.gauge("kube_pod_container_info", "Information about a container in a pod.", 1, image=status.image,
                image_id=status.image_id, container_id=status.container_id or "")
    state, last = status.state, status.last_state
    for name in ("running", "waiting", "terminated"):
        about.gauge(f"kube_pod_container_status_{name}", f"Describes whether the container is currently in {name} "
                    "state.", bool(state and getattr(state, name)))
    if state and state.waiting and state.waiting.reason:
        about.gauge("kube_pod_container_status_waiting_reason", "Describes the reason the container is currently in "
                    "waiting state.", 1, reason=state.waiting.reason)
    if state and state.terminated and state.terminated.reason:
        about.gauge("kube_pod_container_status_terminated_reason", "Describes the reason the container is currently "
                    "in terminated state.", 1, reason=state.terminated.reason)
    if last and last.terminated:
        about.gauge("kube_pod_container_status_last_terminated_reason", "Describes the last reason the container was "
                    "in terminated state.", 1, reason=last.terminated.reason or "Unknown")


def tell_node(page: Page, node: core_v1.Node) -> None:
    """kube_node_*."""
    about, info = Subject(page).of(node=node.metadata.name), node.status.node_info
    address = next((item.address for item in node.status.addresses if item.type == "InternalIP"), "")
    about.gauge("kube_node_info", "Information about a cluster node.", 1, internal_ip=address,
                pod_cidr=node.spec.pod_cidr or "", kernel_version=info.kernel_version if info else "",
                os_image=info.os_image if info else "", kubelet_version=info.kubelet_version if info else "",
                container_runtime_version=info.container_runtime_version if info else "")
    if node.metadata.creation_timestamp:
        about.gauge("kube_node_created", "Unix creation timestamp", node.metadata.creation_timestamp.timestamp())
    about.gauge("kube_node_spec_unschedulable", "Whether a node can schedule new pods.", bool(node.spec.unschedulable))
    for taint in node.spec.taints:
        about.gauge("kube_node_spec_taint", "The taint of a cluster node.", 1, key=taint.key, value=taint.value or "",
                    effect=taint.effect)
    for condition in node.status.conditions:
        for state, label in _STATES:
            about.gauge("kube_node_status_condition", "The condition of a cluster node.", condition.status == state,
                        condition=condition.type, status=label)
    _amounts(about, "kube_node_status_capacity", "The capacity for different resources of a node.",
             node.status.capacity)
    _amounts(about, "kube_node_status_allocatable", "The allocatable for different resources of a node that are "
             "available for scheduling.", node.status.allocatable)


def _amounts(about: Subject, name: str, text: str, amounts: Mapping[str, str]) -> None:
    for resource, amount in amounts.items():
        try:
            value = Quantity.parse(amount).milli / 1000
        except QuantityError:
            continue
        about.gauge(name, text, value, resource=resource.replace("-", "_"), unit=_UNITS.get(resource, "integer"))


def tell_deployment(page: Page, item: apps_v1.Deployment) -> None:
    """kube_deployment_*."""
    about, status = Subject(page).of(namespace=item.metadata.namespace, deployment=item.metadata.name), item.status
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
            ("status_replicas_updated", "The number of updated replicas per deployment.", status.updated_replicas)):
        about.gauge(f"kube_deployment_{name}", text, value or 0)
