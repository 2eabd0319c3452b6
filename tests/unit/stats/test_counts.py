"""What is counted as it happens: engine, probes, pods, Services; and what the host tells."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from agent.engine.fake import FakeEngine
from agent.engine.protocol import EngineError, NotFound
from agent.probes.fake import FakeProber
from agent.probes.protocol import ProbeResult, ProbeTarget
from agent.proxy import observer
from agent.stats import kubelet, node, probes
from agent.stats.engine import MeasuredEngine
from agent.stats.metrics import AgentMetrics
from agent.stats.probes import MeasuredProber
from agent.stats.services import ProxyMetrics, dns
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock

SPEC = core_v1.PodSpec(containers=[])


def value(metrics: Iterable[Metric], name: str, **labels: str) -> float | None:
    for metric in metrics:
        for item in metric.samples:
            if item.name == name and item.labels == labels:
                return item.value
    return None


def measured(clock: FakeClock) -> AgentMetrics:
    return AgentMetrics("node-1", "v1.32.0+sampan", clock.monotonic)


class Slow(FakeEngine):
    """Every ping takes two seconds, and the second one fails."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.time = clock
        self.fails = False

    async def ping(self) -> None:
        await self.time.advance(2.0)
        if self.fails:
            raise EngineError("no")


async def test_calls_of_the_engine_are_timed_and_failures_counted() -> None:
    clock = FakeClock()
    metrics = measured(clock)
    inner = Slow(clock)
    engine = MeasuredEngine(inner, metrics, clock)
    await engine.ping()
    inner.fails = True
    with pytest.raises(EngineError):
        await engine.ping()
    with pytest.raises(NotFound):
        await engine.inspect("nobody")
    found = list(metrics.registry.collect())
    assert value(found, "kubelet_runtime_operations_total", operation_type="version") == 2
    assert value(found, "kubelet_runtime_operations_errors_total", operation_type="version") == 1
    assert value(found, "kubelet_runtime_operations_duration_seconds_sum", operation_type="version") == 4.0
    assert value(found, "kubelet_runtime_operations_total", operation_type="container_status") == 1
    assert value(found, "kubelet_runtime_operations_errors_total", operation_type="container_status") is None


async def test_lists_workers_and_starts() -> None:
    clock = FakeClock()
    metrics = measured(clock)
    metrics.listed(0.5)
    await clock.advance(60.0)
    metrics.listed(0.5)
    metrics.turned("create", 0.1)
    metrics.running(1.5)
    found = list(metrics.registry.collect())
    assert value(found, "kubelet_pleg_relist_duration_seconds_count") == 2
    assert value(found, "kubelet_pleg_relist_interval_seconds_sum") == 60.0
    assert value(found, "kubelet_pod_worker_duration_seconds_count", operation_type="create") == 1
    assert value(found, "kubelet_pod_start_duration_seconds_bucket", le="2.0") == 1
    assert value(found, "kubelet_node_name", node="node-1") == 1
    assert not [name for name in generate_latest(metrics.registry).decode().split() if name.endswith("_created")]


async def test_probes_are_counted_until_their_pod_is_gone() -> None:
    prober = MeasuredProber(FakeProber())
    probe = core_v1.Probe()
    container = core_v1.Container(name="app", liveness_probe=probe)
    pod = core_v1.Pod(metadata=meta_v1.ObjectMeta(name="web", namespace="default", uid="u1"), spec=SPEC)
    assert isinstance(await prober.probe(ProbeTarget(pod, container, "c1", "10.0.0.1"), probe), ProbeResult)
    labels = {"container": "app", "namespace": "default", "pod": "web", "pod_uid": "u1", "probe_type": "Liveness",
              "result": "successful"}
    assert value(prober.collect({"u1"}), "prober_probe_total", **labels) == 1
    assert value(prober.collect(set()), "prober_probe_total", **labels) is None
    assert value(prober.collect({"u1"}), "prober_probe_total", **labels) is None


async def test_probes_that_nobody_asks_about_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "REMEMBERED", 2)
    prober, probe = MeasuredProber(FakeProber()), core_v1.Probe()
    container = core_v1.Container(name="app", liveness_probe=probe)
    for uid in ("old", "lives", "gone", "lives", "new"):
        pod = core_v1.Pod(metadata=meta_v1.ObjectMeta(name="web", namespace="default", uid=uid), spec=SPEC)
        await prober.probe(ProbeTarget(pod, container, "c1", "10.0.0.1"), probe)
    [family] = prober.collect({"old", "lives", "gone", "new"})
    assert {sample.labels["pod_uid"]: sample.value for sample in family.samples} == {"lives": 2, "new": 1}


def test_every_figure_of_the_proxy_has_its_metric() -> None:
    registry = CollectorRegistry()
    proxy = ProxyMetrics(registry)
    names = {text for name, text in vars(observer).items() if name.isupper() and isinstance(text, str)}
    assert names == proxy._histograms.keys() | proxy._counters.keys() | proxy._gauges.keys()
    proxy.observe(observer.SYNC_SECONDS, 0.1)
    proxy.add(observer.HEALTHZ, code="200")
    proxy.set(observer.LAST_SYNC, 5.0)
    found = list(registry.collect())
    assert value(found, "kubeproxy_sync_proxy_rules_duration_seconds_count") == 1
    assert value(found, "kubeproxy_proxy_healthz_total", code="200") == 1
    assert value(found, "kubeproxy_sync_proxy_rules_last_timestamp_seconds") == 5.0
    assert value(found, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total") == 0


def test_names_that_were_asked_for() -> None:
    class Counts:
        queries, remembered, failures = 5, 3, 1

    assert value(dns(Counts()), "coredns_dns_requests_total") == 5
    assert value(dns(Counts()), "coredns_cache_hits_total") == 3


def test_pods_and_containers_by_state() -> None:
    def status(**state: Any) -> core_v1.ContainerStatus:
        return core_v1.ContainerStatus(name="app", image="i", image_id="", ready=True, restart_count=0,
                                       state=core_v1.ContainerState(**state))

    running = core_v1.Pod(spec=SPEC, status=core_v1.PodStatus(phase="Running", container_statuses=[
        status(running=core_v1.ContainerStateRunning())], init_container_statuses=[
        status(terminated=core_v1.ContainerStateTerminated(exit_code=0))]))
    found = list(kubelet.pods([running, core_v1.Pod(spec=SPEC, status=core_v1.PodStatus(phase="Pending"))]))
    assert value(found, "kubelet_running_pods") == 1
    assert value(found, "kubelet_desired_pods") == 2
    assert value(found, "kubelet_running_containers", container_state="running") == 1
    assert value(found, "kubelet_running_containers", container_state="exited") == 1


def test_certificates_that_end_and_one_that_is_not_there() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = list(kubelet.certificates({"client": datetime(2026, 1, 2, tzinfo=UTC), "server": None}, now))
    assert value(found, "kubelet_certificate_manager_client_ttl_seconds") == 86400
    assert value(found, "kubelet_certificate_manager_server_ttl_seconds") == float("inf")


def test_the_host() -> None:
    found = node.collect(("/", "/nonexistent/directory"))
    names = {item.name for metric in found for item in metric.samples}
    assert {"node_cpu_seconds_total", "node_load1", "node_memory_MemAvailable_bytes", "node_filesystem_avail_bytes",
            "node_filesystem_files_free", "node_network_receive_bytes_total", "node_time_seconds",
            "node_boot_time_seconds", "node_context_switches_total", "node_filefd_allocated",
            "node_uname_info"} <= names
    failed = [item.labels for metric in found for item in metric.samples
              if item.name == "node_scrape_collector_success" and not item.value]
    assert failed == []
    assert len({metric.name for metric in found}) == len(found)
    assert node.cpu_seconds() > 0


def test_where_a_path_is_mounted() -> None:
    assert node.mount_point("/a/b/c", {"/": 1, "/a": 1}) == "/a"
    assert node.mount_point("/x", {"/": 1}) == "/"
