"""A pod's conditions. Those that others set (readiness gates, DisruptionTarget) are left as they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from agent.pods.model import is_sidecar
from sampan.api.times import Time
from sampan.api.types import core_v1

Condition = core_v1.PodCondition
Statuses = Sequence[core_v1.ContainerStatus]
OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def make(pod: core_v1.Pod, init: Statuses, apps: Statuses, phase: str, *, sandbox_ready: bool, initialized: bool,
         old: Sequence[Condition], now: datetime) -> list[Condition]:
    """All conditions; the time of the last transition is kept where the status is the same."""
    foreign = [condition for condition in pod.status.conditions if condition.type not in OURS]
    containers_ready = _containers_ready(pod, init, apps, phase)
    fresh = [
        Condition(type="PodReadyToStartContainers", status=_word(sandbox_ready)),
        _initialized(pod, init, phase, initialized=initialized),
        _ready(pod, foreign, containers_ready),
        containers_ready,
        Condition(type="PodScheduled", status="True"),
    ]
    known = {condition.type: condition for condition in (*pod.status.conditions, *old)}
    return [*foreign, *(_dated(condition, known.get(condition.type), now) for condition in fresh)]


def _dated(condition: Condition, before: Condition | None, now: datetime) -> Condition:
    same = before is not None and before.status == condition.status
    since = before.last_transition_time if before and same else None
    return Condition(type=condition.type, status=condition.status, reason=condition.reason,
                     message=condition.message, last_transition_time=since or Time.of(now))


def _initialized(pod: core_v1.Pod, init: Statuses, phase: str, *, initialized: bool) -> Condition:
    if phase == "Succeeded":
        return Condition(type="Initialized", status="True", reason="PodCompleted")
    if initialized:
        return Condition(type="Initialized", status="True")
    by_name = {status.name: status for status in init}
    waiting = []
    for container in pod.spec.init_containers:
        status = by_name.get(container.name)
        done = status is not None and (status.started is True if is_sidecar(container) else status.ready)
        if not done:
            waiting.append(container.name)
    if not waiting:
        return Condition(type="Initialized", status="True")
    return Condition(type="Initialized", status="False", reason="ContainersNotInitialized",
                     message=f"containers with incomplete status: [{' '.join(waiting)}]")


def _containers_ready(pod: core_v1.Pod, init: Statuses, apps: Statuses, phase: str) -> Condition:
    if phase == "Succeeded":
        return Condition(type="ContainersReady", status="False", reason="PodCompleted")
    if phase == "Failed":
        return Condition(type="ContainersReady", status="False", reason="PodFailed")
    sidecars = {container.name for container in pod.spec.init_containers if is_sidecar(container)}
    counted = [*(status for status in init if status.name in sidecars), *apps]
    unready = [status.name for status in counted if not status.ready]
    if unready:
        return Condition(type="ContainersReady", status="False", reason="ContainersNotReady",
                         message=f"containers with unready status: [{' '.join(unready)}]")
    return Condition(type="ContainersReady", status="True")


def _ready(pod: core_v1.Pod, foreign: Sequence[Condition], containers: Condition) -> Condition:
    """Ready is ContainersReady and every readiness gate (KEP-580)."""
    if containers.status != "True":
        return Condition(type="Ready", status=containers.status, reason=containers.reason, message=containers.message)
    by_type = {condition.type: condition for condition in foreign}
    missing = []
    for gate in pod.spec.readiness_gates:
        condition = by_type.get(gate.condition_type)
        if condition is None:
            missing.append(f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.')
        elif condition.status != "True":
            missing.append(f'the status of pod readiness gate "{gate.condition_type}" is not "True", '
                           f"but {condition.status}")
    if missing:
        return Condition(type="Ready", status="False", reason="ReadinessGatesNotReady", message=", ".join(missing))
    return Condition(type="Ready", status="True")


def _word(value: bool) -> str:
    return "True" if value else "False"
