"""What to do next for a pod: a pure function of what is wanted, what is there, and the time.

The order of a pod's life: volumes, cgroup and infra container (together) → network → init containers, one after the
other → app containers, all together → restarts → stop → removal. The worker calls `next_step` again after every step
and every event; steps whose keys are busy are left alone. Upstream's counterpart is the kubelet's computePodActions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent.pods import steps
from agent.pods.backoff import MAXIMUM, next_backoff, restart_at
from agent.pods.environment import needs_address
from agent.pods.labels import container_hash
from agent.pods.model import Attempt, Desired, Health, Observed, is_sidecar
from sampan.api.types import core_v1

MINIMUM_GRACE = 1.0
KEEP_DEAD = 1
"""Ended containers kept per app container beside the newest, for `kubectl logs --previous`."""


def next_step(desired: Desired, observed: Observed, now: datetime) -> steps.Step:
    """The one next step; Wait when there is none now, Finish when nothing will ever come."""
    plan = _Plan(desired, observed, now)
    step = plan.stop() if stopping(desired, observed) else plan.run()
    return step or steps.Wait(plan.wake)


def stopping(desired: Desired, observed: Observed) -> bool:
    """Whether all of the pod's containers are to end and stay so."""
    return desired.deleted or desired.over is not None or completed(desired, observed)


def completed(desired: Desired, observed: Observed) -> bool:
    """Whether the pod has run its course: every app container has ended and none is to run again."""
    if observed.over or desired.pod.status.phase in ("Succeeded", "Failed"):
        return True
    if desired.restart_policy == "Always" or not observed.containers:
        return False
    if desired.restart_policy == "Never" and _init_failed(desired, observed):
        return True
    for container in desired.pod.spec.containers:
        attempts = observed.attempts(container.name)
        if not attempts or attempts[0].state != "exited" or restarts(desired, observed, attempts[0]):
            return False
    return True


def grace_period(desired: Desired) -> float:
    """Seconds between the request to end and SIGKILL; at least one, so that `--grace-period=0` is no surprise."""
    if desired.orphan:
        return MINIMUM_GRACE
    meta, spec = desired.pod.metadata, desired.pod.spec
    given = meta.deletion_grace_period_seconds
    wanted = spec.termination_grace_period_seconds if given is None else given
    return max(MINIMUM_GRACE, float(30 if wanted is None else wanted))


def initialized(desired: Desired, observed: Observed) -> bool:
    """Whether init containers are behind us in the present sandbox."""
    if not desired.pod.spec.init_containers:
        return True
    sandbox = observed.sandbox
    if sandbox is None:
        return False
    names = {container.name for container in desired.pod.spec.containers}
    if any(attempt.name in names and attempt.sandbox_id == sandbox.id and attempt.state != "created"
           for attempt in observed.containers):
        return True
    return all(_init_done(container, observed, sandbox) for container in desired.pod.spec.init_containers)


def _init_done(container: core_v1.Container, observed: Observed, sandbox: Attempt) -> bool:
    latest = _latest_in(observed, container.name, sandbox)
    if latest is None:
        return False
    if is_sidecar(container):
        return latest.state == "running" and observed.health.get(latest.id, Health(started=None)).started is True
    return latest.state == "exited" and latest.container.exit_code == 0 and not latest.failed_to_start


def _init_failed(desired: Desired, observed: Observed) -> bool:
    for container in desired.pod.spec.init_containers:
        latest = observed.attempts(container.name)[:1]
        failed = latest and latest[0].state == "exited" and latest[0].container.exit_code != 0
        if failed and not is_sidecar(container):
            return True
    return False


def _latest_in(observed: Observed, name: str, sandbox: Attempt) -> Attempt | None:
    return next((attempt for attempt in observed.attempts(name) if attempt.sandbox_id == sandbox.id), None)


def restarts(desired: Desired, observed: Observed, ended: Attempt) -> bool:
    """Whether the restart policy wants another container after this one. Ended by a probe, it has failed anyway."""
    if desired.restart_policy == "Always":
        return True
    return desired.restart_policy == "OnFailure" and (ended.container.exit_code != 0 or ended.id in observed.replaced)


def sandbox_usable(observed: Observed) -> bool:
    """Whether the newest infra container can (still) carry containers: it was not ended, nor started anew."""
    sandbox = observed.sandbox
    if sandbox is None or sandbox.state == "exited" or sandbox.id in observed.detached:
        return False
    connection = observed.connections.get(sandbox.id)
    if connection and sandbox.state == "running" \
            and connection.sandbox_started_at != sandbox.container.started_at:
        return False
    return not any(attempt.sandbox_id == sandbox.id and _older(attempt, sandbox) for attempt in observed.running())


def _older(attempt: Attempt, sandbox: Attempt) -> bool:
    """Whether a container was started before its sandbox was, so that it is not in there; not by a clock set back."""
    first, made, begun = sandbox.container.created_at, attempt.container.created_at, attempt.container.started_at
    set_back = first and made and made < first
    return bool(begun and sandbox.container.started_at and begun < sandbox.container.started_at and not set_back)


def sandbox_ready(observed: Observed) -> bool:
    """Whether containers can be started in it: it runs and is connected."""
    sandbox = observed.sandbox
    return (sandbox is not None and sandbox.state == "running" and sandbox.id in observed.connections
            and sandbox_usable(observed))


def _has_run(status: core_v1.ContainerStatus) -> bool:
    """Whether the container that was reported was started; one that waits in a sandbox which never came was not."""
    waiting = status.state.waiting if status.state else None
    return waiting is None or waiting.reason not in ("ContainerCreating", "PodInitializing")


class _Plan:
    """One look at one pod. `wake` becomes the earliest time at which the answer may change by itself."""

    def __init__(self, desired: Desired, observed: Observed, now: datetime) -> None:
        self.desired = desired
        self.observed = observed
        self.now = now
        self.pod = desired.pod
        self.wake: datetime | None = None

    # What is wanted is a running pod.

    def run(self) -> steps.Step | None:
        """Towards running containers."""
        observed = self.observed
        if observed.sandbox and not sandbox_usable(observed):
            return self._replace_sandbox(observed.sandbox)
        return (self._strays() or self._lost_sandboxes() or self._foundation() or self._init_containers()
                or self._app_containers() or self._tidy())

    def _strays(self) -> steps.Step | None:
        """End what must not run: a second attempt of a container, one of another sandbox, one of no known name."""
        sandbox = self.observed.sandbox
        known = {container.name for container in (*self.pod.spec.init_containers, *self.pod.spec.containers)}
        seen: set[str] = set()
        for attempt in self.observed.running():
            wrong = sandbox is None or attempt.sandbox_id != sandbox.id
            if (wrong or attempt.name in seen or attempt.name not in known) \
                    and (step := self._kill(attempt, "stray", f"Stopping container {attempt.name}")):
                return step
            seen.add(attempt.name)
        return None

    def _lost_sandboxes(self) -> steps.Step | None:
        """Release the network of infra containers that somebody removed."""
        for lost in sorted(self.observed.lost):
            if step := self._offer(steps.StopSandbox(lost)):
                return step
        return None

    def _replace_sandbox(self, dead: Attempt) -> steps.Step | None:
        """The infra container died or was started anew: end what is left in it, then make another."""
        for attempt in self.observed.running():
            if step := self._kill(attempt, "sandbox", "Pod sandbox changed, it will be killed and re-created."):
                return step
        if self.observed.running():
            return None
        if dead.state != "exited" or dead.id not in self.observed.detached:
            return self._offer(steps.StopSandbox(dead.id))
        if dead.failed_to_start:  # it never was a sandbox: tried again, not replaced, and not kept
            return self._offer(steps.RemoveContainers((dead.id,)))
        return self._offer(steps.CreateSandbox(dead.number + 1))

    def _foundation(self) -> steps.Step | None:
        """Infra container, cgroup and volumes, side by side; the network once the infra container is there."""
        sandbox = self.observed.sandbox
        if sandbox is None and (step := self._offer(steps.CreateSandbox(0))):
            return step
        if sandbox and sandbox.id not in self.observed.connections \
                and (step := self._offer(steps.ConnectSandbox(sandbox.id))):
            return step
        if not self.observed.cgroup_ready and (step := self._offer(steps.EnsureCgroup())):
            return step
        return None if self.observed.volumes_ready else self._offer(steps.PrepareVolumes())

    def _init_containers(self) -> steps.Step | None:
        """The next init container; sidecars that ended are started again at any time."""
        sandbox = self.observed.sandbox
        done = initialized(self.desired, self.observed)
        for container in self.pod.spec.init_containers:
            if done and not is_sidecar(container):
                continue
            if step := self._container(container, always=is_sidecar(container)):
                return step
            if not done and (sandbox is None or not _init_done(container, self.observed, sandbox)):
                return None
        return None

    def _app_containers(self) -> steps.Step | None:
        if not initialized(self.desired, self.observed):
            return None
        for container in self.pod.spec.containers:
            if step := self._container(container):
                return step
        return None

    def _container(self, container: core_v1.Container, *, always: bool = False) -> steps.Step | None:
        """What one container needs now."""
        sandbox = self.observed.sandbox
        attempts = self.observed.attempts(container.name)
        latest = attempts[0] if attempts else None
        if latest and latest.state == "running":
            return self._running(container, latest, always=always)
        if latest and latest.state == "created":
            return self._created(container, latest)
        if latest and not always and not self._runs_again(container, latest):
            return None
        wanted = container_hash(container)
        if latest and self._later(restart_at(latest, wanted)):
            return None
        if wanted not in self.observed.images:
            return self._offer(steps.PullImage(container.name))
        if sandbox is None or not self.observed.volumes_ready or steps.image_key(container.name) in self.observed.busy:
            return None
        if needs_address(container) and not sandbox_ready(self.observed):
            return None
        return self._offer(steps.CreateContainer(container.name, self._next_number(container.name, latest),
                                                 next_backoff(latest, wanted)))

    def _runs_again(self, container: core_v1.Container, ended: Attempt) -> bool:
        """Whether a container that has ended is followed by another; in a new sandbox init begins anew."""
        if container not in self.pod.spec.init_containers:
            return restarts(self.desired, self.observed, ended)
        if self.observed.sandbox and ended.sandbox_id != self.observed.sandbox.id:
            return True
        return self.desired.restart_policy != "Never" and ended.container.exit_code != 0

    def _running(self, container: core_v1.Container, attempt: Attempt, *, always: bool) -> steps.Step | None:
        health = self.observed.health.get(attempt.id, Health())
        again = ", will be restarted" if always or self.desired.restart_policy != "Never" else ""
        if attempt.hash != container_hash(container):
            return self._kill(attempt, "definition", f"Container {container.name} definition changed{again}")
        if not health.alive:
            return self._kill(attempt, "liveness", f"Container {container.name} failed liveness probe{again}")
        if health.started is False:
            return self._kill(attempt, "startup", f"Container {container.name} failed startup probe{again}")
        if attempt.id in self.observed.hook_failed:
            return self._kill(attempt, "hook", "FailedPostStartHook")
        if attempt.id in self.observed.starting:
            return self._offer(steps.RunPostStart(container.name, attempt.id))
        return None

    def _created(self, container: core_v1.Container, attempt: Attempt) -> steps.Step | None:
        """A container that waits for its start; one that was made for something else goes."""
        sandbox = self.observed.sandbox
        if sandbox is None or attempt.sandbox_id != sandbox.id or attempt.hash != container_hash(container):
            if steps.container_key(container.name) in self.observed.busy:
                return None
            return self._offer(steps.RemoveContainers((attempt.id,)))
        if not sandbox_ready(self.observed) or not self.observed.volumes_ready \
                or not self.observed.cgroup_ready:
            return None
        return self._offer(steps.StartContainer(container.name, attempt.id))

    def _next_number(self, name: str, latest: Attempt | None) -> int:
        """The next restart count; where the engine lost all containers, the reported status remembers."""
        if latest:
            return latest.number + 1
        status = self.pod.status
        for known in (*status.container_statuses, *status.init_container_statuses):
            if known.name == name and known.container_id:
                return known.restart_count + (1 if _has_run(known) else 0)
        return 0

    def _tidy(self) -> steps.Step | None:
        """Remove what nobody looks at any more: old infra containers, and all but one dead container of a name."""
        if not sandbox_ready(self.observed):
            return None
        for old in self.observed.sandboxes[1:]:
            if old.id not in self.observed.detached or old.state == "running":
                return self._offer(steps.StopSandbox(old.id))
        surplus = [old.id for old in self.observed.sandboxes[1:]]
        for name in {attempt.name for attempt in self.observed.containers}:
            older = [attempt for attempt in self.observed.attempts(name)[1 + KEEP_DEAD:] if attempt.state != "running"]
            surplus += [attempt.id for attempt in older]
        return self._offer(steps.RemoveContainers(tuple(sorted(surplus)))) if surplus else None

    # What is wanted is an end.

    def stop(self) -> steps.Step | None:
        """Towards nothing: containers, then the network, then, for a deleted pod, everything else."""
        if self.observed.running():
            return self._stop_containers()
        if self._starting_something():
            return None
        if step := self._stop_sandboxes():
            return step
        if any(key.startswith("kill/") or key == steps.SANDBOX for key in self.observed.busy):
            return None
        left = tuple(attempt.id for attempt in (*self.observed.containers, *self.observed.sandboxes)
                     if attempt.container.status != "dead" or self.desired.orphan)  # the object need not wait for those
        if self.desired.deleted and left:
            return self._offer(steps.RemoveContainers(left))
        if steps.REMOVE in self.observed.busy:
            return None
        if self.observed.volumes_exist and (step := self._offer(steps.TearDownVolumes())):
            return step
        if self.observed.cgroup_exists and (step := self._offer(steps.RemoveCgroup())):
            return step
        if self.observed.volumes_exist or self.observed.cgroup_exists or not self.desired.deleted:
            return None
        if self.desired.gone or self.desired.orphan:
            return steps.Finish()
        return None if self.observed.final_reported else self._offer(steps.ReportTerminated())

    def _starting_something(self) -> bool:
        """Whether a start is under way that may yet bring a process to life."""
        return any(key.startswith("container/") or key in (steps.SANDBOX, steps.VOLUMES, steps.CGROUP)
                   for key in self.observed.busy)

    def _stop_containers(self) -> steps.Step | None:
        """App containers together; then sidecars, last started first (KEP-753)."""
        sidecars = [container.name for container in self.pod.spec.init_containers if is_sidecar(container)]
        running = self.observed.running()
        first: Sequence[Attempt] = [attempt for attempt in running if attempt.name not in sidecars]
        if not first:
            first = sorted(running, key=lambda attempt: sidecars.index(attempt.name))[-1:]
        for attempt in first:
            if step := self._kill(attempt, "stopping", f"Stopping container {attempt.name}"):
                return step
        return None

    def _stop_sandboxes(self) -> steps.Step | None:
        if step := self._lost_sandboxes():
            return step
        for sandbox in self.observed.sandboxes:
            done = sandbox.state != "running" and sandbox.id in self.observed.detached
            if not done and (step := self._offer(steps.StopSandbox(sandbox.id))):
                return step
        if self.observed.lost or any(sandbox.state == "running" or sandbox.id not in self.observed.detached
                                     for sandbox in self.observed.sandboxes):
            return steps.Wait(self.wake)
        return None

    # What every step is subject to.

    def _kill(self, attempt: Attempt, cause: steps.KillCause, message: str) -> steps.Step | None:
        """End a container, or give one that is being ended less time than it was given."""
        grace = self._grace(attempt, cause)
        latest = self.observed.killing.get(attempt.id)
        step = steps.KillContainer(attempt.name, attempt.id, grace, cause, message)
        if latest is None:
            return self._offer(step)
        sooner = latest - self.now > timedelta(seconds=grace + 0.5)
        return step if sooner and cause == "stopping" else None

    def _grace(self, attempt: Attempt, cause: steps.KillCause) -> float:
        """A probe may bring its own grace period; a sidecar has what the others have left of the pod's."""
        grace = grace_period(self.desired)
        for container in (*self.pod.spec.containers, *self.pod.spec.init_containers):
            if container.name != attempt.name:
                continue
            probe = {"liveness": container.liveness_probe, "startup": container.startup_probe}.get(cause)
            if probe and probe.termination_grace_period_seconds is not None:
                grace = float(probe.termination_grace_period_seconds)
            elif cause == "stopping" and is_sidecar(container) and self.observed.stop_by:
                grace = min(grace, (self.observed.stop_by - self.now).total_seconds())
        return max(MINIMUM_GRACE, grace)

    def _offer(self, step: steps.Action) -> steps.Action | None:
        """The step, unless its key is busy or it waits out a failure."""
        if step.key in self.observed.busy:
            return None
        failure = self.observed.failures.get(step.key)
        if failure and self._later(failure.retry_at):
            return None
        return step

    def _later(self, when: datetime | None) -> bool:
        """Whether that is still to come; then the pod is looked at again at that time.

        No wait is longer than MAXIMUM: one that seems to be comes of a clock that was set back.
        """
        if when is None or when <= self.now or when - self.now > timedelta(seconds=2 * MAXIMUM):
            return False
        self.wake = when if self.wake is None else min(self.wake, when)
        return True
