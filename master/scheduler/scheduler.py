"""The loop around the decision: watch pods and nodes, decide, reserve, bind, and say why where no node fits.

A pod that fits nowhere waits until something changes that could help (a node comes or changes, a pod ends), with a
back-off of 1 to 10 seconds as upstream has it, and is looked at again every five minutes at the latest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any

from master.metrics.scheduler import SchedulerMetrics
from master.scheduler.cluster import Cluster
from master.scheduler.decide import decide
from sampan.api.errors import ApiError
from sampan.api.resources import NODES, PODS
from sampan.api.times import Time
from sampan.api.types import core_v1
from sampan.client.events import EventRecorder
from sampan.client.informer import InformerFactory
from sampan.client.protocol import Client, Patch
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.loop.queue import WorkQueue

log = logging.getLogger(__name__)

NAME = "default-scheduler"
Key = tuple[str, str]
LOOK_AGAIN_SECONDS = 300.0
PARALLEL_BINDS = 64


class Scheduler:
    """Binds the pods that ask for `default-scheduler`."""

    def __init__(self, client: Client, informers: InformerFactory, clock: Clock, recorder: EventRecorder,
                 rng: random.Random | None = None, metrics: SchedulerMetrics | None = None) -> None:
        self._metrics = metrics or SchedulerMetrics(clock.monotonic)
        self._metrics.depths = self._depths
        self._client = client
        self._clock = clock
        self._recorder = recorder
        self._rng = rng or random.Random()  # noqa: S311 - draws among equals, keeps no secret
        self._pods = informers.get(PODS)
        self._nodes = informers.get(NODES)
        self._cluster = Cluster()
        self._queue: WorkQueue[Key] = WorkQueue(Backoff(initial=1.0, maximum=10.0, jitter=0.0))
        self._waiting: set[Key] = set()
        self._binds = asyncio.Semaphore(PARALLEL_BINDS)
        # Once, however often `run` is begun anew.
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)

    async def run(self) -> None:
        """Schedule until cancelled."""
        await self._nodes.wait_synced()
        await self._pods.wait_synced()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    key = await self._queue.get()
                    await self._binds.acquire()
                    pod, began = self._schedulable(key), self._clock.monotonic()
                    try:
                        decision = decide(pod, self._cluster, self._rng) if pod else None
                    except Exception:  # whatever is odd about one pod, the others are to be placed
                        log.exception("pod %s/%s cannot be placed", *key)
                        self._metrics.attempted(key, "error", self._clock.monotonic() - began)
                        self._try_again(key)
                        continue
                    if pod:
                        self._metrics.decided(self._clock.monotonic() - began)
                    if pod is None or decision is None:
                        self._finished(key)
                    elif decision.node:
                        # Reserved before the bind is known to have worked, so that the next pod sees it.
                        self._cluster.place(pod, decision.node)
                        group.create_task(self._guarded(key, pod, self._bind(key, pod, decision.node, began)))
                    else:
                        self._waiting.add(key)
                        self._metrics.attempted(key, "unschedulable", self._clock.monotonic() - began)
                        group.create_task(self._guarded(key, pod, self._refuse(key, pod, decision.refusal)))
        finally:
            self._queue.close()

    def _schedulable(self, key: Key) -> core_v1.Pod | None:
        pod = self._pods.get(key[1], key[0])
        if pod is None or not waits_for_node(pod) or self._cluster.node_of(pod.metadata.uid):
            return None
        return pod

    def _finished(self, key: Key) -> None:
        self._queue.forget(key)
        self._queue.done(key)
        self._binds.release()

    def _try_again(self, key: Key) -> None:
        self._queue.add_failed(key)
        self._queue.done(key)
        self._binds.release()

    async def _guarded(self, key: Key, pod: core_v1.Pod, work: Coroutine[Any, Any, None]) -> None:
        """Whatever goes wrong with one pod, the others are to be placed."""
        try:
            await work
        except Exception:
            log.exception("pod %s/%s", *key)
            self._metrics.attempted(key, "error", 0.0)
            self._unreserve(key, pod)
            self._try_again(key)

    def _unreserve(self, key: Key, pod: core_v1.Pod) -> None:
        """The binding failed: the room is for others, unless only the answer was lost."""
        found = self._pods.get(key[1], key[0])
        if found is None or not found.spec.node_name:
            self._release(pod)

    async def _bind(self, key: Key, pod: core_v1.Pod, node: str, began: float) -> None:
        meta = pod.metadata
        binding: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta.name, "namespace": meta.namespace,
                                                                "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}}
        try:
            await self._client.post(PODS, meta.name, "binding", binding, meta.namespace)
        except ApiError as error:
            self._metrics.attempted(key, "error", self._clock.monotonic() - began)
            self._unreserve(key, pod)
            if not error.is_not_found:
                log.info("binding %s/%s to %s: %s", meta.namespace, meta.name, node, error)
                self._recorder.warning(pod, "FailedScheduling", f"binding rejected: {error}")
                self._try_again(key)
                return
            self._finished(key)
            return
        self._metrics.attempted(key, "scheduled", self._clock.monotonic() - began)
        self._recorder.normal(pod, "Scheduled", f"Successfully assigned {meta.namespace}/{meta.name} to {node}")
        self._finished(key)

    async def _refuse(self, key: Key, pod: core_v1.Pod, why: str) -> None:
        self._recorder.warning(pod, "FailedScheduling", why)
        patch = unschedulable_patch(pod, why, Time.of(self._clock.now()))
        try:
            if patch is not None:
                await self._client.patch(PODS, pod.metadata.name, patch, pod.metadata.namespace, subresource="status")
        except ApiError as error:
            log.info("status of %s/%s: %s", pod.metadata.namespace, pod.metadata.name, error)
        self._queue.done(key)
        self._binds.release()
        if key in self._waiting:
            self._queue.add_after(key, LOOK_AGAIN_SECONDS)

    def _pod_changed(self, old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
        pod = new or old
        assert pod is not None
        key = (pod.metadata.namespace, pod.metadata.name)
        if new is None or _ended(new):
            if key in self._waiting:
                self._waiting.discard(key)
                self._queue.add(key)  # finds that there is nothing to do, and drops the timer
            self._metrics.forget(key)
            self._release(pod)
        elif new.spec.node_name:
            self._waiting.discard(key)
            if self._cluster.node_of(new.metadata.uid) != new.spec.node_name:
                self._release(new)  # somebody else has bound it: what was reserved is for others
            self._cluster.place(new, new.spec.node_name)
        elif waits_for_node(new) and (old is None or old.spec != new.spec or key not in self._waiting):
            if old is not None and old.spec.node_name:
                self._release(new)  # the server was restored from a backup of before the binding
            self._metrics.queued(key)
            self._queue.add(key)

    def _node_changed(self, old: core_v1.Node | None, new: core_v1.Node | None) -> None:
        if new is None:
            assert old is not None
            self._cluster.remove_node(old.metadata.name)
            return
        self._cluster.set_node(new)
        if old is None or _what_counts(old) != _what_counts(new):
            self._retry_waiting()

    def _depths(self) -> dict[str, int]:
        """Pods that wait, by upstream's names of its queues."""
        waiting = len(self._waiting)  # each with a timer for its next look
        return {"active": len(self._queue), "backoff": max(0, self._queue.delayed - waiting), "unschedulable": waiting}

    def _release(self, pod: core_v1.Pod) -> None:
        if self._cluster.node_of(pod.metadata.uid):
            self._cluster.forget(pod.metadata.uid)
            self._retry_waiting()

    def _retry_waiting(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for key in waiting:
            self._queue.add_failed(key)


def waits_for_node(pod: core_v1.Pod) -> bool:
    """Whether the pod is for this scheduler to place."""
    return (not pod.spec.node_name and pod.metadata.deletion_timestamp is None and not pod.spec.scheduling_gates
            and (pod.spec.scheduler_name or NAME) == NAME and not _ended(pod))


def unschedulable_patch(pod: core_v1.Pod, why: str, now: Time) -> Patch | None:
    """The pod's condition PodScheduled=False as a strategic patch; None where it says so already."""
    old = next((item for item in pod.status.conditions if (item.type, item.status) == ("PodScheduled", "False")), None)
    if old is not None and old.message == why:
        return None
    since = (old.last_transition_time if old is not None else None) or now
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
                 "lastTransitionTime": str(since)}
    return Patch("strategic", {"status": {"conditions": [condition]}})


def _ended(pod: core_v1.Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def _what_counts(node: core_v1.Node) -> tuple[object, ...]:
    return node.metadata.labels, node.spec.taints, bool(node.spec.unschedulable), node.status.allocatable
