"""Pod cgroups in the kernel's own file system, with a container of a real engine in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.cgroups.node import NodeCgroups
from agent.cgroups.protocol import CgroupError, PodLimits
from agent.cgroups.tree import find_hierarchies
from agent.engine.docker import DockerEngine
from agent.engine.protocol import ContainerSpec, Limits
from sampan import mounts
from tests.support.engine import IMAGE, EngineHandle, end_cgroup_tree

pytestmark = pytest.mark.docker

HIERARCHIES = find_hierarchies(mounts.read())
MIB = 1 << 20


@pytest.fixture
async def root() -> AsyncIterator[str]:
    name = f"/sampan-test-{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    for mount in HIERARCHIES.roots:
        end_cgroup_tree(mount / name.lstrip("/"))


@pytest.fixture
async def cgroups(root: str) -> NodeCgroups:
    made = NodeCgroups("cgroupfs", root=root, hierarchies=HIERARCHIES)
    await made.setup(PodLimits(cpu_shares=2048, memory=512 * MIB))
    return made


def value(controller: str, path: str, old: str, new: str) -> str:
    mount = HIERARCHIES.mounts["unified" if HIERARCHIES.version == 2 else controller]
    return (mount / path.lstrip("/") / (new if HIERARCHIES.version == 2 else old)).read_text().strip()


async def test_a_pod_s_limits(cgroups: NodeCgroups, root: str) -> None:
    limits = PodLimits(cpu_shares=512, cpu_quota=50_000, memory=64 * MIB, pids=50)
    await cgroups.ensure("a-1", "Burstable", limits)
    await cgroups.ensure("a-1", "Burstable", limits)
    await cgroups.ensure("b-2", "BestEffort", PodLimits())
    await cgroups.ensure("c-3", "Guaranteed", PodLimits(cpu_shares=1024, memory=32 * MIB))
    pod = cgroups.parent("a-1", "Burstable")
    assert pod == f"{root}/kubepods/burstable/poda-1"
    assert value("memory", pod, "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert value("pids", pod, "pids.max", "pids.max") == "50"
    if HIERARCHIES.version == 1:
        assert value("cpu", pod, "cpu.cfs_quota_us", "") == "50000"
        assert value("cpu", f"{root}/kubepods/burstable", "cpu.shares", "") == "512"
        assert value("cpu", f"{root}/kubepods/besteffort", "cpu.shares", "") == "2"
    assert await cgroups.live() == {"a-1", "b-2", "c-3"}
    assert await NodeCgroups("cgroupfs", root=root, hierarchies=HIERARCHIES).live() == {"a-1", "b-2", "c-3"}
    await cgroups.ensure("a-1", "Burstable", PodLimits(cpu_shares=256, memory=128 * MIB))
    assert value("memory", pod, "memory.limit_in_bytes", "memory.max") == str(128 * MIB)
    for uid in ("a-1", "b-2", "c-3", "nobody"):
        await cgroups.remove(uid)
    assert await cgroups.live() == set()
    await cgroups.teardown()
    assert not [mount for mount in HIERARCHIES.roots if (mount / root.lstrip("/") / "kubepods").exists()]


async def test_containers_live_inside_their_pod(cgroups: NodeCgroups, docker_engine: EngineHandle) -> None:
    engine = DockerEngine(docker_engine.docker_host)
    await cgroups.ensure("a-1", "Burstable", PodLimits(cpu_shares=512, memory=64 * MIB))
    parent = cgroups.parent("a-1", "Burstable")
    container_id = await engine.create(ContainerSpec("in-a-pod", IMAGE, command=["sleep", "1000"], cgroup_parent=parent,
                                                     limits=Limits(cpu_shares=256, memory=32 * MIB)))
    try:
        await engine.start(container_id)
        container = await engine.inspect(container_id)
        assert f"{parent}/{container_id}" in Path(f"/proc/{container.pid}/cgroup").read_text()
        with pytest.raises(CgroupError, match="processes are in it"):
            await cgroups.remove("a-1")
        assert await cgroups.live() == {"a-1"}
    finally:
        await engine.remove(container_id)
        await engine.close()
    await cgroups.remove("a-1")
    assert await cgroups.live() == set()
    with contextlib.suppress(CgroupError):
        await cgroups.teardown()


async def test_what_the_kernel_refuses_is_told(cgroups: NodeCgroups) -> None:
    with pytest.raises(CgroupError, match=r"memory\."):
        await cgroups.ensure("a-1", "Guaranteed", PodLimits(memory=-5))
