"""Does what the plan says: each step as calls to the engine, the network, volumes and cgroups, and as events.

An action changes the worker's memory by what it saw. It fails with StepFailed, or with a room's own error, which the
worker turns into a Failure; every action may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta

from agent.engine.protocol import Container, ContainerSpec, EngineError, EngineUnavailable, Mount, NotFound
from agent.images.puller import ImageFailure
from agent.pods import labels, steps
from agent.pods.containers import (
    ConfigFailure,
    Ingredients,
    check_non_root,
    container_spec,
    host_ports,
    needs_image_user,
    sandbox_spec,
    volume_mount,
)
from agent.pods.creation import create
from agent.pods.environment import EnvironmentFailure, make_environment, sub_path
from agent.pods.files import HostnameFailure
from agent.pods.hooks import POST_START_LIMIT, run_hook
from agent.pods.memory import Memory
from agent.pods.model import Connection, Desired
from agent.pods.observe import Observer
from agent.pods.resources import container_limits, pod_limits, qos_class
from agent.pods.rooms import Rooms
from agent.probes.protocol import ProbeTarget
from agent.volumes.protocol import PreparedVolume, VolumeError
from netplugin.protocol import NetworkError, Sandbox
from sampan.api.types import core_v1

MINIMUM_STOP = 2.0
"""Seconds that a container always gets between SIGTERM and SIGKILL, as upstream gives them."""


class StepFailed(Exception):
    """`reason` and the message stand in the container's status for `initial`·2ⁿ seconds, at most `maximum`."""

    def __init__(self, reason: str, message: str, *, initial: float = 10.0, maximum: float = 300.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.initial = initial
        self.maximum = maximum


class Actions:
    """The actions of one pod's worker. `desired` gives the pod as it is wanted now."""

    def __init__(self, rooms: Rooms, memory: Memory, observer: Observer, desired: Callable[[], Desired],
                 terminated: Callable[[], None]) -> None:
        self._rooms = rooms
        self._memory = memory
        self._observer = observer
        self._desired = desired
        self._terminated = terminated

    @property
    def _pod(self) -> core_v1.Pod:
        return self._desired().pod

    async def perform(self, step: steps.Action) -> None:  # noqa: C901 - one line for each step is the clearest table
        """Do one step to its end."""
        match step:
            case steps.CreateSandbox():
                await self._create_sandbox(step.attempt)
            case steps.ConnectSandbox():
                await self._connect_sandbox(step.id)
            case steps.StopSandbox():
                await self._stop_sandbox(step.id)
            case steps.PrepareVolumes():
                await self._prepare_volumes()
            case steps.TearDownVolumes():
                await self._tear_down_volumes()
            case steps.EnsureCgroup():
                await self._ensure_cgroup()
            case steps.RemoveCgroup():
                await self._rooms.cgroups.remove(self._pod.metadata.uid)
                self._memory.cgroup_ready = self._memory.cgroup_exists = False
            case steps.PullImage():
                await self._pull_image(step.name)
            case steps.CreateContainer():
                await self._create_container(step)
            case steps.StartContainer():
                await self._start_container(step.name, step.id)
            case steps.RunPostStart():
                await self._post_start(step.name, step.id)
            case steps.KillContainer():
                await self._kill(step)
            case steps.RemoveContainers():
                await self._remove(step.ids)
            case steps.ReportTerminated():
                self._terminated()
                self._memory.final_reported = True

    def tell(self, kind: str, reason: str, message: str, container: str = "") -> None:
        """An event of the pod or of one of its containers; nothing for a pod whose object was never seen."""
        if not self._desired().orphan:
            self._rooms.events.emit(self._pod, kind, reason, message, container)

    # The pod as a whole.

    async def _create_sandbox(self, attempt: int) -> None:
        if attempt:
            self.tell("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        rooms, pod = self._rooms, self._pod
        parent = rooms.cgroups.parent(pod.metadata.uid, qos_class(pod))
        try:
            async with rooms.slots:
                image = await rooms.infra_image(False)
                spec = sandbox_spec(pod, image, rooms.node.name, attempt, parent, rooms.oom_floor.value,
                                    rooms.dns.cluster_domain)
                try:
                    await create(rooms.engine, self._observer, self._memory, spec)
                except NotFound:
                    await rooms.infra_image(True)
                    await create(rooms.engine, self._observer, self._memory, spec)
        except (EngineError, HostnameFailure) as error:
            self._sandbox_failed(f'failed to create a sandbox for pod "{pod.metadata.name}": {error}')
            raise

    async def _connect_sandbox(self, sandbox_id: str) -> None:
        rooms, pod = self._rooms, self._pod
        box = self._memory.container(sandbox_id)
        try:
            if box is None or not box.running:
                box = await self._started(sandbox_id)
            if box is None or not box.running:
                raise StepFailed("CreatePodSandboxError", "the infra container ended at once", initial=1.0,
                                 maximum=30.0)
            ip = rooms.node.ip
            if not pod.spec.host_network:
                attachment = await rooms.network.attach(Sandbox(
                    box.id, box.pid, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid, host_ports(pod)))
                ip = attachment.ip
        except (EngineError, NetworkError) as error:
            self._sandbox_failed(f'failed to set up sandbox container "{sandbox_id}" network for pod '
                                 f'"{pod.metadata.name}": {error}')
            raise
        rooms.files.write_hosts(pod, ip, rooms.dns.cluster_domain)
        self._memory.volumes_exist = True
        self._memory.connections[sandbox_id] = Connection(ip, box.started_at)

    def _sandbox_failed(self, message: str) -> None:
        self.tell("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {message}")

    async def _stop_sandbox(self, sandbox_id: str) -> None:
        if not self._pod.spec.host_network:
            await self._rooms.network.detach(sandbox_id)
        self._memory.detach(sandbox_id)
        if (box := self._memory.container(sandbox_id)) and box.running:
            await self._rooms.engine.stop(sandbox_id, 0)
            await self._observer.look(sandbox_id)

    async def _prepare_volumes(self) -> None:
        rooms, pod = self._rooms, self._pod
        self._memory.volumes_exist = True
        try:
            volumes = await rooms.volumes.prepare(pod, rooms.view)
        except VolumeError as error:
            message = f'MountVolume.SetUp failed for volume "{error.volume}" : {error}'
            self.tell("Warning", "FailedMount", message)
            raise StepFailed("FailedMount", message, initial=0.5, maximum=122.0) from error
        ip = next((known.ip for known in self._memory.connections.values()), "")
        rooms.files.write(pod, ip, rooms.dns)
        self._memory.volumes = dict(volumes)

    async def _tear_down_volumes(self) -> None:
        uid = self._pod.metadata.uid
        self._memory.volumes = None
        self._rooms.files.remove(uid)
        await self._rooms.volumes.teardown(uid)
        self._memory.volumes_exist = False

    async def _ensure_cgroup(self) -> None:
        pod, rooms = self._pod, self._rooms
        self._memory.cgroup_exists = True
        try:
            await rooms.cgroups.ensure(pod.metadata.uid, qos_class(pod), pod_limits(pod, rooms.pod_pids_limit))
        except Exception as error:
            self.tell("Warning", "FailedCreatePodContainer", f"unable to ensure pod container exists: {error}")
            raise
        self._memory.cgroup_ready = True

    # One container.

    async def _pull_image(self, name: str) -> None:
        container = self._spec(name)
        try:
            image = await self._rooms.images.ensure(
                self._pod, container, lambda kind, reason, message: self.tell(kind, reason, message, name))
        except ImageFailure as error:
            raise StepFailed(error.reason, str(error), initial=error.retry, maximum=error.retry) from error
        if needs_image_user(self._pod, container):
            image = await self._rooms.images.local(image.id, fresh=True) or image
            self._memory.image_users[name] = image.user
            try:
                check_non_root(self._pod, container, image)
            except ConfigFailure as error:
                self.tell("Warning", "Failed", f"Error: {error}", name)
                raise StepFailed("CreateContainerConfigError", str(error)) from error
        self._memory.images.add(labels.container_hash(container))

    async def _create_container(self, step: steps.CreateContainer) -> None:
        container = self._spec(step.name)
        if labels.container_hash(container) not in self._memory.images:
            return  # its image has been changed since the step was chosen, and is to be pulled and checked first
        try:
            spec = await self._container_spec(container, step)
            async with self._rooms.slots:
                await create(self._rooms.engine, self._observer, self._memory, spec)
        except (EnvironmentFailure, ConfigFailure, VolumeError) as error:
            self.tell("Warning", "Failed", f"Error: {error}", step.name)
            raise StepFailed("CreateContainerConfigError", str(error)) from error
        except EngineUnavailable:
            raise
        except NotFound as error:
            self._rooms.images.forget(container.image or "")
            self._memory.images.discard(labels.container_hash(container))
            self.tell("Warning", "Failed", f"Error: {error}", step.name)
            raise StepFailed("CreateContainerError", str(error), initial=0.1) from error
        except EngineError as error:
            self.tell("Warning", "Failed", f"Error: {error}", step.name)
            raise StepFailed("CreateContainerError", str(error)) from error
        self._memory.images.discard(labels.container_hash(container))
        self.tell("Normal", "Created", f"Created container: {step.name}", step.name)

    async def _container_spec(self, container: core_v1.Container, step: steps.CreateContainer) -> ContainerSpec:
        rooms, pod, memory = self._rooms, self._pod, self._memory
        sandbox = memory.observed(()).sandbox
        if sandbox is None or memory.volumes is None:
            raise StepFailed("CreateContainerError", "the pod's sandbox is gone", initial=0.1)
        known = memory.connections.get(sandbox.id)
        environment = make_environment(pod, container, rooms.node, known.ip if known else "", rooms.view)
        message_file = rooms.files.new_message_file(pod, container.name)
        mounts = await self._mounts(container, environment, memory.volumes, message_file)
        if container_limits(pod, container, rooms.memory_capacity).oom_score_adj < rooms.oom_floor.value:
            self._tell_oom(container.name)
        return container_spec(pod, container, Ingredients(
            rooms.node.name, step.attempt, step.backoff, sandbox.id,
            rooms.cgroups.parent(pod.metadata.uid, qos_class(pod)), rooms.memory_capacity, environment, mounts,
            message_file, rooms.oom_floor.value, memory.image_users.get(container.name, "")))

    async def _mounts(self, container: core_v1.Container, variables: Mapping[str, str],
                      volumes: Mapping[str, PreparedVolume], message_file: str) -> list[Mount]:
        """The volumes' mounts, then the pod's own files where no volume stands in their place."""
        mounts = []
        for number, mount in enumerate(container.volume_mounts):
            volume = volumes.get(mount.name)
            if volume is None:
                raise ConfigFailure(f'volume "{mount.name}" is not known')
            path = sub_path(mount, variables)
            source = volume.path
            if path:
                source = await self._rooms.volumes.subpath(
                    self._pod.metadata.uid, f"{mount.name}/{container.name}/{number}", volume, path)
            mounts.append(volume_mount(mount, source, read_only=volume.read_only))
        connection = next(iter(self._memory.connections.values()), None)
        own = {**self._rooms.files.write(self._pod, connection.ip if connection else "", self._rooms.dns),
               container.termination_message_path or "/dev/termination-log": message_file}
        taken = {mount.target for mount in mounts}
        return mounts + [Mount(source, target) for target, source in own.items() if target not in taken]

    async def _start_container(self, name: str, container_id: str) -> None:
        container = self._spec(name)
        if container.lifecycle and container.lifecycle.post_start:
            self._memory.starting.add(container_id)  # before it runs: somebody else may be the first to see it run
        try:
            box = await self._started(container_id)
        except EngineUnavailable:
            raise
        except EngineError as error:
            await self._observer.look(container_id)
            message = f'failed to start container "{name}": {error}'
            self.tell("Warning", "Failed", f"Error: {message}", name)
            raise StepFailed("RunContainerError", message, initial=1.0, maximum=1.0) from error
        if box is not None:
            self.tell("Normal", "Started", f"Started container {name}", name)

    async def _post_start(self, name: str, container_id: str) -> None:
        container = self._spec(name)
        lifecycle = container.lifecycle
        error = ""
        if lifecycle and lifecycle.post_start:
            error = await run_hook(lifecycle.post_start, self.target(container, container_id), self._rooms.engine,
                                   self._rooms.http_hook, self._rooms.clock, POST_START_LIMIT)
        self._memory.starting.discard(container_id)
        if error:
            self._memory.hook_failed.add(container_id)
            self.tell("Warning", "FailedPostStartHook", "PostStartHook failed", name)

    async def _kill(self, step: steps.KillContainer) -> None:
        clock, memory = self._rooms.clock, self._memory
        begun = clock.monotonic()
        if step.id not in memory.told:
            memory.told.add(step.id)
            self.tell("Normal", "Killing", step.message, step.name)
        ends = memory.killing[step.id] = clock.now() + timedelta(seconds=step.grace)
        memory.starting.discard(step.id)
        if step.cause == "stopping":
            memory.stop_by = ends
        elif step.cause in ("liveness", "startup", "definition"):
            memory.replaced.add(step.id)
        container = next((entry for entry in (*self._pod.spec.containers, *self._pod.spec.init_containers)
                          if entry.name == step.name), None)
        hook = container.lifecycle.pre_stop if container and container.lifecycle else None
        if container and hook:
            error = await run_hook(hook, self.target(container, step.id), self._rooms.engine, self._rooms.http_hook,
                                   clock, step.grace)
            if error:
                self.tell("Warning", "FailedPreStopHook", "PreStopHook failed", step.name)
        left = max(MINIMUM_STOP, step.grace - (clock.monotonic() - begun))
        await self._rooms.engine.stop(step.id, left)
        if (box := memory.container(step.id)) and box.running:
            await self._observer.look(step.id)
        memory.killing.pop(step.id, None)

    async def _remove(self, ids: tuple[str, ...]) -> None:
        """Remove containers side by side; one that fails does not keep the others."""
        results = await asyncio.gather(*(self._rooms.engine.remove(entry) for entry in ids), return_exceptions=True)
        for container_id, result in zip(ids, results, strict=True):
            if not isinstance(result, BaseException) or isinstance(result, NotFound):
                self._memory.lose(container_id, self._observer.now())
        failures = [result for result in results if isinstance(result, BaseException)
                    and not isinstance(result, NotFound)]
        if failures:
            raise failures[0]

    # Tools.

    def target(self, container: core_v1.Container, container_id: str) -> ProbeTarget:
        """Whom a probe or hook speaks to."""
        connection = next(iter(self._memory.connections.values()), None)
        return ProbeTarget(self._pod, container, container_id, connection.ip if connection else self._rooms.node.ip)

    async def _started(self, container_id: str) -> Container | None:
        """Start a container and look at it, once: the engine's event of it needs no second look."""
        async with self._rooms.slots:
            with self._memory.attending(container_id):
                await self._engine_start(container_id)
                return await self._observer.look(container_id)

    async def _engine_start(self, container_id: str) -> None:
        """Start; where the kernel refuses a negative OOM score, make the container anew with one that it allows."""
        try:
            await self._rooms.engine.start(container_id)
        except EngineError as error:
            refused = "oom_score_adj" in str(error) and self._rooms.oom_floor.refuse_negative()
            if not refused:
                raise
            box = self._memory.container(container_id)
            self._tell_oom(box.labels.get(labels.CONTAINER_NAME, "") if box else "")
            await self._remove((container_id,))
            raise StepFailed("RunContainerError", str(error), initial=0.01, maximum=0.01) from error

    def _tell_oom(self, name: str) -> None:
        self.tell("Warning", "OOMScoreAdjusted",
                  "This node's kernel refuses negative OOM scores: the container runs with oom_score_adj 0.",
                  "" if name == labels.INFRA_NAME else name)

    def _spec(self, name: str) -> core_v1.Container:
        for container in (*self._pod.spec.containers, *self._pod.spec.init_containers):
            if container.name == name:
                return container
        raise StepFailed("CreateContainerError", f"container {name} is not part of the pod")
