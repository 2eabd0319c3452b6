"""workqueue_*: what waits in the controllers' queues, for how long, and how long the work takes (client-go's names)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

BUCKETS = tuple(10.0 ** power for power in range(-8, 2))
"""Seconds, as client-go has them."""
_LABEL = ["name"]


class QueueMetrics:
    """The figures of all queues of the process; `watch(name)` is told what happens in one."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._watches: dict[str, QueueWatch] = {}
        self._adds = Counter("workqueue_adds", "Total number of adds handled by workqueue", _LABEL, registry=None)
        self._retries = Counter("workqueue_retries", "Total number of retries handled by workqueue", _LABEL,
                                registry=None)
        self._waits = Histogram("workqueue_queue_duration_seconds", "How long in seconds an item stays in workqueue "
                                "before being requested.", _LABEL, buckets=BUCKETS, registry=None)
        self._works = Histogram("workqueue_work_duration_seconds", "How long in seconds processing an item from "
                                "workqueue takes.", _LABEL, buckets=BUCKETS, registry=None)

    def watch(self, name: str) -> QueueWatch:
        """Who is told of one queue; a queue made again under the same name goes on where the other was."""
        watch = QueueWatch(self._monotonic, self._adds.labels(name), self._retries.labels(name),
                           self._waits.labels(name), self._works.labels(name))
        self._watches[name] = watch
        return watch

    def collect(self) -> Iterator[Metric]:
        """All of it now."""
        for instrument in (self._adds, self._retries, self._waits, self._works):
            yield from instrument.collect()
        depth = GaugeMetricFamily("workqueue_depth", "Current depth of workqueue", labels=_LABEL)
        longest = GaugeMetricFamily("workqueue_longest_running_processor_seconds", "How many seconds has the longest "
                                    "running processor for workqueue been running.", labels=_LABEL)
        unfinished = GaugeMetricFamily("workqueue_unfinished_work_seconds", "How many seconds of work has done that "
                                       "is in progress and hasn't been observed by work_duration.", labels=_LABEL)
        for name, watch in self._watches.items():
            ages = watch.ages()
            depth.add_metric((name,), watch.depth)
            longest.add_metric((name,), max(ages, default=0.0))
            unfinished.add_metric((name,), sum(ages))
        yield from (depth, longest, unfinished)


class QueueWatch:
    """Told by one queue (sampan.loop.queue.Watcher)."""

    def __init__(self, monotonic: Callable[[], float], adds: Counter, retries: Counter, waits: Histogram,
                 works: Histogram) -> None:
        self._monotonic = monotonic
        self._adds = adds
        self._retries = retries
        self._waits = waits
        self._works = works
        self._added: dict[Hashable, float] = {}
        self._taken: dict[Hashable, float] = {}

    @property
    def depth(self) -> int:
        """Keys that are ready to be worked on."""
        return len(self._added)

    def ages(self) -> list[float]:
        """For how many seconds each key that is being worked on has been."""
        now = self._monotonic()
        return [now - since for since in self._taken.values()]

    def added(self, key: Hashable) -> None:
        """See Watcher."""
        self._adds.inc()
        self._added[key] = self._monotonic()

    def taken(self, key: Hashable) -> None:
        """See Watcher."""
        now = self._monotonic()
        self._waits.observe(now - self._added.pop(key, now))
        self._taken[key] = now

    def finished(self, key: Hashable) -> None:
        """See Watcher."""
        now = self._monotonic()
        self._works.observe(now - self._taken.pop(key, now))

    def retried(self) -> None:
        """See Watcher."""
        self._retries.inc()
