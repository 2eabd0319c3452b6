"""The lines to the nodes: which are up, how far each is behind, what they report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

DELAY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class NodeMetrics:
    """Told what happens on the nodes' streams; times in seconds."""

    def __init__(self) -> None:
        self.lags: Callable[[], Mapping[str, float]] = dict
        """By connected node: for how long its oldest change has been waiting to be sent, 0 for none."""
        self._delays = Histogram("sampan_node_sync_duration_seconds", "Time from a change that concerns a node to its "
                                 "being handed to the node's stream.", buckets=DELAY_BUCKETS, registry=None)
        self._changes = Counter("sampan_node_sync_changes", "Changes sent to nodes.", registry=None)
        self._reports = Counter("sampan_node_reports", "Reports of nodes, by kind and the code of the answer.",
                                ["kind", "code"], registry=None)
        self._report_seconds = Histogram("sampan_node_report_duration_seconds", "Time to carry out a node's report.",
                                         ["kind"], registry=None)

    def sent(self, changes: int, seconds: float) -> None:
        """So many changes were sent, the oldest after so long."""
        self._changes.inc(changes)
        self._delays.observe(seconds)

    def reported(self, kind: str, code: int, seconds: float) -> None:
        """A report was carried out, or refused."""
        self._reports.labels(kind, str(code)).inc()
        self._report_seconds.labels(kind).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """All of it now."""
        for instrument in (self._delays, self._changes, self._reports, self._report_seconds):
            yield from instrument.collect()
        lag = GaugeMetricFamily("sampan_node_sync_lag_seconds", "For how long the oldest change that has not been sent "
                                "to the node waits; nodes that are not connected have none.", labels=("node",))
        lags = self.lags()
        for node, seconds in lags.items():
            lag.add_metric((node,), seconds)
        yield lag
        yield GaugeMetricFamily("sampan_nodes_connected", "Nodes whose agents are connected.", value=len(lags))
