"""Which of the engine's containers a request means, by the pod's status. The refusals are the kubelet's."""

from __future__ import annotations

from sampan.api.types import core_v1

_WAITING = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}


class NoContainer(Exception):
    """There is no such container, or not yet; the message is what `kubectl logs` shows."""


def _status(pod: core_v1.Pod, name: str) -> core_v1.ContainerStatus | None:
    status = pod.status
    everything = (*status.container_statuses, *status.init_container_statuses, *status.ephemeral_container_statuses)
    return next((entry for entry in everything if entry.name == name), None)


def _id(reference: str | None) -> str:
    """``docker://<id>`` without the scheme."""
    return (reference or "").rpartition("//")[2]


def running_container(pod: core_v1.Pod, name: str) -> str | None:
    """The id of the container, None unless it runs."""
    status = _status(pod, name)
    if status is None or status.state is None or status.state.running is None:
        return None
    return _id(status.container_id) or None


def log_container(pod: core_v1.Pod, name: str, *, previous: bool) -> str:
    """The id of the container whose log is meant: the running one, else the last that ran."""
    where = f'container "{name}" in pod "{pod.metadata.name}"'
    status = _status(pod, name)
    if status is None:
        raise NoContainer(f"{where} is not available")
    state = status.state or core_v1.ContainerState()
    last = status.last_state.terminated if status.last_state else None
    if previous:
        if last is None or not last.container_id:
            raise NoContainer(f'previous terminated {where} not found')
        return _id(last.container_id)
    if state.running:
        return _id(status.container_id)
    ended = state.terminated or last
    found = _id(ended.container_id if ended else None) or _id(last.container_id if last else None)
    if found:
        return found
    if ended:
        raise NoContainer(f"{where} is terminated")
    if state.waiting:
        reason = state.waiting.reason or ""
        raise NoContainer(f"{where} is waiting to start: {_WAITING.get(reason, reason)}")
    raise NoContainer(f"{where} is waiting to start - no logs yet")
