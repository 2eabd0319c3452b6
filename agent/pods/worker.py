"""One pod's worker: look, decide one step, do it, look again; report what came of it.

Steps run as tasks of the worker, at most one per key, so that a slow pull holds up nothing but its container. The
decisions are `plan.next_step`'s, the status is `status.make_status`'s; here is only the loop around them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from msgspec.structs import replace as with_fields

from agent.engine.protocol import Container, EngineError, EngineEvent, EngineTimeout, EngineUnavailable
from agent.pods import steps
from agent.pods.actions import Actions, StepFailed
from agent.pods.memory import Memory
from agent.pods.metrics import Turn
from agent.pods.model import Attempt, Desired, Health, Observed
from agent.pods.observe import Observer
from agent.pods.plan import next_step, stopping
from agent.pods.probing import ContainerProbes, initial_health
from agent.pods.rooms import Rooms
from agent.pods.status import Situation, make_status
from agent.stats.sample import PodBoxes
from sampan.api.types import core_v1

log = logging.getLogger(__name__)

ENDING = (steps.KillContainer, steps.StopSandbox, steps.RemoveContainers, steps.TearDownVolumes, steps.RemoveCgroup)
ECHOES = 4
"""Reports remembered, to know them when they come back as changes of the object."""
DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


def overruled(known: core_v1.PodStatus, reported: core_v1.PodStatus) -> bool:
    """Whether somebody else set Ready: the master does where a node was silent, and waits for the node to say more.

    Where ContainersReady differs too the API just has not our newest report yet.
    """
    theirs, ours = ({condition.type: condition.status for condition in status.conditions}
                    for status in (known, reported))
    return theirs.get("Ready") != ours.get("Ready") and theirs.get("ContainersReady") == ours.get("ContainersReady")


class PodWorker:
    """The life of one pod, by its UID."""

    def __init__(self, rooms: Rooms, pod: core_v1.Pod, containers: Iterable[Container] = (), *, orphan: bool = False,
                 has_volumes: bool = False, has_cgroup: bool = False, as_of: datetime | None = None,
                 stale: bool = False) -> None:
        """`containers` are those that it has, as of then; `stale`: it may have others, and looks before it begins."""
        self._rooms = rooms
        self._desired = Desired(pod, orphan=orphan)
        self._status = pod.status
        self._reported: core_v1.PodStatus | None = None
        self._sent: deque[core_v1.PodStatus] = deque(maxlen=ECHOES)
        self._memory = Memory()
        self._memory.volumes_exist = has_volumes
        self._memory.cgroup_exists = has_cgroup
        self._memory.recall(pod.status)
        self._memory.see_all(containers, as_of or rooms.clock.now())
        self._memory.stale = stale
        self._observer = Observer(rooms, self._memory, pod.metadata.uid)
        self._actions = Actions(rooms, self._memory, self._observer, lambda: self._desired, self._tell_terminated)
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[tuple[str, bool], asyncio.Task[None]] = {}
        self._refresh = False
        self._backing_off: dict[str, int] = {}
        self._until: datetime | None = None
        fresh = not stale and not orphan and not has_volumes and not has_cgroup and not self._memory.containers()
        self._born = rooms.clock.monotonic() if fresh else None
        self._group: asyncio.TaskGroup

    # What others tell the worker.

    @property
    def pod(self) -> core_v1.Pod:
        """The pod's object with the newest status as this node knows it."""
        return with_fields(self._desired.pod, status=self._status)

    def update(self, pod: core_v1.Pod) -> None:
        """The object changed."""
        before, echo = self._desired.deleted, self._is_echo(pod)
        if pod.spec != self._desired.pod.spec:
            self._memory.failures.clear()  # it may be what was wrong, as an image that is not to be had
        self._desired = replace(self._desired, pod=pod)
        if echo:
            return
        if self._reported and overruled(pod.status, self._reported):
            self._reported = None
        self._stopped(before=before)

    def gone(self) -> None:
        """The object is no longer in the API."""
        before = self._desired.deleted
        self._desired = replace(self._desired, gone=True)
        self._stopped(before=before)

    def hear(self, event: EngineEvent) -> None:
        """The engine says something about one of the pod's containers."""
        if self._memory.hear(event):
            self._wake.set()

    def see_all(self, containers: Iterable[Container], as_of: datetime) -> None:
        """The engine's complete list of the pod's containers."""
        before = self._memory.containers()
        self._memory.see_all(containers, as_of)
        if self._memory.unclear() or self._memory.containers() != before:
            self._wake.set()

    def disconnected(self, sandbox_id: str) -> None:
        """The network says that a sandbox has lost its link: if it is ours it is connected again."""
        if self._memory.connections.pop(sandbox_id, None):
            self._wake.set()

    def config_changed(self) -> None:
        """A ConfigMap or Secret that the pod refers to changed: its volumes follow, what waited for it is tried."""
        self._refresh = True
        for key in (steps.VOLUMES, *(key for key in self._memory.failures if key.startswith("container/"))):
            self._memory.failures.pop(key, None)
        self._wake.set()

    def network_pid(self) -> int:
        """A process in the pod's network namespace, 0 for none."""
        sandbox = self._memory.observed(()).sandbox
        return sandbox.container.pid if sandbox and sandbox.state == "running" else 0

    def boxes(self) -> PodBoxes:
        """The containers that run, for statistics."""
        observed = self._memory.observed(())
        sandbox = observed.sandbox
        return PodBoxes(self.pod, sandbox.container if sandbox and sandbox.state == "running" else None,
                        {attempt.name: attempt.container for attempt in observed.running()})

    def sandbox_ids(self) -> set[str]:
        """All infra containers of the pod whose network may still be there."""
        return {sandbox.id for sandbox in self._memory.observed(()).sandboxes}

    # The loop.

    async def run(self) -> None:
        """Until nothing of the pod is left. Containers outlive a cancelled worker."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._tasks.clear()
            self._probes.clear()
            self._memory.killing.clear()  # who was at it has been cancelled with the last run
            while not await self._counted_turn():
                await self._sleep()
            for task in (*self._tasks.values(), *self._probes.values()):
                task.cancel()
        self._rooms.images.forget_pod(self._desired.pod.metadata.uid)

    async def _counted_turn(self) -> bool:
        began = self._rooms.clock.monotonic()
        kind: Turn = "kill" if self._desired.deleted else "create" if self._reported is None else "sync"
        try:
            return await self._turn()
        finally:
            self._rooms.metrics.turned(kind, self._rooms.clock.monotonic() - began)

    async def _turn(self) -> bool:
        """Look, start every step that can be started now, report; True when nothing is left of the pod."""
        self._wake.clear()
        try:
            await self._observer.learn()
        except EngineError as error:
            log.warning("pod %s: cannot see its containers: %s", self._desired.pod.metadata.name, error)
            if isinstance(error, EngineTimeout) or not isinstance(error, EngineUnavailable):  # else all pods have it
                self._actions.tell("Warning", "FailedSync", f"error determining status: {error}")
            self._memory.stale = True
            self._until = self._rooms.clock.now() + timedelta(seconds=5)
            if self._memory.presume():
                self._report(self._memory.observed(self._tasks.keys()), self._rooms.clock.now())
            return False
        if self._refresh and self._memory.volumes is not None and "refresh" not in self._tasks:
            self._refresh = False
            self._tasks["refresh"] = self._group.create_task(self._refresh_volumes())
        self._tend_probes()
        while True:
            now = self._rooms.clock.now()
            deadline = self._deadline(now)
            observed = self._memory.observed(self._tasks.keys())
            step = next_step(self._desired, observed, now)
            if isinstance(step, steps.Wait):
                self._report(observed, now)
                self._until = min((when for when in (step.until, deadline) if when), default=None)
                return False
            if isinstance(step, steps.Finish):
                return True
            self._launch(step)

    async def _sleep(self) -> None:
        """Until something wakes the worker, or the time that was set."""
        if self._until is None:
            await self._wake.wait()
            return
        alarm = self._group.create_task(self._alarm(self._until))
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()

    async def _alarm(self, until: datetime) -> None:
        await self._rooms.clock.sleep(max(0.0, (until - self._rooms.clock.now()).total_seconds()))
        self._wake.set()

    def _launch(self, step: steps.Action) -> None:
        if isinstance(step, steps.KillContainer):
            for key in (step.key, steps.hook_key(step.id)):
                if task := self._tasks.pop(key, None):
                    task.cancel()
            if step.id in self._memory.killing:
                self._memory.killing[step.id] = self._rooms.clock.now() + timedelta(seconds=step.grace)
        log.debug("pod %s: %s", self._desired.pod.metadata.name, step)
        self._tasks[step.key] = self._group.create_task(self._perform(step), name=step.key)

    async def _perform(self, step: steps.Action) -> None:
        try:
            await self._actions.perform(step)
        except StepFailed as error:
            self._fail(step, error.reason, error, error.initial, error.maximum)
        except EngineUnavailable as error:
            self._memory.stale = True
            self._fail(step, "EngineUnavailable", error, 1.0, 30.0)
        except Exception as error:
            self._memory.stale = True
            log.warning("pod %s: %s: %s", self._desired.pod.metadata.name, step, error or type(error).__name__,
                        exc_info=log.isEnabledFor(logging.DEBUG))
            self._fail(step, "FailedSync", error, 1.0, 60.0)
        else:
            if not isinstance(step, (steps.CreateSandbox, steps.StopSandbox)):
                self._memory.failures.pop(step.key, None)
        finally:
            if self._tasks.get(step.key) is asyncio.current_task():
                del self._tasks[step.key]
            self._wake.set()

    def _fail(self, step: steps.Action, reason: str, error: Exception, initial: float, maximum: float) -> None:
        self._memory.failed(step.key, self._rooms.clock.now(), reason, str(error) or type(error).__name__,
                            initial=initial, maximum=maximum)
        if isinstance(step, steps.KillContainer):
            self._memory.killing.pop(step.id, None)
            self._memory.stop_by = None
        if isinstance(step, ENDING):
            self._actions.tell("Warning", "FailedKillPod", f"error killing pod: {error}")

    def _stopped(self, *, before: bool) -> None:
        """The pod may have begun to be deleted: nothing that failed, is pulled or waits may hold up its end."""
        if self._desired.deleted and not before:
            self._memory.failures.clear()
            for key in [key for key in self._tasks if key.startswith(("image/", "hook/"))]:
                self._tasks.pop(key).cancel()
        self._wake.set()

    def _deadline(self, now: datetime) -> datetime | None:
        """When activeDeadlineSeconds end; from then on the pod has failed."""
        seconds = self._desired.pod.spec.active_deadline_seconds
        begun = self._status.start_time
        over = self._desired.over or self._status.phase in ("Succeeded", "Failed")
        if seconds is None or begun is None or over:
            return None
        due = begun + timedelta(seconds=seconds)
        if due > now:
            return due
        self._desired = replace(self._desired, over=DEADLINE)
        self._actions.tell("Normal", DEADLINE[0], DEADLINE[1])
        return None

    async def _refresh_volumes(self) -> None:
        try:
            await self._rooms.volumes.refresh(self._desired.pod, self._rooms.view)
        except Exception:
            log.exception("pod %s: volumes could not be refreshed", self._desired.pod.metadata.name)
        finally:
            self._tasks.pop("refresh", None)
            self._wake.set()  # there may have been another change meanwhile

    # Probes.

    def _tend_probes(self) -> None:
        """A task for the probes of each running container, another while it is being ended; health for every one."""
        specs = {container.name: container for container in
                 (*self._desired.pod.spec.containers, *self._desired.pod.spec.init_containers)}
        observed = self._memory.observed(())
        wanted = set()
        for attempt in observed.running():
            container = specs.get(attempt.name)
            if container is None:
                continue
            if attempt.id not in self._memory.health:
                self._memory.health[attempt.id] = self._known_health(container, attempt.id)
            ending = self._desired.deleted or attempt.id in observed.killing
            if attempt.id not in observed.starting:
                wanted.add((attempt.id, ending))
                # An agent that has just begun looks the pod's address up: probes must not ask the node instead.
                if (attempt.id, ending) not in self._probes and observed.connections:
                    self._start_probes(container, attempt, ending=ending)
        for key in self._probes.keys() - wanted:
            self._probes.pop(key).cancel()

    def _start_probes(self, container: core_v1.Container, attempt: Attempt, *, ending: bool) -> None:
        def changed(health: Health) -> None:
            self._memory.health[attempt.id] = health
            self._wake.set()

        probes = ContainerProbes(
            self._actions.target(container, attempt.id), self._rooms.prober, self._rooms.clock,
            attempt.container.started_at, changed,
            lambda reason, text: self._actions.tell("Warning", reason, text, container.name),
            self._memory.health.get(attempt.id), ending=ending)
        self._probes[attempt.id, ending] = self._group.create_task(probes.run())

    def _known_health(self, container: core_v1.Container, container_id: str) -> Health:
        """For a container that ran before this agent: what was reported of it."""
        for status in (*self._status.container_statuses, *self._status.init_container_statuses):
            if status.name == container.name and status.container_id == f"docker://{container_id}":
                started = True if container.startup_probe is None or status.started else None
                ready = container.readiness_probe is None or status.ready
                return Health(alive=True, started=started, ready=ready)
        return initial_health(container)

    # Reports.

    def _is_echo(self, pod: core_v1.Pod) -> bool:
        """Whether the object's only news is a status that came from here."""
        old, new = self._desired.pod.metadata, pod.metadata
        return (pod.status in self._sent and pod.spec == self._desired.pod.spec
                and with_fields(new, resource_version=old.resource_version, managed_fields=old.managed_fields) == old)

    def _report(self, observed: Observed, now: datetime) -> None:
        """Send the status where it changed."""
        sandbox = observed.sandbox
        if sandbox and sandbox.state == "running" and self._status.pod_ip and sandbox.id not in observed.connections \
                and steps.SANDBOX not in observed.failures and not stopping(self._desired, observed):
            return  # this agent has just begun: the network is being looked up, what was reported still holds
        self._status = make_status(Situation(self._desired, observed, now, self._rooms.node, self._status))
        self._memory.over = self._status.phase in ("Succeeded", "Failed")
        self._tell_back_off(observed)
        if self._born is not None and self._status.phase != "Pending":
            if self._status.phase == "Running":
                self._rooms.metrics.running(self._rooms.clock.monotonic() - self._born)
            self._born = None
        if self._status == self._reported or self._desired.gone or self._desired.orphan:
            return
        self._reported = self._status
        self._sent.append(self._status)
        self._rooms.reports.pod_status(self._desired.pod, self._status)

    def _tell_terminated(self) -> None:
        self._rooms.reports.pod_terminated(self._desired.pod, self._status)

    def _tell_back_off(self, observed: Observed) -> None:
        """One event for each wait of a container that crashes."""
        meta = self._desired.pod.metadata
        for status in (*self._status.init_container_statuses, *self._status.container_statuses):
            waiting = status.state.waiting if status.state else None
            if waiting and waiting.reason == "CrashLoopBackOff" \
                    and self._backing_off.get(status.name) != status.restart_count:
                self._backing_off[status.name] = status.restart_count
                self._actions.tell("Warning", "BackOff", f"Back-off restarting failed container {status.name} in pod "
                                   f"{meta.name}_{meta.namespace}({meta.uid})", status.name)
