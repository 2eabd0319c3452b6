"""What a pod asks of a node, as numbers.

CPU is counted in millicores, everything else in whole units (bytes). Source: KEP-753 for the sum over init
containers, and the API reference's "Resource requests and limits of Pod and container".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sampan.api import quantity
from sampan.api.types import core_v1

DEFAULT_CPU = 100
DEFAULT_MEMORY = 200 * 1024 * 1024
"""What a container without requests counts for when nodes are scored, as upstream has it; the filter counts 0."""

MOST = 1 << 53
"""More than any node has of anything; larger amounts count as this, so that sums fit into a column of 64 bits."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that a pod claims; `ip` is "0.0.0.0" for all addresses."""

    protocol: str
    ip: str
    port: int

    def conflicts(self, other: HostPort) -> bool:
        """Whether both cannot be had on one node."""
        same = self.protocol == other.protocol and self.port == other.port
        return same and (self.ip == other.ip or "0.0.0.0" in (self.ip, other.ip))


def amount(resource: str, text: str) -> int:
    """A quantity as the number that is counted for that resource."""
    return min(MOST, quantity.to_milli(text) if resource == "cpu" else quantity.to_int(text))


def amounts(resources: Mapping[str, str]) -> dict[str, int]:
    """A resource list as numbers."""
    return {name: amount(name, text) for name, text in resources.items()}


def pod_requests(pod: core_v1.Pod) -> dict[str, int]:
    """The most that the pod holds at one time: all containers, or an init container beside earlier sidecars."""
    spec = pod.spec
    total = _sum(container_requests(container) for container in spec.containers)
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.init_containers:
        own = container_requests(container)
        if container.restart_policy == "Always":
            sidecars = _sum((sidecars, own))
            own = {}
        peak = _max(peak, _sum((sidecars, own)))
    result = _max(_sum((total, sidecars)), peak)
    return _sum((result, amounts(spec.overhead))) if spec.overhead else result


def scoring_requests(pod: core_v1.Pod) -> tuple[int, int]:
    """CPU and memory for scoring, where a container that asks for nothing still counts for something."""
    cpu = memory = 0
    for container in pod.spec.containers:
        own = container_requests(container)
        cpu += own.get("cpu", DEFAULT_CPU)
        memory += own.get("memory", DEFAULT_MEMORY)
    return min(MOST, cpu), min(MOST, memory)


def container_requests(container: core_v1.Container) -> dict[str, int]:
    """One container's requests."""
    return amounts(container.resources.requests) if container.resources else {}


def host_ports(pod: core_v1.Pod) -> tuple[HostPort, ...]:
    """The node's ports that the pod claims; containers that end before its own begin claim none, as upstream has it."""
    sidecars = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    return tuple(
        HostPort(port.protocol or "TCP", port.host_ip or "0.0.0.0", port.host_port)
        for container in (*pod.spec.containers, *sidecars) for port in container.ports if port.host_port)


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    result: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            result[name] = min(MOST, result.get(name, 0) + value)
    return result


def _max(one: Mapping[str, int], two: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), two.get(name, 0)) for name in one.keys() | two.keys()}
