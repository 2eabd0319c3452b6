"""Pods on a real engine with real cgroups and files; the network and the master are fakes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cgroups.node import NodeCgroups
from agent.engine.docker import DockerEngine
from agent.engine.infra import REFERENCE, ensure_infra_image
from agent.images.puller import ImagePuller
from agent.pods.rooms import OomFloor, Rooms
from agent.volumes.host import HostVolumes
from agent.volumes.mounts import HostMounter
from sampan.api.resources import PODS
from sampan.api.types import core_v1
from sampan.loop.clock import SystemClock
from tests.support.engine import IMAGE, EngineHandle
from tests.support.pods import World, make_pod

pytestmark = pytest.mark.docker


class DockerWorld(World):
    """The fakes' world on a real engine, in real time."""

    def __init__(self, root: Path, host: str) -> None:
        super().__init__(root)
        self.docker = DockerEngine(host)
        self.real_clock = SystemClock()
        self.real_cgroups: NodeCgroups
        self.real_volumes = HostVolumes(root, HostMounter(), self.real_clock.now)
        self.node = f"node-{secrets.token_hex(3)}"

    def rooms(self) -> Rooms:
        async def infra(missing: bool) -> str:
            return await ensure_infra_image(self.docker) if missing else REFERENCE

        base = super().rooms()
        return replace(base, engine=self.docker, clock=self.real_clock, cgroups=self.real_cgroups,
                       volumes=self.real_volumes, images=ImagePuller(self.docker, self.view, self.real_clock),
                       infra_image=infra, oom_floor=OomFloor(0), node=replace(base.node, name=self.node))

    def pod(self, name: str, command: list[str], **spec: object) -> core_v1.Pod:
        container = {"name": "app", "image": IMAGE, "command": command, "imagePullPolicy": "IfNotPresent"}
        return make_pod(name, f"{name}-{secrets.token_hex(4)}", **{
            "nodeName": self.node, "terminationGracePeriodSeconds": 1, "containers": [container], **spec})

    async def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.005)

    def phase(self, pod: core_v1.Pod) -> str:
        status = self.reports.statuses.get(pod.metadata.uid)
        return status.phase or "" if status else ""

    def ready(self, pod: core_v1.Pod) -> bool:
        status = self.reports.statuses.get(pod.metadata.uid)
        return status is not None and any(entry.type == "Ready" and entry.status == "True"
                                          for entry in status.conditions)


@pytest.fixture
async def world(docker_engine: EngineHandle, tmp_path: Path) -> AsyncIterator[DockerWorld]:
    made = DockerWorld(tmp_path, docker_engine.docker_host)
    info = await made.docker.info()
    made.real_cgroups = NodeCgroups(info.cgroup_driver, root=f"/sampan-test-{secrets.token_hex(3)}")
    await ensure_infra_image(made.docker)
    await made.begin()
    yield made
    for box in await made.docker.list({"sampan.node": made.node}):
        await made.docker.remove(box.id)
    for uid in await made.real_cgroups.live():
        await made.real_cgroups.remove(uid)
    await made.real_cgroups.teardown()
    made.real_volumes.close()
    await made.docker.close()


async def boxes(world: DockerWorld) -> list[str]:
    return sorted(box.name for box in await world.docker.list({"sampan.node": world.node}))


async def test_a_life(world: DockerWorld) -> None:
    pod = world.pod("life", ["sleep", "1000"], volumes=[{"name": "scratch", "emptyDir": {}}], containers=[{
        "name": "app", "image": IMAGE, "command": ["sh", "-c", "echo $NAME > /scratch/name; exec sleep 1000"],
        "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}])
    async with world.agent():
        world.create(pod)
        await world.until(lambda: world.ready(pod))
        status = world.status(pod)
        found = await world.docker.list({"io.kubernetes.pod.uid": pod.metadata.uid,
                                         "io.kubernetes.docker.type": "container"})
        shown = await world.docker.run(found[0].id, ["cat", "/scratch/name", "/etc/hosts", "/etc/resolv.conf"], 10)
        assert shown.output.decode().startswith(f"{status.pod_ip}\n# Kubernetes-managed hosts file.")
        assert f"{status.pod_ip}\tlife" in shown.output.decode()
        assert status.qos_class == "Guaranteed"
        assert status.container_statuses[0].image_id.startswith("docker")
        world.delete(pod, grace=1)
        await world.until(lambda: pod.metadata.uid in world.reports.terminated)
        assert await boxes(world) == []
        assert not list(world.root.glob("pods/*"))
        assert not await world.real_cgroups.live()


async def test_a_crash_and_its_message(world: DockerWorld) -> None:
    pod = world.pod("crash", ["sh", "-c", "echo -n sorry > /dev/termination-log; exit 3"])
    async with world.agent():
        world.create(pod)

        def backing_off() -> bool:
            status = world.reports.statuses.get(pod.metadata.uid)
            state = status.container_statuses[0].state if status else None
            return bool(state and state.waiting and state.waiting.reason == "CrashLoopBackOff")

        await world.until(backing_off)
        last = world.status(pod).container_statuses[0].last_state
        assert last is not None
        assert last.terminated is not None
        assert (last.terminated.exit_code, last.terminated.reason, last.terminated.message) == (3, "Error", "sorry")


async def test_a_command_that_does_not_exist(world: DockerWorld) -> None:
    pod = world.pod("bad", ["/no/such/thing"], restartPolicy="Never")
    async with world.agent():
        world.create(pod)
        await world.until(lambda: world.phase(pod) == "Failed")
        state = world.status(pod).container_statuses[0].state
        assert state is not None
        assert state.terminated is not None
        assert state.terminated.reason == "ContainerCannotRun"
        assert "/no/such/thing" in (state.terminated.message or "")


async def test_the_infra_container_is_killed(world: DockerWorld) -> None:
    pod = world.pod("infra", ["sleep", "1000"])
    async with world.agent():
        world.create(pod)
        await world.until(lambda: world.ready(pod))
        sandbox = await world.docker.list({"io.kubernetes.pod.uid": pod.metadata.uid,
                                           "io.kubernetes.docker.type": "podsandbox"})
        await world.docker.kill(sandbox[0].id)
        await world.until(lambda: world.ready(pod) and world.status(pod).container_statuses[0].restart_count == 1)
        async with asyncio.timeout(60):  # the old one is taken away meanwhile
            while [name for name in await boxes(world) if "POD" in name] != [
                    f"k8s_POD_infra_default_{pod.metadata.uid}_1"]:
                await asyncio.sleep(0.05)


async def test_the_agent_is_replaced(world: DockerWorld) -> None:
    pod = world.pod("stay", ["sleep", "1000"])
    async with world.agent():
        world.create(pod)
        await world.until(lambda: world.ready(pod))
        before, there = world.status(pod), await boxes(world)
    world.reports.history.clear()
    async with world.agent():
        await world.until(lambda: bool(world.reports.history))
        assert world.reports.history == [before]
        assert await boxes(world) == there
    world.view.delete(PODS, pod)
    world.view.confirm()
    async with world.agent():
        async with asyncio.timeout(60):
            while await boxes(world):
                await asyncio.sleep(0.1)
