"""The node's pod cgroups, with the driver that Docker uses."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Literal

from agent.cgroups import names, tree
from agent.cgroups.protocol import CgroupError, PodLimits, QosClass
from agent.cgroups.systemd import Run, busctl, set_slice, stop_slice
from agent.cgroups.tree import Hierarchies, find_hierarchies
from agent.cgroups.values import properties, settings
from sampan import mounts

Driver = Literal["cgroupfs", "systemd"]


class NodeCgroups:
    """One cgroup per pod below its QoS class. `driver` is what `docker info` says: the two must agree."""

    def __init__(self, driver: Driver, *, root: str = "/", hierarchies: Hierarchies | None = None,
                 run: Run = busctl) -> None:
        """`root` is the cgroup below which all of the node's pods live; `run` calls systemd."""
        self._driver = driver
        self._root = root
        self._hierarchies = hierarchies or find_hierarchies(mounts.read())
        self._run = run
        self._applied: dict[str, PodLimits] = {}
        self._burstable: dict[str, int] = {}
        self._lock = asyncio.Lock()

    def parent(self, uid: str, qos: QosClass) -> str:
        """As Docker's `cgroup_parent` wants it: a path, or with systemd only the slice's own name."""
        parts = names.pod_parts(self._root, qos, uid)
        return names.slice_name(parts) if self._driver == "systemd" else names.path(parts)

    async def setup(self, node: PodLimits) -> None:
        """Set what all pods together may use, and make the classes: best-effort pods get what others leave."""
        async with self._lock:
            await self._set(names.class_parts(self._root, "Guaranteed"), node)
            for qos in ("Burstable", "BestEffort"):
                await self._set_class(qos)

    async def ensure(self, uid: str, qos: QosClass, limits: PodLimits) -> None:
        """A Burstable pod's shares count in its class too, as upstream has it: the class gets the sum."""
        async with self._lock:
            if qos == "Burstable" and self._burstable.get(uid) != limits.cpu_shares:
                self._burstable[uid] = limits.cpu_shares
                await self._set_class(qos)
            elif qos != "Guaranteed":
                await self._set_class(qos)
            await self._set(names.pod_parts(self._root, qos, uid), limits)

    async def remove(self, uid: str) -> None:
        """In whichever class it is; one that is gone is fine."""
        async with self._lock:
            for qos in names.QOS_CLASSES:
                await self._remove(names.pod_parts(self._root, qos, uid))
            if self._burstable.pop(uid, None) is not None:
                await self._set_class("Burstable")

    async def live(self) -> Collection[str]:
        """From the folders: also those of pods that an earlier agent made."""
        found = set()
        for qos in names.QOS_CLASSES:
            path = self._path(names.class_parts(self._root, qos))
            for folder in await asyncio.to_thread(tree.children, self._hierarchies, path):
                uid = names.uid_of(folder)
                if uid is not None:
                    found.add(uid)
        return found

    async def teardown(self) -> None:
        """Take the classes away too, once no pod is left."""
        async with self._lock:
            for qos in ("BestEffort", "Burstable", "Guaranteed"):
                await self._remove(names.class_parts(self._root, qos))

    async def _set_class(self, qos: QosClass) -> None:
        shares = max(2, sum(self._burstable.values())) if qos == "Burstable" else 2
        await self._set(names.class_parts(self._root, qos), PodLimits(cpu_shares=min(262_144, shares)))

    async def _set(self, parts: list[str], limits: PodLimits) -> None:
        """With systemd only what changed is told: each call is a process and a message."""
        if self._driver == "cgroupfs":
            wanted = settings(limits, self._hierarchies.version)
            await asyncio.to_thread(tree.make, self._hierarchies, self._path(parts), wanted)
            return
        path = self._path(parts)
        there = await asyncio.to_thread(tree.exists, self._hierarchies, path)
        if not there or self._applied.get(path) != limits:
            self._applied.pop(path, None)  # a call that fails may have been obeyed
            await set_slice(names.slice_name(parts), properties(limits, self._hierarchies.version), self._run)
            self._applied[path] = limits

    async def _remove(self, parts: list[str]) -> None:
        path = self._path(parts)
        self._applied.pop(path, None)
        if not await asyncio.to_thread(tree.exists, self._hierarchies, path):
            return
        if self._driver == "systemd":
            # Stopping a slice would end what is in it, and that is not for this room to decide.
            if await asyncio.to_thread(tree.occupied, self._hierarchies, path):
                raise CgroupError(f"cgroup {path}: processes are in it")
            await stop_slice(names.slice_name(parts), self._run)
        await asyncio.to_thread(tree.remove, self._hierarchies, path)

    def _path(self, parts: list[str]) -> str:
        return names.slice_path(parts) if self._driver == "systemd" else names.path(parts)
