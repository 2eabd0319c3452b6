"""What the API server counts, in Prometheus' text format under upstream's names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from master.store.stats import COMMIT_BUCKETS, HasStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_EXPIRY_BUCKETS = (0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000,
                   31104000)
"""Seconds, as upstream has them."""
_BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2, 3, 4, 5, 10, 30, 60)  # seconds

Measure = Callable[[], Iterable[Metric]]

Gauges = Callable[[], Iterable[tuple[str, str, float]]]
"""Name, help and value of what is only looked at when asked for."""


class _Sampled(Collector):
    def __init__(self, read: Gauges) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Look now."""
        for name, text, value in self._read():
            yield GaugeMetricFamily(name, text, value=value)


class _Measured(Collector):
    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    def collect(self) -> Iterable[Metric]:
        """Look now."""
        return self._measure()


class _Inflight:
    """Counts who is inside; one object for all of them, because every request passes here."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *error: object) -> None:
        self.count -= 1


class _Given:
    """Metrics that have been collected, in the shape that the exposition takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


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
        yield CounterMetricFamily("sampan_store_commits", "Transactions that were committed.", value=stats.commits)
        yield GaugeMetricFamily("apiserver_storage_size_bytes", "Size of the storage database file physically "
                                "allocated in bytes.", value=stats.database_bytes + stats.wal_bytes)
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
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each: nobody asks for it
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._reading, self._mutating = _Inflight(), _Inflight()
        self.measure(self._inflight)
        self._state: Callable[[], Callable[[], bytes]] = lambda: bytes
        self._client_expiries = Histogram("apiserver_client_certificate_expiration_seconds", "Distribution of the "
                                          "remaining lifetime on the certificate used to authenticate a request.",
                                          buckets=_EXPIRY_BUCKETS, registry=self.registry)
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

    def measure(self, measure: Measure) -> None:
        """Add metrics that are made when they are asked for."""
        self.registry.register(_Measured(measure))

    def watch_components(self, measures: Iterable[Measure], state: Callable[[], Callable[[], bytes]]) -> None:
        """Add what the other parts of the process tell. `state` has a page of its own: it looks now, and returns what
        writes down what it saw, in a thread.
        """
        for measure in measures:
            self.measure(measure)
        self._state = state

    def certified(self, seconds: float) -> None:
        """A client has connected with a certificate that ends in so many seconds."""
        self._client_expiries.observe(seconds)

    def objects(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Tell how many objects there are, by resource."""
        def measure() -> Iterable[Metric]:
            family = GaugeMetricFamily("apiserver_storage_objects", "Number of stored objects at the time of last "
                                       "check split by kind.", labels=("resource",))
            for resource, number in count().items():
                family.add_metric((resource,), number)
            yield family

        self.measure(measure)

    def inflight(self, method: str) -> _Inflight:
        """Count a request while it is being answered; `with metrics.inflight("GET"):`. Not for streams."""
        return self._reading if method in ("GET", "HEAD") else self._mutating

    def _inflight(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("apiserver_current_inflight_requests", "Requests that are being answered now, "
                                   "streams apart.", labels=("request_kind",))
        family.add_metric(("readOnly",), self._reading.count)
        family.add_metric(("mutating",), self._mutating.count)
        yield family

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

    async def render(self, page: str = "") -> bytes:
        """Everything as text; `page` "state" is what the cluster's objects say.

        Looked at here, where nothing changes meanwhile, and written in a thread: a large cluster's takes a second.
        """
        if page == "state":
            return await asyncio.to_thread(self._state())
        return await asyncio.to_thread(generate_latest, _Given(list(self.registry.collect())))
