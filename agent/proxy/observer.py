"""What the proxy tells of itself, by the names of upstream's kube-proxy."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

SYNC_SECONDS = "kubeproxy_sync_proxy_rules_duration_seconds"
FULL_SECONDS = "kubeproxy_sync_full_proxy_rules_duration_seconds"
PARTIAL_SECONDS = "kubeproxy_sync_partial_proxy_rules_duration_seconds"
PROGRAMMING_SECONDS = "kubeproxy_network_programming_duration_seconds"
"""From the change behind an endpoint (its pod became ready, say) to the rule being in the kernel."""
SERVICE_CHANGES = "kubeproxy_sync_proxy_rules_service_changes_total"
ENDPOINT_CHANGES = "kubeproxy_sync_proxy_rules_endpoint_changes_total"
FAILURES = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total"
LAST_SYNC = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
LAST_QUEUED = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"
RULES_LAST = "kubeproxy_sync_proxy_rules_iptables_last"
HEALTHZ = "kubeproxy_proxy_healthz_total"
LIVEZ = "kubeproxy_proxy_livez_total"
HEALED = "sampan_proxy_rules_healed_total"
"""How often somebody else had changed our rules; upstream has no such count."""
FORGOTTEN = "sampan_proxy_udp_flows_forgotten_total"


class Observer(Protocol):
    """Where the figures go. Labels are given as keywords."""

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """A counter goes up."""

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """A gauge stands there."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """One value of a histogram, in seconds."""


class Figures:
    """Implements Observer with plain numbers; `seen` holds how many values a histogram got and their sum."""

    def __init__(self) -> None:
        self.values: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self.seen: dict[str, tuple[int, float]] = {}

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add."""
        self.values[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]  # any number will do

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Keep."""
        self.values[name, tuple(sorted(labels.items()))] = value  # type: ignore[assignment]  # any number will do

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Count and sum up."""
        count, total = self.seen.get(name, (0, 0.0))
        self.seen[name] = (count + 1, total + value)

    def value(self, name: str, **labels: str) -> float:
        """A counter or gauge; 0 for none."""
        return self.values[name, tuple(sorted(labels.items()))]
