"""Pure: facts to the Node object. Reasons and messages of the conditions are the kubelet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agent.engine.protocol import EngineInfo
from agent.node.facts import PODS_DEFAULT, Health, HostFacts
from sampan.api.times import Time
from sampan.api.types import core_v1, meta_v1

MEMORY_RESERVE = 100 * 1024 * 1024
"""Bytes below which memory counts as short (the kubelet's default eviction threshold)."""
DISK_SHARE = 0.10
INODE_SHARE = 0.05
PID_RESERVE = 1000
KUBELET_VERSION = "v1.32.0+sampan"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the configuration says of this node."""

    name: str
    address: str
    max_pods: int = PODS_DEFAULT
    port: int = 0
    """Of this agent's own server; 0 for none."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[core_v1.Taint] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """How the engine and the network are: `problem` "" where pods can be run."""

    info: EngineInfo | None
    problem: str = ""


def node_object(settings: NodeSettings, facts: HostFacts, health: Health, runtime: Runtime,
                previous: core_v1.Node | None, now: datetime,
                annotations: Mapping[str, str] | None = None) -> core_v1.Node:
    """The Node as this agent reports it. Transition times are carried over from `previous`."""
    stamp = Time.of(now)
    old = {item.type: item for item in previous.status.conditions} if previous else {}
    conditions = [_condition(kind, status, reason, message, old.get(kind), stamp)
                  for kind, status, reason, message in judge(health, runtime)]
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name=settings.name, labels=_labels(settings, facts),
                                    annotations=dict(annotations or {})),
        spec=core_v1.NodeSpec(taints=list(settings.taints)),
        status=core_v1.NodeStatus(
            capacity=_capacity(settings, facts, health),
            allocatable=allocatable(settings, facts, health),
            conditions=conditions,
            addresses=[core_v1.NodeAddress(type="InternalIP", address=settings.address),
                       core_v1.NodeAddress(type="Hostname", address=facts.hostname)],
            daemon_endpoints=_endpoints(settings.port),
            node_info=_node_info(facts, runtime.info)))


def judge(health: Health, runtime: Runtime) -> list[tuple[str, bool, str, str]]:
    """Type, status, reason and message of every condition."""
    memory = health.memory_available < MEMORY_RESERVE
    disk = (health.disk_available < health.disk_total * DISK_SHARE
            or (health.inodes_total > 0 and health.inodes_free < health.inodes_total * INODE_SHARE))
    pids = health.pids_max - health.pids_used < PID_RESERVE
    ready = not runtime.problem
    return [
        ("MemoryPressure", memory, *_either(memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
                                            "kubelet has insufficient memory available",
                                            "kubelet has sufficient memory available")),
        ("DiskPressure", disk, *_either(disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure",
                                        "kubelet has disk pressure", "kubelet has no disk pressure")),
        ("PIDPressure", pids, *_either(pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID",
                                       "kubelet has insufficient PID available",
                                       "kubelet has sufficient PID available")),
        ("Ready", ready, *_either(ready, "KubeletReady", "KubeletNotReady",
                                  "kubelet is posting ready status", runtime.problem)),
    ]


def _either(yes: bool, reason: str, other: str, message: str, other_message: str) -> tuple[str, str]:
    return (reason, message) if yes else (other, other_message)


def _condition(kind: str, yes: bool, reason: str, message: str,
               old: core_v1.NodeCondition | None, now: Time) -> core_v1.NodeCondition:
    status = "True" if yes else "False"
    since = old.last_transition_time if old and old.status == status and old.last_transition_time else now
    return core_v1.NodeCondition(type=kind, status=status, reason=reason, message=message,
                                 last_heartbeat_time=now, last_transition_time=since)


def _endpoints(port: int) -> core_v1.NodeDaemonEndpoints | None:
    return core_v1.NodeDaemonEndpoints(kubelet_endpoint=core_v1.DaemonEndpoint(port=port)) if port else None


def _labels(settings: NodeSettings, facts: HostFacts) -> dict[str, str]:
    return {"kubernetes.io/hostname": settings.name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": facts.architecture, "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": facts.architecture, **settings.labels}


def _capacity(settings: NodeSettings, facts: HostFacts, health: Health) -> dict[str, str]:
    return {"cpu": str(facts.cpus), "memory": f"{facts.memory // 1024}Ki", "pods": str(settings.max_pods),
            "ephemeral-storage": f"{health.disk_total // 1024}Ki"}


def allocatable(settings: NodeSettings, facts: HostFacts, health: Health) -> dict[str, str]:
    """What pods may use of this host; also what a container is told to be its limit where it has none."""
    return {**_capacity(settings, facts, health), "memory": f"{max(0, facts.memory - MEMORY_RESERVE) // 1024}Ki",
            "ephemeral-storage": str(int(health.disk_total * (1 - DISK_SHARE)))}


def _node_info(facts: HostFacts, engine: EngineInfo | None) -> core_v1.NodeSystemInfo:
    return core_v1.NodeSystemInfo(
        machine_id=facts.machine_id, system_uuid=facts.system_uuid, boot_id=facts.boot_id,
        kernel_version=facts.kernel, os_image=facts.os_image,
        container_runtime_version=f"docker://{engine.version}" if engine else "docker://Unknown",
        kubelet_version=KUBELET_VERSION, kube_proxy_version=KUBELET_VERSION,
        operating_system="linux", architecture=facts.architecture)


def differs(old: core_v1.Node | None, new: core_v1.Node) -> bool:
    """Whether the master should hear of it now: anything but heartbeat times has changed."""
    if old is None:
        return True

    def essence(node: core_v1.Node) -> tuple[object, ...]:
        conditions = [(item.type, item.status, item.reason, item.message) for item in node.status.conditions]
        return (node.metadata.labels, node.metadata.annotations, node.status.capacity, node.status.allocatable,
                node.status.addresses, node.status.node_info, node.status.daemon_endpoints, conditions)

    return essence(old) != essence(new)
