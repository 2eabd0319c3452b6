"""The scheduler's figures, under upstream's names."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Literal

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

Result = Literal["scheduled", "unschedulable", "error"]
PROFILE = "default-scheduler"
ATTEMPT_BUCKETS = tuple(0.001 * 2 ** step for step in range(15))
POD_BUCKETS = tuple(0.01 * 2 ** step for step in range(20))


class SchedulerMetrics:
    """Told what the scheduler does. Keys are the pods' namespaces and names."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._first: dict[Hashable, float] = {}
        self._tries: dict[Hashable, int] = {}
        self.depths: Callable[[], Mapping[str, int]] = dict
        """How many pods wait in each of the scheduler's queues."""
        labels = ["result", "profile"]
        self._attempts = Counter("scheduler_schedule_attempts", "Number of attempts to schedule pods, by the result.",
                                 labels, registry=None)
        self._attempt_seconds = Histogram("scheduler_scheduling_attempt_duration_seconds", "Scheduling attempt latency "
                                          "in seconds (scheduling algorithm + binding)", labels,
                                          buckets=ATTEMPT_BUCKETS, registry=None)
        self._algorithm_seconds = Histogram("scheduler_scheduling_algorithm_duration_seconds", "Scheduling algorithm "
                                            "latency in seconds", buckets=ATTEMPT_BUCKETS, registry=None)
        self._pod_seconds = Histogram("scheduler_pod_scheduling_sli_duration_seconds", "E2e latency for a pod being "
                                      "scheduled, from the time the pod enters the scheduling queue.", ["attempts"],
                                      buckets=POD_BUCKETS, registry=None)
        self._pod_attempts = Histogram("scheduler_pod_scheduling_attempts", "Number of attempts to successfully "
                                       "schedule a pod.", buckets=(1, 2, 4, 8, 16), registry=None)
        for result in ("scheduled", "unschedulable", "error"):
            self._attempts.labels(result, PROFILE)

    def queued(self, key: Hashable) -> None:
        """The pod waits for a node; from the first time on its waiting counts."""
        self._first.setdefault(key, self._monotonic())

    def decided(self, seconds: float) -> None:
        """A node was looked for."""
        self._algorithm_seconds.observe(seconds)

    def attempted(self, key: Hashable, result: Result, seconds: float) -> None:
        """An attempt has ended."""
        self._attempts.labels(result, PROFILE).inc()
        self._attempt_seconds.labels(result, PROFILE).observe(seconds)
        tries = self._tries.get(key, 0) + 1
        if key in self._first:  # else it went while it was being bound
            self._tries[key] = tries
        if result == "scheduled":
            now = self._monotonic()
            attempts = str(tries) if tries < 15 else "15+"  # as upstream, to bound the label's values
            self._pod_seconds.labels(attempts).observe(now - self._first.get(key, now))
            self._pod_attempts.observe(tries)
            self.forget(key)

    def forget(self, key: Hashable) -> None:
        """The pod no longer waits for a node."""
        self._first.pop(key, None)
        self._tries.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """All of it now."""
        for instrument in (self._attempts, self._attempt_seconds, self._algorithm_seconds, self._pod_seconds,
                           self._pod_attempts):
            yield from instrument.collect()
        pending = GaugeMetricFamily("scheduler_pending_pods", "Number of pending pods, by the queue type.",
                                    labels=("queue",))
        for queue, count in self.depths().items():
            pending.add_metric((queue,), count)
        yield pending
