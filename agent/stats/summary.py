"""/stats/summary: the kubelet's Summary API (k8s.io/kubelet/pkg/apis/stats/v1alpha1), from one look at the pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.stats.cgroup import NANO, Use
from agent.stats.sample import ContainerSample, PodSample, Sample, Traffic

Tree = dict[str, Any]
OLDEST = 300.0
"""Seconds between two looks after which the one before says nothing of the present rate."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: sizes in bytes."""

    size: int
    available: int
    files: int
    files_free: int


@dataclass(frozen=True, slots=True)
class NodeUse:
    """The host at one time. CPU in seconds since it started, memory in bytes."""

    name: str
    boot: datetime
    cpu: float
    memory_total: int
    memory_available: int
    memory_used: int
    root: Disk
    images: Disk
    network: Sequence[Traffic]
    interface: str
    processes: int
    max_processes: int


class Rates:
    """CPU use per second, from two looks; remembers the last one, which may serve several who ask."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[datetime, float]] = {}
        self._last: tuple[datetime, dict[str, int]] | None = None

    def nano_cores(self, uses: Mapping[str, float], now: datetime) -> dict[str, int]:
        """By name, where the look before is not too long ago; names that are not asked for are forgotten."""
        if self._last and self._last[0] == now:
            return self._last[1]
        rates = {}
        for name, seconds in uses.items():
            before = self._before.get(name)
            passed = (now - before[0]).total_seconds() if before else 0.0
            if before and 0 < passed < OLDEST and seconds >= before[1]:
                rates[name] = int((seconds - before[1]) / passed * NANO)
        self._before = {name: (now, seconds) for name, seconds in uses.items()}
        self._last = now, rates
        return rates


def summary(sample: Sample, node: NodeUse, rates: Rates, *, only_cpu_and_memory: bool = False) -> Tree:
    """The answer."""
    uses = {item.use.path: item.use.cpu for pod in sample.pods for item in pod.containers}
    uses |= {pod.use.path: pod.use.cpu for pod in sample.pods if pod.use}
    cores = rates.nano_cores({"": node.cpu, **uses}, sample.time)
    pods = [_pod(pod, sample.time, cores, brief=only_cpu_and_memory) for pod in sample.pods]
    return {"node": _node(node, sample.time, cores, brief=only_cpu_and_memory), "pods": pods}


def _node(node: NodeUse, time: datetime, cores: Mapping[str, int], *, brief: bool) -> Tree:
    tree: Tree = {
        "nodeName": node.name, "startTime": _stamp(node.boot), "cpu": _cpu(node.cpu, cores.get(""), time),
        "memory": {"time": _stamp(time), "availableBytes": node.memory_available, "usageBytes": node.memory_used,
                   "workingSetBytes": node.memory_total - node.memory_available}}
    if not brief:
        tree |= {"network": _network(node.network, node.interface, time), "fs": _disk(node.root, time),
                 "runtime": {"imageFs": _disk(node.images, time)},
                 "rlimit": {"time": _stamp(time), "maxpid": node.max_processes, "curproc": node.processes}}
    return tree


def _pod(pod: PodSample, time: datetime, cores: Mapping[str, int], *, brief: bool) -> Tree:
    meta = pod.pod.metadata
    tree: Tree = {
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "startTime": str(pod.pod.status.start_time) if pod.pod.status.start_time else None,
        "containers": [_container(item, time, cores, brief=brief) for item in pod.containers]}
    if pod.use:
        tree |= {"cpu": _cpu(pod.use.cpu, cores.get(pod.use.path), time), "memory": _memory(pod.use, time)}
    if not brief:
        if pod.network:
            tree["network"] = _network(pod.network, "eth0", time)
        if pod.use:
            tree["process_stats"] = {"process_count": pod.use.processes}
        used = sum(item.log_bytes for item in pod.containers)
        tree["ephemeral-storage"] = {"time": _stamp(time), "usedBytes": used}
    return tree


def _container(item: ContainerSample, time: datetime, cores: Mapping[str, int], *, brief: bool) -> Tree:
    started = item.container.started_at
    tree: Tree = {"name": item.name, "startTime": _stamp(started) if started else None,
                  "cpu": _cpu(item.use.cpu, cores.get(item.use.path), time), "memory": _memory(item.use, time)}
    if not brief:
        tree["logs"] = {"time": _stamp(time), "usedBytes": item.log_bytes}
        tree["swap"] = {"time": _stamp(time), "swapUsageBytes": item.use.swap}
    return tree


def _cpu(seconds: float, nano_cores: int | None, time: datetime) -> Tree:
    tree: Tree = {"time": _stamp(time), "usageCoreNanoSeconds": int(seconds * NANO)}
    return tree if nano_cores is None else {**tree, "usageNanoCores": nano_cores}


def _memory(use: Use, time: datetime) -> Tree:
    tree: Tree = {"time": _stamp(time), "usageBytes": use.memory, "workingSetBytes": use.working_set,
                  "rssBytes": use.rss, "pageFaults": use.page_faults, "majorPageFaults": use.major_page_faults}
    if use.memory_limit:
        tree["availableBytes"] = max(0, use.memory_limit - use.working_set)
    return tree


def _disk(disk: Disk, time: datetime) -> Tree:
    return {"time": _stamp(time), "availableBytes": disk.available, "capacityBytes": disk.size,
            "usedBytes": disk.size - disk.available, "inodesFree": disk.files_free, "inodes": disk.files,
            "inodesUsed": disk.files - disk.files_free}


def _network(interfaces: Sequence[Traffic], main: str, time: datetime) -> Tree:
    everything = [{"name": item.interface, "rxBytes": item.receive_bytes, "rxErrors": item.receive_errors,
                   "txBytes": item.transmit_bytes, "txErrors": item.transmit_errors} for item in interfaces]
    first: Tree = next((item for item in everything if item["name"] == main), everything[0] if everything else {})
    return {"time": _stamp(time), **first, "interfaces": everything}


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
