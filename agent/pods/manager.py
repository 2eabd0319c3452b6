"""All pods of the node: one worker per pod UID, fed by the master's view, Docker's events, and a slow relist.

Nothing is killed for being unknown before the master has confirmed the view, and then only after a grace period. The
agent never restarts itself over an engine that does not answer: it waits and looks again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agent.engine.protocol import Container, EngineError
from agent.pods import labels
from agent.pods.rooms import Rooms
from agent.pods.worker import PodWorker
from agent.stats.sample import PodBoxes
from sampan.api import resources
from sampan.api.references import references
from sampan.api.resources import Object, Resource
from sampan.api.types import core_v1, meta_v1
from sampan.loop.backoff import Backoff
from sampan.loop.tasks import supervise

log = logging.getLogger(__name__)

class PodManager:
    """Runs the workers. `relist` and `orphan_grace` are in seconds."""

    def __init__(self, rooms: Rooms, *, relist: float = 60.0, orphan_grace: float = 5.0,
                 rng: random.Random | None = None) -> None:
        self._rooms = rooms
        self._relist = relist
        self._orphan_grace = orphan_grace
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._workers: dict[str, PodWorker] = {}
        self._unknown_since: dict[str, datetime] = {}
        self._strangers: set[str] = set()  # pods with containers and without a worker, at the last list
        self._listed: datetime | None = None
        self._group: asyncio.TaskGroup
        self._look = asyncio.Event()
        self.begun = asyncio.Event()
        """Set once there is a worker for each pod that is known at the beginning."""
        self._backoff = Backoff(initial=0.2, maximum=10.0)

    async def run(self) -> None:
        """Until cancelled; containers run on."""
        view = self._rooms.view
        await view.loaded()
        containers, asked = await self._list()
        self._strangers = set(containers)
        async with asyncio.TaskGroup() as group:
            self._group = group
            view.subscribe(resources.PODS, self._pod_changed)
            view.subscribe(resources.CONFIGMAPS, partial(self._config_changed, resources.CONFIGMAPS))
            view.subscribe(resources.SECRETS, partial(self._config_changed, resources.SECRETS))
            self._rooms.network.on_lost(self._network_lost)
            await self._begin(containers, asked)
            self.begun.set()
            group.create_task(supervise("engine events", self._follow_events, self._rooms.clock,
                                        backoff=self._backoff))
            group.create_task(supervise("relist", self._relist_forever, self._rooms.clock))
            await view.synced()
            self._look.set()

    # For streams and statistics.

    def pod(self, namespace: str, name: str, uid: str) -> core_v1.Pod | None:
        """A pod with its newest status as this node knows it (PodLookup)."""
        if uid:
            worker = self._workers.get(uid)
            found = worker.pod if worker else None
            right = found and (found.metadata.namespace, found.metadata.name) == (namespace, name)
            return found if right else None
        pods = [worker.pod for worker in self._workers.values()]
        same = [pod for pod in pods if (pod.metadata.namespace, pod.metadata.name) == (namespace, name)]
        return min(same, key=lambda pod: pod.metadata.deletion_timestamp is not None, default=None)

    async def network_pid(self, uid: str) -> int:
        """A process in the pod's network namespace, 0 for none (PodLookup)."""
        worker = self._workers.get(uid)
        return worker.network_pid() if worker else 0

    def pods(self) -> Sequence[core_v1.Pod]:
        """All pods that this node runs, with their newest status."""
        return [worker.pod for worker in self._workers.values()]

    def boxes(self) -> Sequence[PodBoxes]:
        """The running containers of all pods (PodSource)."""
        return [worker.boxes() for worker in self._workers.values()]

    # The beginning.

    async def _list(self) -> tuple[Mapping[str, list[Container]], datetime]:
        """Our containers by pod, once the engine answers; and when it was asked."""
        failures = 0
        while True:
            asked = self._rooms.clock.now()
            try:
                found = await self._rooms.engine.list(labels.owned_by(self._rooms.node.name))
            except EngineError as error:
                failures += 1
                log.warning("the engine does not list containers: %s", error)
                await self._rooms.clock.sleep(self._backoff.delay(failures, self._rng))
                continue
            by_pod: dict[str, list[Container]] = defaultdict(list)
            for container in found:
                labels.check_version(container.labels)
                by_pod[container.labels.get(labels.POD_UID, "")].append(container)
            self._listed = asked
            return by_pod, asked

    async def _begin(self, containers: Mapping[str, list[Container]], asked: datetime) -> None:
        """A worker for each pod of the view, with what the engine and the disk already have of it."""
        volumes = set(await self._rooms.volumes.known())
        cgroups = set(await self._rooms.cgroups.live())
        for pod in self._rooms.view.list(resources.PODS):
            uid = pod.metadata.uid
            if self._mine(pod) and uid not in self._workers:
                self._hire(PodWorker(self._rooms, pod, containers.get(uid, ()), as_of=asked,
                                     has_volumes=uid in volumes, has_cgroup=uid in cgroups))

    def _mine(self, pod: core_v1.Pod) -> bool:
        return pod.spec.node_name == self._rooms.node.name

    def _hire(self, worker: PodWorker) -> None:
        uid = worker.pod.metadata.uid
        self._workers[uid] = worker
        self._group.create_task(self._employ(uid, worker), name=f"pod {worker.pod.metadata.name}")

    async def _employ(self, uid: str, worker: PodWorker) -> None:
        """Run a worker to its end; one that fails harms no other pod and is started again."""
        failures = 0
        while True:
            try:
                await worker.run()
                break
            except Exception:  # whatever went wrong with one pod, the others go on
                failures += 1
                log.exception("the worker of pod %s failed", worker.pod.metadata.name)
                await self._rooms.clock.sleep(self._backoff.delay(failures, self._rng))
        self._workers.pop(uid, None)

    # What others say.

    def _pod_changed(self, old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
        if new is None or not self._mine(new):
            worker = self._workers.get(old.metadata.uid) if old else None
            if worker:
                worker.gone()
            return
        if old and old.metadata.uid != new.metadata.uid and (former := self._workers.get(old.metadata.uid)):
            former.gone()
        if worker := self._workers.get(new.metadata.uid):
            worker.update(new)
        else:
            here = new.metadata.uid in self._strangers  # the checkpoint was older than the pod
            self._hire(PodWorker(self._rooms, new, stale=here, has_volumes=here, has_cgroup=here))

    def _config_changed(self, resource: Resource[Any], old: Object | None, new: Object | None) -> None:
        if changed := new or old:
            for worker in self._workers.values():
                same_namespace = worker.pod.metadata.namespace == changed.metadata.namespace
                if same_namespace and (resource.key, changed.metadata.name) in references(worker.pod):
                    worker.config_changed()

    def _network_lost(self, sandbox_id: str) -> None:
        for worker in self._workers.values():
            worker.disconnected(sandbox_id)

    async def _follow_events(self) -> None:
        """Hand each event to its pod's worker; when the engine comes back after an absence, look at everything."""
        since = self._listed
        self._look.set()
        try:
            async for event in self._rooms.engine.events(labels.owned_by(self._rooms.node.name), since):
                worker = self._workers.get(event.labels.get(labels.POD_UID, ""))
                if worker:
                    worker.hear(event)
        except EngineError as error:
            log.warning("the engine's events ended: %s", error)

    async def _relist_forever(self) -> None:
        """Compare with the engine's list now and then, at once when there is reason to; take away what nobody owns."""
        rounds = 0
        while True:
            await self._wait_for_relist()
            began = self._rooms.clock.monotonic()
            containers, asked = await self._list()
            self._rooms.metrics.listed(self._rooms.clock.monotonic() - began)
            for uid, worker in list(self._workers.items()):
                worker.see_all(containers.get(uid, ()), asked)
            self._strangers = containers.keys() - self._workers.keys()
            if self._rooms.view.authoritative:
                await self._reap(containers, asked, network=rounds % 5 == 0)
                rounds += 1

    async def _wait_for_relist(self) -> None:
        pause = self._orphan_grace if self._unknown_since else self._relist * (0.9 + 0.2 * self._rng.random())
        alarm = self._group.create_task(self._alarm(pause))
        try:
            await self._look.wait()
        finally:
            alarm.cancel()
            self._look.clear()

    async def _alarm(self, seconds: float) -> None:
        await self._rooms.clock.sleep(seconds)
        self._look.set()

    # What nobody owns.

    async def _reap(self, containers: Mapping[str, list[Container]], asked: datetime, *, network: bool) -> None:
        """Give each pod that has something here, but no object, a worker that takes it away."""
        volumes = set(await self._rooms.volumes.known()) | self._rooms.files.known()
        cgroups = set(await self._rooms.cgroups.live())
        unknown = {uid for uid in (*containers, *volumes, *cgroups) if uid and uid not in self._workers}
        self._unknown_since = {uid: self._unknown_since.get(uid, asked) for uid in unknown}
        for uid, since in list(self._unknown_since.items()):
            if timedelta() <= asked - since < timedelta(seconds=self._orphan_grace):
                continue
            del self._unknown_since[uid]
            log.info("pod %s has no object any more: taking away what is left of it", uid)
            self._hire(PodWorker(self._rooms, stand_in(uid, containers.get(uid, ())), containers.get(uid, ()),
                                 orphan=True, has_volumes=uid in volumes, has_cgroup=uid in cgroups, as_of=asked))
        if network:
            live = {sandbox for worker in self._workers.values() for sandbox in worker.sandbox_ids()}
            live |= {box.id for group in containers.values() for box in group
                     if box.labels.get(labels.TYPE) == labels.SANDBOX}
            await self._rooms.network.reconcile(live)


def stand_in(uid: str, containers: Sequence[Container]) -> core_v1.Pod:
    """A pod whose object is not known, as far as its containers' labels tell."""
    found = containers[0].labels if containers else {}
    names = dict.fromkeys(box.labels.get(labels.CONTAINER_NAME, "") for box in containers
                          if box.labels.get(labels.TYPE) == labels.CONTAINER)
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(name=found.get(labels.POD_NAME, ""), uid=uid,
                                    namespace=found.get(labels.POD_NAMESPACE, "")),
        spec=core_v1.PodSpec(containers=[core_v1.Container(name=name) for name in names], restart_policy="Never"))
