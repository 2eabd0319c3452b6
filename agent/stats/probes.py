"""How often each container's probes succeeded and failed (upstream's prober_probe_total, served at /metrics/probes)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from agent.probes.protocol import Prober, ProbeResult, ProbeTarget
from sampan.api.types import core_v1

_RESULTS = {"success": "successful", "failure": "failed", "unknown": "unknown"}
LABELS = ("container", "namespace", "pod", "pod_uid", "probe_type", "result")
REMEMBERED = 4096
"""Counts kept at most: where nobody ever asks for them, nobody says either which pods are gone."""
Key = tuple[str, str, str, str, str, str]


class MeasuredProber:
    """Implements Prober by another one, and counts the answers."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._counts: dict[Key, int] = {}  # the last that was raised is last

    async def probe(self, target: ProbeTarget, probe: core_v1.Probe) -> ProbeResult:
        """See Prober."""
        result = await self._prober.probe(target, probe)
        meta, container = target.pod.metadata, target.container
        kind = "Startup" if probe is container.startup_probe else \
            "Liveness" if probe is container.liveness_probe else "Readiness"
        key = container.name, meta.namespace, meta.name, meta.uid, kind, _RESULTS[result.outcome]
        self._counts[key] = self._counts.pop(key, 0) + 1
        if len(self._counts) > REMEMBERED:
            del self._counts[next(iter(self._counts))]
        return result

    def collect(self, live: Collection[str]) -> Iterator[Metric]:
        """The counts of the pods with these UIDs; those of others are forgotten."""
        for key in [key for key in self._counts if key[3] not in live]:
            del self._counts[key]
        family = CounterMetricFamily("prober_probe", "Cumulative number of a liveness, readiness or startup probe for "
                                     "a container by result.", labels=LABELS)
        for key, count in self._counts.items():
            family.add_metric(key, count)
        yield family
