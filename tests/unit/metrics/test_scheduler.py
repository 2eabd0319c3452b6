"""scheduler_*, nodes' streams, and the API server's own."""

from __future__ import annotations

from prometheus_client.core import Metric

from master.apiserver.metrics import Metrics
from master.metrics.nodes import NodeMetrics
from master.metrics.scheduler import SchedulerMetrics
from sampan.loop.clock import FakeClock

KEY = ("default", "web")


def values(metrics: list[Metric], name: str) -> dict[tuple[str, ...], float]:
    return {tuple(item.labels.values()): item.value for metric in metrics for item in metric.samples
            if item.name == name}


async def test_a_pod_that_is_placed_at_its_third_attempt() -> None:
    clock = FakeClock()
    metrics = SchedulerMetrics(clock.monotonic)
    metrics.depths = lambda: {"active": 1, "unschedulable": 2}
    for result in ("unschedulable", "error", "scheduled"):
        metrics.queued(KEY)
        await clock.advance(5.0)
        metrics.decided(0.001)
        metrics.attempted(KEY, result, 0.5)  # type: ignore[arg-type]  # the loop's words are those of Result
    found = list(metrics.collect())
    assert values(found, "scheduler_schedule_attempts_total") == {
        ("scheduled", "default-scheduler"): 1, ("unschedulable", "default-scheduler"): 1,
        ("error", "default-scheduler"): 1}
    assert values(found, "scheduler_pod_scheduling_sli_duration_seconds_sum") == {("3",): 15.0}
    assert values(found, "scheduler_pod_scheduling_attempts_sum") == {(): 3.0}
    assert values(found, "scheduler_scheduling_algorithm_duration_seconds_count") == {(): 3.0}
    assert values(found, "scheduler_pending_pods") == {("active",): 1, ("unschedulable",): 2}
    assert metrics._first == metrics._tries == {}


def test_a_pod_that_goes_leaves_nothing() -> None:
    metrics = SchedulerMetrics(FakeClock().monotonic)
    metrics.queued(KEY)
    metrics.attempted(KEY, "unschedulable", 0.1)
    metrics.forget(KEY)
    assert metrics._first == metrics._tries == {}


def test_a_pod_that_goes_while_it_is_bound_leaves_nothing() -> None:
    metrics = SchedulerMetrics(FakeClock().monotonic)
    metrics.queued(KEY)
    metrics.forget(KEY)
    metrics.attempted(KEY, "error", 0.1)
    assert metrics._first == metrics._tries == {}
    assert values(list(metrics.collect()), "scheduler_schedule_attempts_total")["error", "default-scheduler"] == 1


def test_the_lines_to_the_nodes() -> None:
    metrics = NodeMetrics()
    metrics.lags = lambda: {"node-1": 0.0, "node-2": 7.5}
    metrics.sent(3, 0.02)
    metrics.reported("pod", 200, 0.01)
    metrics.reported("pod", 409, 0.01)
    found = list(metrics.collect())
    assert values(found, "sampan_node_sync_lag_seconds") == {("node-1",): 0.0, ("node-2",): 7.5}
    assert values(found, "sampan_nodes_connected") == {(): 2}
    assert values(found, "sampan_node_sync_changes_total") == {(): 3}
    assert values(found, "sampan_node_reports_total") == {("pod", "200"): 1, ("pod", "409"): 1}


async def test_the_api_servers_page() -> None:
    metrics = Metrics()
    metrics.objects(lambda: {"pods": 3})
    metrics.certified(60.0)
    metrics.watch_components([NodeMetrics().collect], lambda: lambda: b"kube_node_created 1\n")
    with metrics.inflight("GET"), metrics.inflight("HEAD"), metrics.inflight("POST"):
        page = (await metrics.render()).decode()
    assert 'apiserver_current_inflight_requests{request_kind="readOnly"} 2.0' in page
    assert 'apiserver_current_inflight_requests{request_kind="mutating"} 1.0' in page
    assert 'apiserver_storage_objects{resource="pods"} 3.0' in page
    assert 'apiserver_client_certificate_expiration_seconds_bucket{le="1800.0"} 1.0' in page
    assert "sampan_nodes_connected 0.0" in page
    assert "process_resident_memory_bytes" in page
    assert "kube_node_created" not in page
    assert "_created" not in page
    assert await metrics.render("state") == b"kube_node_created 1\n"
    assert 'request_kind="readOnly"} 0.0' in (await metrics.render()).decode()
