"""A pod's status, made anew from what is there: what upstream's kubelet reports, in its words where users look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from agent.pods import conditions, steps
from agent.pods.backoff import duration, restart_at
from agent.pods.environment import NodeFacts
from agent.pods.labels import container_hash
from agent.pods.model import Attempt, Desired, Failure, Health, Observed, is_sidecar, pod_text
from agent.pods.plan import initialized, restarts, sandbox_ready, stopping
from agent.pods.resources import qos_class
from sampan.api.times import Time
from sampan.api.types import core_v1

ENDED = ("Succeeded", "Failed")
TERMINATED, RUNNING, WAITING = "terminated", "running", "waiting"


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a status is made from. `old` is the last status, of which times and lost containers are kept."""

    desired: Desired
    observed: Observed
    now: datetime
    node: NodeFacts
    old: core_v1.PodStatus


def make_status(at: Situation) -> core_v1.PodStatus:
    """The whole status."""
    pod = at.desired.pod
    init = [_container_status(at, container, init=True) for container in pod.spec.init_containers]
    apps = [_container_status(at, container, init=False) for container in pod.spec.containers]
    ended = stopping(at.desired, at.observed) and not at.observed.running()
    phase = at.old.phase if at.old.phase in ENDED else pod_phase(pod.spec, init, apps, ended=ended)
    reason, message = at.old.reason, at.old.message
    if at.desired.over:
        phase, (reason, message) = "Failed", at.desired.over
    if phase in ENDED and at.old.phase not in ENDED and at.observed.running():
        # A pod is over when nothing of it runs any more: what it used is free then (sidecars and the like end first).
        phase, reason, message = at.old.phase or "Pending", at.old.reason, at.old.message
    phase = phase or "Pending"
    ip = _address(at, phase)
    status = core_v1.PodStatus(
        phase=phase,
        reason=reason,
        message=message,
        host_ip=at.node.ip or None,
        host_ips=[core_v1.HostIP(ip=at.node.ip)] if at.node.ip else [],
        pod_ip=ip or None,
        pod_ips=[core_v1.PodIP(ip=ip)] if ip else [],
        start_time=at.old.start_time or _begun(at),
        init_container_statuses=init,
        container_statuses=apps,
        qos_class=pod.status.qos_class or qos_class(pod),
        nominated_node_name=pod.status.nominated_node_name,
    )
    return replace(status, conditions=conditions.make(
        pod, init, apps, phase, sandbox_ready=sandbox_ready(at.observed),
        initialized=initialized(at.desired, at.observed) or _ran_before(apps), old=at.old.conditions, now=at.now))


def pod_phase(spec: core_v1.PodSpec, init: Sequence[core_v1.ContainerStatus],
              apps: Sequence[core_v1.ContainerStatus], *, ended: bool) -> str:
    """Upstream's getPhase; `ended` says that nothing of the pod will run again."""
    policy = spec.restart_policy or "Always"
    sidecars = {container.name for container in spec.init_containers if is_sidecar(container)}
    plain = [status for status in init if status.name not in sidecars]
    if policy == "Never" and any(_exit_code(status) not in (0, None) for status in plain):
        return "Failed"
    running = sum(_kind(status) == RUNNING for status in apps)
    succeeded = sum(_exit_code(status) == 0 for status in apps)
    stopped = sum(_exit_code(status) is not None for status in apps)
    waiting = len(apps) - running - stopped
    if ended and not running:  # also what was deleted before it began has failed
        return "Succeeded" if apps and stopped == succeeded == len(apps) else "Failed"
    return "Pending" if waiting or not apps else "Running"


def _kind(status: core_v1.ContainerStatus) -> str:
    state = status.state or core_v1.ContainerState()
    if state.running:
        return RUNNING
    return TERMINATED if state.terminated else WAITING


def _exit_code(status: core_v1.ContainerStatus) -> int | None:
    """How it ended, or how it ended last where it waits for its restart; None where it never ended or runs."""
    state, last = status.state or core_v1.ContainerState(), status.last_state or core_v1.ContainerState()
    if state.terminated:
        return state.terminated.exit_code
    if state.waiting and last.terminated:
        return last.terminated.exit_code
    return None


def _container_status(at: Situation, container: core_v1.Container, *, init: bool) -> core_v1.ContainerStatus:
    attempts = at.observed.attempts(container.name)
    old_list = at.old.init_container_statuses if init else at.old.container_statuses
    old = next((status for status in old_list if status.name == container.name), None)
    if not attempts:
        return _without_container(at, container, old)
    latest = attempts[0]
    previous = attempts[1] if len(attempts) > 1 else None
    state = _state(at, container, latest, init=init)
    shown_last = latest if state.waiting and latest.state == "exited" else previous
    last = core_v1.ContainerState(terminated=_terminated(at, shown_last)) if shown_last else core_v1.ContainerState()
    if not shown_last and old and old.last_state and old.restart_count == latest.number:
        last = old.last_state
    health = at.observed.health.get(latest.id, Health())
    alive = state.running is not None
    started = alive and health.started is True
    # What is left of a pod whose sandbox has ended is about to be ended too.
    ready = alive and started and health.ready and bool(at.observed.sandbox and at.observed.sandbox.state == "running")
    if init and not is_sidecar(container):
        ready = state.terminated is not None and state.terminated.exit_code == 0
    return core_v1.ContainerStatus(
        name=container.name, image=latest.container.image or container.image or "",
        image_id=_image_id(at, latest), container_id=f"docker://{latest.id}", ready=ready, started=started,
        # A container that was made and counted may have gone with its sandbox before it ran: the count stays.
        restart_count=max(latest.number, old.restart_count if old else 0),
        state=state, last_state=last, volume_mounts=_mounts(container))


def _without_container(at: Situation, container: core_v1.Container,
                       old: core_v1.ContainerStatus | None) -> core_v1.ContainerStatus:
    """No such container: it is still to come, or it is gone and only the last report remembers it."""
    if old and old.container_id and stopping(at.desired, at.observed):
        if old.state and old.state.terminated:
            return replace(old, ready=old.ready and at.old.phase == "Succeeded", started=False)
        lost = core_v1.ContainerStateTerminated(
            exit_code=137, reason="ContainerStatusUnknown", container_id=old.container_id,
            message="The container could not be located when the pod was terminated")
        return replace(old, state=core_v1.ContainerState(terminated=lost), ready=False, started=False)
    failure = _failure(at, container.name)
    waiting = core_v1.ContainerStateWaiting(
        reason=failure.reason if failure else _pending_reason(at),
        message=failure.message if failure else None)
    return core_v1.ContainerStatus(
        name=container.name, image=container.image or "", image_id="", ready=False, started=False,
        restart_count=old.restart_count if old else 0, state=core_v1.ContainerState(waiting=waiting),
        last_state=old.last_state if old and old.last_state else core_v1.ContainerState(),
        volume_mounts=_mounts(container))


def _state(at: Situation, container: core_v1.Container, latest: Attempt, *, init: bool) -> core_v1.ContainerState:
    if latest.state == "running" and latest.id not in at.observed.starting:
        begun = latest.container.started_at
        return core_v1.ContainerState(
            running=core_v1.ContainerStateRunning(started_at=Time.of(begun) if begun else None))
    if latest.state != "exited":
        return core_v1.ContainerState(waiting=core_v1.ContainerStateWaiting(reason=_pending_reason(at)))
    if not stopping(at.desired, at.observed) and _comes_again(at, container, latest, init=init):
        due = restart_at(latest, container_hash(container))
        if due and due > at.now:
            message = (f"back-off {duration(latest.backoff)} restarting failed container={container.name} "
                       f"pod={pod_text(at.desired.pod)}")
            return core_v1.ContainerState(
                waiting=core_v1.ContainerStateWaiting(reason="CrashLoopBackOff", message=message))
        if failure := _failure(at, container.name):
            return core_v1.ContainerState(
                waiting=core_v1.ContainerStateWaiting(reason=failure.reason, message=failure.message))
    return core_v1.ContainerState(terminated=_terminated(at, latest))


def _comes_again(at: Situation, container: core_v1.Container, latest: Attempt, *, init: bool) -> bool:
    policy = at.desired.restart_policy
    if init and not is_sidecar(container):
        return policy != "Never" and latest.container.exit_code != 0
    return is_sidecar(container) or restarts(at.desired, at.observed, latest)


def _failure(at: Situation, name: str) -> Failure | None:
    """Why the container cannot be started now."""
    return at.observed.failures.get(steps.container_key(name)) or at.observed.failures.get(steps.image_key(name))


def _pending_reason(at: Situation) -> str:
    return "PodInitializing" if at.desired.pod.spec.init_containers else "ContainerCreating"


def _terminated(at: Situation, attempt: Attempt) -> core_v1.ContainerStateTerminated:
    box = attempt.container
    message = at.observed.messages.get(attempt.id) or box.error or None
    if attempt.failed_to_start:
        reason = "ContainerCannotRun"
    elif box.oom_killed:
        reason = "OOMKilled"
    else:
        reason = "Error" if box.exit_code else "Completed"
    ended = attempt.finished_at
    begun = box.started_at or (ended if attempt.failed_to_start else None)
    return core_v1.ContainerStateTerminated(
        exit_code=box.exit_code, reason=reason, message=message, container_id=f"docker://{attempt.id}",
        started_at=Time.of(begun) if begun else None, finished_at=Time.of(ended) if ended else None)


def _image_id(at: Situation, attempt: Attempt) -> str:
    digest = attempt.container.image_id
    return at.observed.image_ids.get(digest) or (f"docker://{digest}" if digest else "")


def _mounts(container: core_v1.Container) -> list[core_v1.VolumeMountStatus]:
    return [core_v1.VolumeMountStatus(name=mount.name, mount_path=mount.mount_path, read_only=mount.read_only,
                                      recursive_read_only="Disabled" if mount.read_only else None)
            for mount in container.volume_mounts]


def _address(at: Situation, phase: str) -> str:
    """The pod's address; one that is over keeps the last it had."""
    if at.desired.host_network:
        return at.node.ip
    for sandbox in at.observed.sandboxes:
        connection = at.observed.connections.get(sandbox.id)
        if connection and sandbox.id not in at.observed.detached:
            return connection.ip
    still_unknown = at.observed.sandbox is not None and at.observed.sandbox.state == "running"
    return at.old.pod_ip or "" if phase in ENDED or still_unknown else ""


def _begun(at: Situation) -> Time:
    """When the agent took the pod on: its first infra container's creation, or now."""
    created = [sandbox.container.created_at for sandbox in at.observed.sandboxes if sandbox.container.created_at]
    return Time.of(min(created, default=at.now))


def _ran_before(apps: Sequence[core_v1.ContainerStatus]) -> bool:
    """Whether any app container has run: then the pod was initialised, whatever its sidecars do now."""
    return any(status.container_id and _kind(status) != WAITING for status in apps)
