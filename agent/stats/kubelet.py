"""What the agent's parts are like now, as metrics: made when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily, Metric

from sampan.api.types import core_v1


@dataclass(frozen=True, slots=True)
class Standing:
    """How the agent stands with its master: whether it is connected, and how many reports wait to be taken."""

    connected: bool
    pending: int


def pods(everything: Sequence[core_v1.Pod]) -> Iterator[Metric]:
    """kubelet_running_pods and kubelet_running_containers, as the newest statuses have it."""
    states: Counter[str] = Counter(running=0, exited=0, waiting=0)
    running = 0
    for pod in everything:
        running += pod.status.phase == "Running"
        for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            state = status.state
            states["running" if state and state.running else "exited" if state and state.terminated else
                   "waiting"] += 1
    yield GaugeMetricFamily("kubelet_running_pods", "Number of pods that have a running pod sandbox", value=running)
    yield GaugeMetricFamily("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.",
                            value=len(everything))
    family = GaugeMetricFamily("kubelet_running_containers", "Number of containers currently running",
                               labels=("container_state",))
    for name, count in states.items():
        family.add_metric((name,), count)
    yield family


def certificates(ends: Mapping[str, datetime | None], now: datetime) -> Iterator[Metric]:
    """Seconds until the certificates end: "client" is the node's identity, "server" that of its port."""
    for kind, end in ends.items():
        left = (end - now).total_seconds() if end else float("inf")
        yield GaugeMetricFamily(f"kubelet_certificate_manager_{kind}_ttl_seconds", "Seconds until the certificate "
                                "expires (negative if already expired), +Inf if there is none.", value=left)
        if end:
            yield GaugeMetricFamily(f"kubelet_certificate_manager_{kind}_expiration_seconds", "When the certificate "
                                    "expires, in seconds since 1970.", value=end.timestamp())


def standing(ask: Callable[[], Standing]) -> Iterator[Metric]:
    """The line to the master."""
    now = ask()
    yield GaugeMetricFamily("sampan_agent_connected", "Whether the master has confirmed all that concerns this node "
                            "over the present connection.", value=int(now.connected))
    yield GaugeMetricFamily("sampan_agent_pending_reports", "Reports of pods, the node and events that the master has "
                            "not taken yet.", value=now.pending)


def machine(cpus: int, memory: int) -> Iterator[Metric]:
    """What cadvisor says of the host."""
    yield GaugeMetricFamily("machine_cpu_cores", "Number of logical CPU cores.", value=cpus)
    yield GaugeMetricFamily("machine_memory_bytes", "Amount of memory installed on the machine.", value=memory)
