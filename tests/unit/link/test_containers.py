"""Which container a log or an exec means: the kubelet's table."""

from __future__ import annotations

import pytest

from agent.link.containers import NoContainer, log_container, running_container
from agent.link.streams import LogWriter
from sampan.api.types import core_v1, meta_v1

RUNNING = core_v1.ContainerState(running=core_v1.ContainerStateRunning())


def ended(reference: str | None) -> core_v1.ContainerState:
    return core_v1.ContainerState(terminated=core_v1.ContainerStateTerminated(exit_code=1, container_id=reference))


def waiting(reason: str) -> core_v1.ContainerState:
    return core_v1.ContainerState(waiting=core_v1.ContainerStateWaiting(reason=reason))


def pod(state: core_v1.ContainerState | None, last: core_v1.ContainerState | None = None,
        reference: str | None = None) -> core_v1.Pod:
    status = core_v1.ContainerStatus(name="c", image="", image_id="", ready=False, restart_count=0, state=state,
                                     last_state=last, container_id=reference)
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name="p"), spec=core_v1.PodSpec(containers=[]),
                       status=core_v1.PodStatus(container_statuses=[status]))


@pytest.mark.parametrize(("state", "last", "reference", "previous", "found"), [
    (RUNNING, None, "docker://now", False, "now"),
    (RUNNING, ended("docker://before"), "docker://now", True, "before"),
    (ended("docker://end"), None, None, False, "end"),
    (ended(None), ended("docker://before"), None, False, "before"),
    (waiting("CrashLoopBackOff"), ended("docker://before"), None, False, "before"),
])
def test_logs_of(state: core_v1.ContainerState, last: core_v1.ContainerState | None, reference: str | None,
                 previous: bool, found: str) -> None:
    assert log_container(pod(state, last, reference), "c", previous=previous) == found


@pytest.mark.parametrize(("state", "previous", "text"), [
    (waiting("ContainerCreating"), False, 'container "c" in pod "p" is waiting to start: ContainerCreating'),
    (waiting("ErrImagePull"), False, 'container "c" in pod "p" is waiting to start: image can\'t be pulled'),
    (waiting("ImagePullBackOff"), False,
     'container "c" in pod "p" is waiting to start: trying and failing to pull image'),
    (None, False, 'container "c" in pod "p" is waiting to start - no logs yet'),
    (ended(None), False, 'container "c" in pod "p" is terminated'),
    (RUNNING, True, 'previous terminated container "c" in pod "p" not found'),
])
def test_no_logs_of(state: core_v1.ContainerState | None, previous: bool, text: str) -> None:
    with pytest.raises(NoContainer) as error:
        log_container(pod(state), "c", previous=previous)
    assert str(error.value) == text


def test_a_container_without_a_status() -> None:
    with pytest.raises(NoContainer, match='container "x" in pod "p" is not available'):
        log_container(pod(RUNNING), "x", previous=False)


def test_only_a_running_container_can_be_entered() -> None:
    assert running_container(pod(RUNNING, reference="docker://now"), "c") == "now"
    assert running_container(pod(ended("docker://end"), reference="docker://end"), "c") is None
    assert running_container(pod(RUNNING), "x") is None


def test_times_stand_at_the_start_of_lines_only() -> None:
    writer = LogWriter(timestamps=True)
    assert writer.write("stdout", "T1", b"part ") == b"T1 part "
    assert writer.write("stderr", "T2", b"other\n") == b"T2 other\n"
    assert writer.write("stdout", "T3", b"rest\n") == b"rest\n"
    assert writer.write("stdout", "T4", b"next\n") == b"T4 next\n"


def test_the_limit_counts_every_byte() -> None:
    writer = LogWriter(limit=8)
    assert writer.write("stdout", "T", b"12345\n") == b"12345\n"
    assert not writer.full
    assert writer.write("stdout", "T", b"678901\n") == b"67"
    assert writer.full
