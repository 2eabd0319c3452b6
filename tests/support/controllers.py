"""A cluster in memory: the fake client, informers, controllers, and a kubelet that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from master.controllers.base import Controller, Deps, Key
from master.controllers.replicaset import REPLICA_SETS, REPLICATION_CONTROLLERS, ReplicaSetController
from sampan.api.resources import PODS
from sampan.api.times import Time
from sampan.api.types.apps_v1 import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    ReplicaSetSpec,
    RollingUpdateDeployment,
)
from sampan.api.types.core_v1 import Container, Event, Pod, PodCondition, PodIP, PodSpec, PodTemplateSpec
from sampan.api.types.meta_v1 import LabelSelector, ObjectMeta, OwnerReference
from sampan.client.events import EventRecorder
from sampan.client.fake import FakeClient
from sampan.client.informer import InformerFactory
from sampan.client.protocol import DeleteOptions
from sampan.loop.clock import FakeClock

LABELS = {"app": "web"}


class World:
    """One fake cluster with some controllers running."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.client = FakeClient(self.clock)
        self.informers = InformerFactory(self.client, self.clock)
        self.events = EventRecorder(self.client, self.clock, "test")
        self.deps = Deps(self.client, self.informers, self.clock, self.events)
        self.controllers: list[Controller[Any]] = []

    @asynccontextmanager
    async def running(self, *makers: Callable[[Deps], Controller[Any]]) -> AsyncIterator[None]:
        """Run controllers until the block ends."""
        self.controllers = [make(self.deps) for make in makers]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.informers.run()), group.create_task(self.events.run())]
            await self.informers.wait_synced()
            tasks += [group.create_task(controller.run()) for controller in self.controllers]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def settle(self, seconds: float = 60.0) -> None:
        """Wait until nothing moves any more: no key is due and the last write is some turns of the loop ago."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            revision = self.client.revision
            await self.clock.settle(60)
            if revision == self.client.revision and all(item.queue.idle and not _due_soon(item)
                                                        for item in self.controllers):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the controllers do not come to rest")

    async def pods(self) -> list[Pod]:
        """All pods."""
        return (await self.client.list(PODS)).items

    def mark_ready(self, pod: Pod, *, ready: bool = True) -> Pod:
        """Play the kubelet: the pod runs, and is ready or not."""
        condition = PodCondition(type="Ready", status="True" if ready else "False",
                                 last_transition_time=Time.of(self.clock.now()))
        status = replace(pod.status, phase="Running", conditions=[condition], pod_ip="10.1.0.1",
                         pod_ips=[PodIP(ip="10.1.0.1")])
        return self.client.put(replace(pod, status=status, spec=replace(pod.spec, node_name="n1")))

    async def kubelet(self, *, ready: bool = True) -> bool:
        """One round over all pods: start new ones, end those that are going; False where nothing was to do."""
        changed = False
        for pod in await self.pods():
            if pod.metadata.deletion_timestamp is not None:
                await self.client.delete(PODS, pod.metadata.name, pod.metadata.namespace, DeleteOptions(0))
                changed = True
            elif pod.status.phase != "Running":
                self.mark_ready(pod, ready=ready)
                changed = True
        return changed

    async def converge(self, rounds: int = 100) -> None:
        """Let kubelet and controllers take turns until both rest."""
        await self.settle()
        for _ in range(rounds):
            if not await self.kubelet():
                return
            await self.settle()
        raise AssertionError("the cluster does not come to rest")

    async def told(self) -> list[tuple[str, str, str]]:
        """The events so far: kind of the object, reason, message."""
        await self.events.flush()
        from sampan.api.resources import EVENTS

        found: Sequence[Event] = (await self.client.list(EVENTS)).items
        return [(item.involved_object.kind or "", item.reason or "", item.message or "") for item in found]


def replica_sets(deps: Deps) -> Controller[Key]:
    """The controller of ReplicaSets."""
    return ReplicaSetController(deps, REPLICA_SETS)


def replication_controllers(deps: Deps) -> Controller[Key]:
    """The controller of ReplicationControllers."""
    return ReplicaSetController(deps, REPLICATION_CONTROLLERS)


def _due_soon(controller: Controller[Any]) -> bool:
    now = asyncio.get_running_loop().time()
    return any(timer.when() - now < 0.5 for timer in controller.queue._timers.values())


def meta(name: str, **more: Any) -> ObjectMeta:
    return ObjectMeta(name=name, **({"namespace": "default"} | more))


def template(image: str = "web:1", **more: Any) -> PodTemplateSpec:
    return PodTemplateSpec(metadata=ObjectMeta(labels=LABELS),
                           spec=PodSpec(containers=[Container(name="web", image=image)], **more))


def replica_set(name: str = "web", replicas: int = 3, uid: str = "rs-1", **spec: Any) -> ReplicaSet:
    return ReplicaSet(metadata=meta(name, uid=uid, generation=1),
                      spec=ReplicaSetSpec(replicas=replicas, selector=LabelSelector(match_labels=LABELS),
                                          template=template(), **spec))


def deployment(name: str = "web", replicas: int = 3, image: str = "web:1", *, surge: int | str = "25%",
               unavailable: int | str = "25%", strategy: str = "RollingUpdate", **spec: Any) -> Deployment:
    rolling = RollingUpdateDeployment(max_surge=surge, max_unavailable=unavailable)
    defaults: dict[str, Any] = {"progress_deadline_seconds": 600, "revision_history_limit": 10}
    return Deployment(metadata=meta(name, uid="d-1", generation=1), spec=DeploymentSpec(
        replicas=replicas, selector=LabelSelector(match_labels=LABELS), template=template(image),
        strategy=DeploymentStrategy(type=strategy, rolling_update=rolling if strategy == "RollingUpdate" else None),
        **defaults | spec))


def pod(name: str, *, owner: ReplicaSet | None = None, node: str = "", phase: str = "Running", ready: bool = False,
        since: Any = None, **more: Any) -> Pod:
    owners = [OwnerReference(api_version="apps/v1", kind="ReplicaSet", name=owner.metadata.name,
                             uid=owner.metadata.uid, controller=True)] if owner else []
    conditions = [PodCondition(type="Ready", status="True", last_transition_time=since)] if ready else []
    result = Pod(metadata=meta(name, uid=f"uid-{name}", labels=LABELS, owner_references=owners, **more),
                 spec=PodSpec(containers=[Container(name="web", image="web:1")], node_name=node or None))
    return replace(result, status=replace(result.status, phase=phase, conditions=conditions))
