"""What the cluster's objects say, under kube-state-metrics' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from master.metrics import state
from sampan.api.codec import from_tree
from sampan.api.types import apps_v1, core_v1

POD: dict[str, Any] = {
    "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z",
                 "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u0",
                                      "controller": True}]},
    "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "web:1", "resources": {
        "requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}}]},
    "status": {"phase": "Running", "podIP": "10.244.0.5", "startTime": "2026-01-01T00:00:01Z",
               "conditions": [{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}],
               "containerStatuses": [{
                   "name": "app", "image": "web:1", "imageID": "sha256:1", "containerID": "docker://1",
                   "ready": False, "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                   "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}}
NODE: dict[str, Any] = {
    "metadata": {"name": "node-1", "uid": "n1"},
    "spec": {"unschedulable": True, "podCIDR": "10.244.0.0/24", "taints": [{"key": "k", "effect": "NoSchedule"}]},
    "status": {"capacity": {"cpu": "2", "memory": "1Ki", "ephemeral-storage": "1k", "pods": "110"},
               "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
               "conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "DiskPressure", "status": "False"}]}}
DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "shop", "generation": 3},
    "spec": {"replicas": 2, "selector": {}, "template": {}},
    "status": {"availableReplicas": 1, "unavailableReplicas": 1}}


def told(tell: Callable[[state.Page], None]) -> list[Metric]:
    """What Prometheus reads of the page."""
    page = state.Page()
    tell(page)
    return list(text_string_to_metric_families(page.render().decode()))


def value(metrics: Iterable[Metric], sample: str, /, **labels: str) -> float:
    values = [item.value for metric in metrics for item in metric.samples
              if item.name == sample and all(item.labels.get(key) == wanted for key, wanted in labels.items())]
    assert len(values) == 1, (sample, values)
    return values[0]


def test_pods() -> None:
    found = told(lambda page: state.tell_pod(page, from_tree(core_v1.Pod, POD)))
    assert value(found, "kube_pod_info", node="node-1", created_by_kind="ReplicaSet", created_by_name="web") == 1
    assert value(found, "kube_pod_status_phase", phase="Running", namespace="shop", pod="web-1", uid="u1") == 1
    assert value(found, "kube_pod_status_phase", phase="Pending") == 0
    assert value(found, "kube_pod_status_ready", condition="false") == 1
    assert value(found, "kube_pod_status_scheduled", condition="true") == 1
    assert value(found, "kube_pod_container_status_restarts_total", container="app") == 4
    assert value(found, "kube_pod_container_status_waiting_reason", reason="CrashLoopBackOff") == 1
    assert value(found, "kube_pod_container_status_last_terminated_reason", reason="OOMKilled") == 1
    assert value(found, "kube_pod_container_status_waiting") == 1
    assert value(found, "kube_pod_container_status_running") == 0
    assert value(found, "kube_pod_container_resource_requests", resource="cpu", unit="core") == 0.25
    assert value(found, "kube_pod_container_resource_limits", resource="memory", unit="byte") == 1 << 30
    assert value(found, "kube_pod_created") == 1767225600


def test_nodes() -> None:
    found = told(lambda page: state.tell_node(page, from_tree(core_v1.Node, NODE)))
    assert value(found, "kube_node_info", internal_ip="192.0.2.1", pod_cidr="10.244.0.0/24") == 1
    assert value(found, "kube_node_status_condition", condition="Ready", status="unknown") == 1
    assert value(found, "kube_node_status_condition", condition="Ready", status="true") == 0
    assert value(found, "kube_node_status_condition", condition="DiskPressure", status="false") == 1
    assert value(found, "kube_node_spec_unschedulable") == 1
    assert value(found, "kube_node_spec_taint", key="k", effect="NoSchedule", value="") == 1
    assert value(found, "kube_node_status_capacity", resource="ephemeral_storage", unit="byte") == 1000


def test_deployments_and_an_empty_cluster() -> None:
    found = told(lambda page: state.tell_deployment(page, from_tree(apps_v1.Deployment, DEPLOYMENT)))
    assert value(found, "kube_deployment_spec_replicas", deployment="web", namespace="shop") == 2
    assert value(found, "kube_deployment_status_replicas_available") == 1
    assert value(found, "kube_deployment_status_replicas_ready") == 0
    assert state.collect([], [], []) == b""


def test_no_metric_twice() -> None:
    pods = [from_tree(core_v1.Pod, POD)] * 2
    text = state.collect([from_tree(core_v1.Node, NODE)], pods, []).decode()
    names = re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names))


@given(st.text())
def test_whatever_a_label_says_it_is_read_back(text: str) -> None:
    found = told(lambda page: state.Subject(page).of(d="e").gauge("a", "b", 1.5, c=text.replace("\r", "")))
    assert value(found, "a", c=text.replace("\r", "")) == 1.5
