"""What the API server counts, in Prometheus' text format under upstream's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from master.store.stats import COMMIT_BUCKETS, HasStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2, 3, 4, 5, 10, 30, 60)  # seconds

Gauges = Callable[[], Iterable[tuple[str, str, float]]]
"""Name, help and value of what is only looked at when asked for."""


class _Sampled(Collector):
    def __init__(self, read: Gauges) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Look now."""
        for name, text, value in self._read():
            yield GaugeMetricFamily(name, text, value=value)


class _StoreFigures(Collector):
    """The embedded store's commits and sizes."""

    def __init__(self, store: HasStats) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Look now."""
        stats = self._store.stats()
        counts = accumulate(stats.commit_counts)
        bounds = [*map(str, COMMIT_BUCKETS), "+Inf"]
        yield HistogramMetricFamily("sampan_store_commit_duration_seconds", "Time of durable transactions.",
                                    buckets=list(zip(bounds, map(float, counts), strict=True)),
                                    sum_value=stats.commit_seconds)
        yield CounterMetricFamily("sampan_store_writes", "Objects written.", value=stats.writes)
        yield CounterMetricFamily("sampan_store_failures", "Transactions that failed.", value=stats.failures)
        for name, value in (("database", stats.database_bytes), ("wal", stats.wal_bytes), ("free", stats.free_bytes)):
            yield GaugeMetricFamily(f"sampan_store_{name}_bytes", f"Size of the store: {name}.", value=value)


class _Expiries(Collector):
    def __init__(self, read: Callable[[], Mapping[str, datetime]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Look now."""
        family = GaugeMetricFamily("sampan_certificate_expiration_timestamp_seconds",
                                   "When the master's certificates end, in seconds since 1970.", labels=["certificate"])
        for name, end in self._read().items():
            family.add_metric([name], end.timestamp())
        yield family


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = ("verb", "group", "resource", "subresource")
        self._requests = Counter("apiserver_request", "Requests answered.", (*labels, "code"), registry=self.registry)
        self._durations = Histogram("apiserver_request_duration_seconds", "Time to answer, streams apart.", labels,
                                    buckets=_BUCKETS, registry=self.registry)
        self._longrunning = Gauge("apiserver_longrunning_requests", "Watches and streams that run.", labels,
                                  registry=self.registry)
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}

    def sample(self, read: Gauges) -> None:
        """Add gauges that are read when the metrics are asked for."""
        self.registry.register(_Sampled(read))

    def watch_store(self, store: HasStats) -> None:
        """Add the store's figures."""
        self.registry.register(_StoreFigures(store))

    def certificates(self, expiries: Callable[[], Mapping[str, datetime]]) -> None:
        """Tell when certificates end: so that somebody is alarmed if they are not renewed."""
        self.registry.register(_Expiries(expiries))

    def answered(self, what: tuple[str, str, str, str], code: int, seconds: float | None) -> None:
        """Count an answer; `what` is verb, group, resource, subresource, `seconds` None for a stream."""
        key = (*what, str(code))
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(*key)
        counter.inc()
        if seconds is None:
            return
        histogram = self._histograms.get(what)
        if histogram is None:
            histogram = self._histograms[what] = self._durations.labels(*what)
        histogram.observe(seconds)

    def longrunning(self, what: tuple[str, str, str, str]) -> Gauge:
        """The gauge of one kind of stream; `with gauge.track_inprogress():`."""
        return self._longrunning.labels(*what)

    def render(self) -> bytes:
        """Everything as text."""
        return generate_latest(self.registry)
