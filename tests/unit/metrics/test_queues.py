"""workqueue_*."""

from __future__ import annotations

from prometheus_client.core import Metric

from master.metrics.queues import QueueMetrics
from sampan.loop.backoff import Backoff
from sampan.loop.clock import FakeClock
from sampan.loop.queue import WorkQueue


def value(metrics: QueueMetrics, name: str) -> float:
    collected: list[Metric] = list(metrics.collect())
    return next(item.value for metric in collected for item in metric.samples
                if item.name == f"workqueue_{name}" and item.labels == {"name": "csr"})


async def test_a_queue_tells_how_long_keys_wait_and_are_worked_on() -> None:
    clock = FakeClock()
    metrics = QueueMetrics(clock.monotonic)
    queue: WorkQueue[str] = WorkQueue(Backoff(initial=0.001), watcher=metrics.watch("csr"))
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert value(metrics, "depth") == 2
    assert value(metrics, "adds_total") == 2
    await clock.advance(3.0)
    assert await queue.get() == "a"
    assert value(metrics, "queue_duration_seconds_sum") == 3.0
    await clock.advance(2.0)
    assert value(metrics, "longest_running_processor_seconds") == 2.0
    assert value(metrics, "unfinished_work_seconds") == 2.0
    queue.add("a")
    assert value(metrics, "depth") == 1
    queue.done("a")
    assert value(metrics, "work_duration_seconds_sum") == 2.0
    assert value(metrics, "depth") == 2
    assert value(metrics, "longest_running_processor_seconds") == 0.0
    assert await queue.get() == "b"
    queue.add_failed("b")
    queue.done("b")
    assert value(metrics, "retries_total") == 1
    queue.close()


async def test_a_queue_that_is_made_again_goes_on() -> None:
    metrics = QueueMetrics(FakeClock().monotonic)
    for _ in range(2):
        queue: WorkQueue[str] = WorkQueue(watcher=metrics.watch("csr"))
        queue.add("a")
    assert value(metrics, "adds_total") == 2
    assert value(metrics, "depth") == 1
