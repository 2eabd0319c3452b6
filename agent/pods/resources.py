"""Requests and limits as cgroup settings and OOM scores, by upstream's formulas; the QoS class."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.cgroups.protocol import PodLimits, QosClass
from agent.engine.protocol import Limits
from agent.pods.model import is_sidecar
from sampan.api.quantity import to_int, to_milli
from sampan.api.types import core_v1

MIN_SHARES = 2
MAX_SHARES = 262_144
PERIOD = 100_000
MIN_QUOTA = 1_000
INFRA_OOM_SCORE = -998
GUARANTEED_OOM_SCORE = -997
BEST_EFFORT_OOM_SCORE = 1000
_COUNTED = ("cpu", "memory")


def shares(milli_cpu: int) -> int:
    """CPU shares for so many thousandths of a core; the minimum of 2 for none."""
    return min(MAX_SHARES, max(MIN_SHARES, milli_cpu * 1024 // 1000)) if milli_cpu else MIN_SHARES


def quota(milli_cpu: int) -> int:
    """Microseconds of CPU per period of 100 ms; 0 for no limit."""
    return max(MIN_QUOTA, milli_cpu * PERIOD // 1000) if milli_cpu else 0


def qos_class(pod: core_v1.Pod) -> QosClass:
    """Guaranteed where every container's limits equal its requests, BestEffort where none has any, else Burstable."""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    anything = False
    guaranteed = True
    for container in containers:
        requests, limits = _settings(container)
        for name in _COUNTED:
            wanted, limit = _amount(requests.get(name)), _amount(limits.get(name))
            anything = anything or bool(wanted or limit)
            if not limit or (wanted and wanted != limit):
                guaranteed = False
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def oom_score(pod: core_v1.Pod, container: core_v1.Container, memory_capacity: int) -> int:
    """From -997 (Guaranteed, node-critical) over 3..999 (by share of the node's memory requested) to 1000."""
    if (pod.spec.priority or 0) >= 2_000_000_000 and pod.spec.priority_class_name == "system-node-critical":
        return GUARANTEED_OOM_SCORE
    qos = qos_class(pod)
    if qos == "Guaranteed":
        return GUARANTEED_OOM_SCORE
    if qos == "BestEffort":
        return BEST_EFFORT_OOM_SCORE
    requests, limits = _settings(container)
    request = to_int(requests.get("memory") or limits.get("memory") or "0")
    score = 1000 - 1000 * request // max(1, memory_capacity)
    if score < 1000 + GUARANTEED_OOM_SCORE:
        return 1000 + GUARANTEED_OOM_SCORE
    return score - 1 if score == BEST_EFFORT_OOM_SCORE else score


def container_limits(pod: core_v1.Pod, container: core_v1.Container, memory_capacity: int) -> Limits:
    """A container's own settings."""
    requests, limits = _settings(container)
    cpu_limit = to_milli(limits.get("cpu", "0"))
    cpu_request = to_milli(requests.get("cpu", "0")) or cpu_limit
    return Limits(cpu_shares=shares(cpu_request), cpu_quota=quota(cpu_limit), cpu_period=PERIOD,
                  memory=to_int(limits.get("memory", "0")), oom_score_adj=oom_score(pod, container, memory_capacity))


def pod_limits(pod: core_v1.Pod, pids: int = 0) -> PodLimits:
    """The pod's settings: sums over containers; a quota or memory limit only where every container has one."""
    cpu_request = _total(pod, lambda container: to_milli(_settings(container)[0].get("cpu", "0"))
                         or to_milli(_settings(container)[1].get("cpu", "0")))
    cpu_limit = _total(pod, lambda container: to_milli(_settings(container)[1].get("cpu", "0")))
    memory = _total(pod, lambda container: to_int(_settings(container)[1].get("memory", "0")))
    everyone = (*pod.spec.containers, *pod.spec.init_containers)
    all_cpu = all(_amount(_settings(container)[1].get("cpu")) for container in everyone)
    all_memory = all(_amount(_settings(container)[1].get("memory")) for container in everyone)
    return PodLimits(cpu_shares=shares(cpu_request), cpu_quota=quota(cpu_limit) if all_cpu else 0, cpu_period=PERIOD,
                     memory=memory if all_memory else 0, pids=pids)


def _total(pod: core_v1.Pod, amount: Callable[[core_v1.Container], int]) -> int:
    """App containers and sidecars together, or the most that any init container needs at its turn."""
    sidecars = 0
    peak = 0
    for container in pod.spec.init_containers:
        if is_sidecar(container):
            sidecars += amount(container)
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + amount(container))
    return max(peak, sidecars + sum(amount(container) for container in pod.spec.containers))


def _settings(container: core_v1.Container) -> tuple[Mapping[str, str], Mapping[str, str]]:
    if container.resources is None:
        return {}, {}
    return container.resources.requests, container.resources.limits


def _amount(text: str | None) -> int:
    return to_milli(text) if text else 0
