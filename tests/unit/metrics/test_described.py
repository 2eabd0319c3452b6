"""docs/metrics.md knows every metric that the code makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

from agent.stats import kubelet, node
from agent.stats.metrics import AgentMetrics
from agent.stats.services import ProxyMetrics
from master.apiserver.metrics import Metrics
from master.metrics import state
from master.metrics.nodes import NodeMetrics
from master.metrics.queues import QueueMetrics
from master.metrics.scheduler import SchedulerMetrics
from sampan.api.codec import from_tree
from sampan.api.types import core_v1
from sampan.loop.clock import FakeClock

DOCS = Path(__file__).parents[3] / "docs"
BOX = {"name": "app", "image": "web:1", "imageID": "", "ready": True, "restartCount": 1}


def collected() -> Iterator[Metric]:
    clock = FakeClock()
    agent = AgentMetrics("node-1", "v1")
    ProxyMetrics(agent.registry)
    yield from agent.registry.collect()
    yield from node.collect()
    yield from kubelet.pods(())
    yield from kubelet.certificates({"client": clock.now(), "server": clock.now()}, clock.now())
    yield from kubelet.standing(lambda: kubelet.Standing(connected=True, pending=0))
    yield from kubelet.machine(1, 1)
    for measure in (NodeMetrics(), QueueMetrics(clock.monotonic), SchedulerMetrics(clock.monotonic)):
        yield from measure.collect()
    yield from Metrics().registry.collect()


def names() -> set[str]:
    page = state.Page()
    for told in ({"waiting": {"reason": "A"}}, {"terminated": {"exitCode": 1, "reason": "B"}}):
        state.tell_pod(page, from_tree(core_v1.Pod, {
            "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
                {**BOX, "state": told, "lastState": {"terminated": {"exitCode": 1}}}]}}))
    state.tell_node(page, from_tree(core_v1.Node, {
        "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "1"}, "allocatable": {"cpu": "1"}, "conditions": [
            {"type": "Ready", "status": "True"}]}}))
    told = re.findall(r"^# TYPE (\w+)", page.render().decode(), re.MULTILINE)
    return {metric.name for metric in collected()} | set(told)


def test_labels_are_described() -> None:
    described = {(name.removesuffix("_total"), frozenset(filter(None, labels.split(", ")))) for name, labels in
                 re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*?) *\|", (DOCS / "metrics.md").read_text(), re.MULTILINE)}
    agent = AgentMetrics("node-1", "v1")
    ProxyMetrics(agent.registry)
    made = {(metric.describe()[0].name, frozenset(metric._labelnames))
            for registry in (agent.registry, Metrics().registry) for metric in registry._collector_to_names
            if isinstance(metric, MetricWrapperBase)}
    assert made
    assert made <= described


def test_every_metric_is_described() -> None:
    described = {name.removesuffix("_total") for name in
                 re.findall(r"^\| `(\w+)` \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)}
    missing = {name for name in names() if name.removesuffix("_total") not in described}
    assert missing == set()
