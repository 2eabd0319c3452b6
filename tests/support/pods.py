"""Pods' rooms with fakes all around, and short ways to write pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from agent.cgroups.fake import FakeCgroups
from agent.engine.fake import FakeEngine
from agent.images.puller import ImagePuller
from agent.pods.environment import NodeFacts
from agent.pods.events import PodEvents
from agent.pods.files import PodFiles
from agent.pods.manager import PodManager
from agent.pods.rooms import Rooms
from agent.probes.fake import FakeHttpHook, FakeProber
from agent.volumes.fake import FakeVolumes
from netplugin.fake import FakeNetwork
from sampan.api import resources
from sampan.api.codec import from_tree
from sampan.api.resources import Object, Resource
from sampan.api.times import Time
from sampan.api.types import coordination_v1, core_v1
from sampan.loop.clock import FakeClock

T = TypeVar("T", bound=Object)
NODE = "node-1"
PAUSE = "sampan/pause:1"


class FakeView:
    """A ClusterView that a test fills."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[tuple[str, str], Any]] = {}
        self._handlers: dict[tuple[str, str], list[Callable[[Any, Any], None]]] = {}
        self._synced = asyncio.Event()

    @property
    def authoritative(self) -> bool:
        return self._synced.is_set()

    def confirm(self) -> None:
        self._synced.set()

    async def loaded(self) -> None:
        return

    async def synced(self) -> None:
        await self._synced.wait()

    def get(self, resource: Resource[T], name: str, namespace: str = "") -> T | None:
        found: T | None = self.objects.get(resource.key, {}).get((namespace, name))
        return found

    def list(self, resource: Resource[T]) -> Sequence[T]:
        return list(self.objects.get(resource.key, {}).values())

    def subscribe(self, resource: Resource[T], handler: Callable[[T | None, T | None], None]) -> None:
        self._handlers.setdefault(resource.key, []).append(handler)

    def put(self, resource: Resource[T], obj: T) -> None:
        table = self.objects.setdefault(resource.key, {})
        key = (obj.metadata.namespace, obj.metadata.name)
        old = table.get(key)
        table[key] = obj
        self._tell(resource, old, obj)

    def delete(self, resource: Resource[T], obj: T) -> None:
        old = self.objects.get(resource.key, {}).pop((obj.metadata.namespace, obj.metadata.name), None)
        if old is not None:
            self._tell(resource, old, None)

    def _tell(self, resource: Resource[Any], old: Any, new: Any) -> None:
        for handler in self._handlers.get(resource.key, []):
            handler(old, new)


@dataclass
class FakeReports:
    """What was said to the master; statuses go into the view's object, as the master would send them back."""

    view: FakeView
    statuses: dict[str, core_v1.PodStatus] = field(default_factory=dict)
    history: list[core_v1.PodStatus] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    events: list[core_v1.Event] = field(default_factory=list)

    def pod_status(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None:
        self.statuses[pod.metadata.uid] = status
        self.history.append(status)
        known = self.view.get(resources.PODS, pod.metadata.name, pod.metadata.namespace)
        if known is not None and known.metadata.uid == pod.metadata.uid:
            self.view.objects[resources.PODS.key][pod.metadata.namespace, pod.metadata.name] = replace(
                known, status=status)

    def pod_terminated(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None:
        self.statuses[pod.metadata.uid] = status
        self.terminated.append(pod.metadata.uid)
        self.view.delete(resources.PODS, pod)

    def node(self, node: core_v1.Node) -> None:
        return

    def lease(self, lease: coordination_v1.Lease) -> None:
        return

    def event(self, event: core_v1.Event) -> None:
        self.events.append(event)

    def reasons(self) -> list[str]:
        return [event.reason or "" for event in self.events]

    def messages(self, reason: str) -> list[str]:
        return [event.message or "" for event in self.events if event.reason == reason]


class World:
    """A node of fakes: engine, network, volumes, cgroups, master; and a manager that can be killed and started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock()
        self.engine = FakeEngine(self.clock, images=[PAUSE, "app:1", "app:2"])
        self.network = FakeNetwork()
        self.volumes = FakeVolumes()
        self.cgroups = FakeCgroups()
        self.prober = FakeProber()
        self.hooks = FakeHttpHook()
        self.view = FakeView()
        self.reports = FakeReports(self.view)
        self.manager: PodManager

    async def begin(self) -> None:
        await self.network.setup("10.244.1.0/24")

    def rooms(self) -> Rooms:
        async def infra(missing: bool) -> str:
            if missing:
                self.engine.add_image(PAUSE, command=["pause"])
            return PAUSE

        node = NodeFacts(NODE, "192.0.2.10", {"cpu": "4", "memory": "8Gi"})
        return Rooms(node=node, engine=self.engine, network=self.network, volumes=self.volumes, cgroups=self.cgroups,
                     prober=self.prober, http_hook=self.hooks,
                     images=ImagePuller(self.engine, self.view, self.clock), view=self.view, reports=self.reports,
                     events=PodEvents(self.reports, NODE, self.clock), files=PodFiles(self.root / "pods"),
                     clock=self.clock, infra_image=infra, memory_capacity=8 << 30)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[PodManager]:
        """A running agent; leaving the block kills it and leaves the containers."""
        self.manager = PodManager(self.rooms())
        task = asyncio.get_running_loop().create_task(self.manager.run())
        try:
            await self.settle()
            yield self.manager
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settle(self) -> None:
        for _ in range(10):
            await FakeClock.settle(30)

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.settle()

    def create(self, pod: core_v1.Pod) -> core_v1.Pod:
        self.view.put(resources.PODS, pod)
        return pod

    def delete(self, pod: core_v1.Pod, grace: int = 30) -> None:
        now = self.view.get(resources.PODS, pod.metadata.name, pod.metadata.namespace)
        assert now is not None
        meta = replace(now.metadata, deletion_timestamp=Time.of(self.clock.now()), deletion_grace_period_seconds=grace)
        self.view.put(resources.PODS, replace(now, metadata=meta))

    def status(self, pod: core_v1.Pod) -> core_v1.PodStatus:
        return self.reports.statuses[pod.metadata.uid]

    async def boxes(self, name: str = "") -> list[Any]:
        found = await self.engine.list({"io.kubernetes.pod.uid": ""})
        return [box for box in found if not name or box.labels["io.kubernetes.container.name"] == name]

    async def running(self, name: str) -> Any:
        return next(box for box in await self.boxes(name) if box.running)

    async def empty(self) -> bool:
        return not await self.boxes() and not self.network.attachments and not self.volumes.pods \
            and not self.cgroups.pods and not list((self.root / "pods").glob("*"))


def make_pod(name: str = "web", uid: str = "", **spec: Any) -> core_v1.Pod:
    """A pod bound to the node; `spec` is the API's JSON, with one container "app" where it names none."""
    spec.setdefault("containers", [{"name": "app", "image": "app:1", "command": ["pause"]}])
    return from_tree(core_v1.Pod, {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}"},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 30, **spec}})
