"""The agent's counters and histograms, under the names that upstream's kubelet gives them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from agent.pods.metrics import Turn

OPERATION_BUCKETS = tuple(round(0.005 * 2.5 ** step, 6) for step in range(14))
"""Seconds, as upstream has them for calls of the runtime."""
START_BUCKETS = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800,
                 2700, 3600)
PULL_BUCKETS = (1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 2700, 3600)

Collect = Callable[[], Iterable[Metric]]


class Sampled(Collector):
    """Metrics that are made when they are asked for."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """Look now."""
        return self._collect()


class AgentMetrics:
    """One agent's metrics, in a registry of their own. Other rooms may register collectors with it."""

    def __init__(self, node: str, version: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each: nobody asks for it
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._monotonic = monotonic
        self._last_list: float | None = None
        Gauge("kubelet_node_name", "The node's name. The count is always 1.", ["node"],
              registry=registry).labels(node).set(1)
        Gauge("kubernetes_build_info", "A metric with a constant '1' value labeled by the version.", ["git_version"],
              registry=registry).labels(version).set(1)
        operation = ["operation_type"]
        self._operations = Counter("kubelet_runtime_operations", "Cumulative number of runtime operations by "
                                   "operation type.", operation, registry=registry)
        self._operation_errors = Counter("kubelet_runtime_operations_errors", "Cumulative number of runtime operation "
                                         "errors by operation type.", operation, registry=registry)
        self._operation_seconds = Histogram("kubelet_runtime_operations_duration_seconds", "Duration in seconds of "
                                            "runtime operations.", operation, buckets=OPERATION_BUCKETS,
                                            registry=registry)
        self._pulls = Histogram("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image.",
                                buckets=PULL_BUCKETS, registry=registry)
        self._relist_seconds = Histogram("kubelet_pleg_relist_duration_seconds", "Duration in seconds for relisting "
                                         "pods in PLEG.", registry=registry)
        self._relist_interval = Histogram("kubelet_pleg_relist_interval_seconds", "Interval in seconds between "
                                          "relisting in PLEG.", buckets=(1, 5, 10, 30, 45, 60, 75, 90, 120, 300, 600),
                                          registry=registry)
        self._last_seen = Gauge("kubelet_pleg_last_seen_seconds", "Timestamp in seconds when PLEG was last seen "
                                "active.", registry=registry)
        self._worker_seconds = Histogram("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single "
                                         "pod. Broken down by operation type: create, update, or sync", operation,
                                         registry=registry)
        self._start_seconds = Histogram("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet "
                                        "seeing a pod for the first time to the pod starting to run",
                                        buckets=START_BUCKETS, registry=registry)
        request = ["method", "path", "server_type", "long_running"]
        self._requests = Counter("kubelet_http_requests", "Number of the http requests received since the server "
                                 "started", request, registry=registry)
        self._request_seconds = Histogram("kubelet_http_requests_duration_seconds", "Duration in seconds to serve "
                                          "http requests", request, registry=registry)

    def sample(self, collect: Collect) -> None:
        """Add metrics that are made when they are asked for."""
        self.registry.register(Sampled(collect))

    # The engine

    def operated(self, operation: str, seconds: float, *, failed: bool) -> None:
        """A call of the engine has ended."""
        self._operations.labels(operation).inc()
        self._operation_seconds.labels(operation).observe(seconds)
        if failed:
            self._operation_errors.labels(operation).inc()

    def pulled(self, seconds: float) -> None:
        """An image has arrived."""
        self._pulls.observe(seconds)

    # What pods' workers tell

    def turned(self, kind: Turn, seconds: float) -> None:
        """See PodMetrics."""
        self._worker_seconds.labels(kind).observe(seconds)

    def listed(self, seconds: float) -> None:
        """See PodMetrics."""
        now = self._monotonic()
        if self._last_list is not None:
            self._relist_interval.observe(now - self._last_list)
        self._last_list = now
        self._relist_seconds.observe(seconds)
        self._last_seen.set_to_current_time()

    def running(self, seconds: float) -> None:
        """See PodMetrics."""
        self._start_seconds.observe(seconds)

    # The node's port

    def answered(self, method: str, path: str, seconds: float) -> None:
        """A request was answered; `path` is one of those that are served, so that nobody can invent labels."""
        self._requests.labels(method, path, "readwrite", "false").inc()
        self._request_seconds.labels(method, path, "readwrite", "false").observe(seconds)
