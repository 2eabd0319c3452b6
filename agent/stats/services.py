"""What the agent's proxy and DNS have done, as metrics: kube-proxy's names, CoreDNS' where they fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric

from agent.proxy import observer as names

SYNC_BUCKETS = tuple(0.001 * 2 ** step for step in range(15))
"""Seconds, as kube-proxy has them."""
PROGRAMMING_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
_HISTOGRAMS = {
    names.SYNC_SECONDS: "SyncProxyRules latency in seconds",
    names.FULL_SECONDS: "SyncProxyRules latency in seconds for full resyncs",
    names.PARTIAL_SECONDS: "SyncProxyRules latency in seconds for partial resyncs",
    names.PROGRAMMING_SECONDS: "In Cluster Network Programming Latency in seconds",
}
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    names.SERVICE_CHANGES: ("Cumulative proxy rules Service changes", ()),
    names.ENDPOINT_CHANGES: ("Cumulative proxy rules Endpoint changes", ()),
    names.FAILURES: ("Cumulative proxy iptables restore failures", ()),
    names.HEALTHZ: ("Cumulative proxy healthz HTTP status", ("code",)),
    names.LIVEZ: ("Cumulative proxy livez HTTP status", ("code",)),
    names.HEALED: ("How often somebody else had changed the rules for Services.", ()),
    names.FORGOTTEN: ("Flows of UDP that the kernel was told to forget, because their endpoint had gone or come.", ()),
}
_GAUGES = {
    names.LAST_SYNC: "The last time proxy rules were successfully synced",
    names.LAST_QUEUED: "The last time a sync of proxy rules was queued",
    names.RULES_LAST: "Number of iptables rules written by the last sync",
}


class ProxyMetrics:
    """Implements the proxy's Observer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histograms = {
            name: Histogram(name, text, registry=registry,
                            buckets=PROGRAMMING_BUCKETS if name == names.PROGRAMMING_SECONDS else SYNC_BUCKETS)
            for name, text in _HISTOGRAMS.items()}
        self._counters = {name: Counter(name, text, labels, registry=registry)
                          for name, (text, labels) in _COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, registry=registry) for name, text in _GAUGES.items()}

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """See Observer."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """See Observer."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """See Observer."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)


class DnsCounters(Protocol):
    """The counts of `agent.dns.resolver.Counters`."""

    queries: int
    remembered: int
    failures: int


def dns(counters: DnsCounters) -> Iterator[Metric]:
    """What this node's cluster DNS has answered."""
    yield CounterMetricFamily("coredns_dns_requests", "Counter of DNS requests made.", value=counters.queries)
    yield CounterMetricFamily("coredns_cache_hits", "The count of cache hits.", value=counters.remembered)
    yield CounterMetricFamily("sampan_dns_failures", "DNS requests that could not be answered.",
                              value=counters.failures)
