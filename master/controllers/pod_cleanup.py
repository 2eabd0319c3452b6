"""Pods that have to go: those that nobody will end any more, and those that do not tolerate their node's taints."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from master.controllers import node_plan as plans
from master.controllers.base import Controller, Deps, Key, ignore_missing
from master.controllers.pods import is_terminal, is_true, replaced
from sampan.api.errors import ApiError
from sampan.api.resources import NODES, PODS
from sampan.api.times import Time
from sampan.api.types.core_v1 import Node, Pod, PodCondition, Taint
from sampan.client.informer import Informer, either, key_of
from sampan.client.protocol import DeleteOptions

QUARANTINE = 40.0
"""Seconds that a node must be missing before its pods are taken for lost."""
TERMINATED_THRESHOLD = 12500
"""So many pods that have ended are kept (upstream's --terminated-pod-gc-threshold)."""
SWEEP_SECONDS = 20.0
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_SWEEP = ""


class PodGarbageCollector(Controller[str]):
    """Removes pods that nobody will end any more.

    A key is the name of a node that is gone, or `_SWEEP` for a look at all pods.
    """

    def __init__(self, deps: Deps, *, quarantine: float = QUARANTINE, threshold: int = TERMINATED_THRESHOLD) -> None:
        super().__init__("pod-garbage", deps)
        self._quarantine = quarantine
        self._threshold = threshold
        self._nodes, self._pods = deps.informers.get(NODES), deps.informers.get(PODS)
        self._pods.add_indexer("node", lambda pod: [pod.spec.node_name] if pod.spec.node_name else [])
        self._missing: dict[str, float] = {}
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)

    async def run(self) -> None:
        """Begin with a look at everything."""
        self.queue.add(_SWEEP)
        await super().run()

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        name = either(old, new).metadata.name
        if new is None:
            self.queue.add(name)
        else:
            self._missing.pop(name, None)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        name = new.spec.node_name if new is not None else None
        if name and (old is None or old.spec.node_name != name) and self._nodes.get(name) is None:
            self.queue.add(name)

    async def reconcile(self, key: str) -> None:
        """Wait out the quarantine, make sure that the node is really gone, remove its pods."""
        if key == _SWEEP:
            await self._sweep()
            return
        pods = self._pods.by_index("node", key)
        if not pods or self._nodes.get(key) is not None:
            self._missing.pop(key, None)
            return
        since = self._missing.setdefault(key, self.deps.clock.monotonic())
        left = self._quarantine - (self.deps.clock.monotonic() - since)
        if left > 0:
            self.queue.add_after(key, left)
            return
        if await self._exists(key):
            return
        for pod in pods:
            await self._remove(pod, PodCondition(
                type="DisruptionTarget", status="True", reason="DeletionByPodGC",
                message="PodGC: node no longer exists", last_transition_time=Time.of(self.deps.clock.now())))
        self._missing.pop(key, None)

    async def _sweep(self) -> None:
        try:
            for pod in doomed(self._pods, self._nodes, self._threshold):
                await self._remove(pod)
        finally:
            self.queue.add_after(_SWEEP, SWEEP_SECONDS)

    async def _exists(self, name: str) -> bool:
        try:
            await self.deps.client.get(NODES, name)
        except ApiError as error:
            if not error.is_not_found:
                raise
            return False
        return True

    async def _remove(self, pod: Pod, why: PodCondition | None = None) -> None:
        """End it in the books, so that its owner sees a failure and not a pod that vanished; then delete it."""
        client = self.deps.client
        if not is_terminal(pod):
            conditions = replaced(pod.status.conditions, why) if why is not None else pod.status.conditions
            status = replace(pod.status, phase="Failed", conditions=conditions)
            if not await ignore_missing(client.update(PODS, replace(pod, status=status), subresource="status")):
                return
        await ignore_missing(client.delete(PODS, pod.metadata.name, pod.metadata.namespace, DeleteOptions(
            grace_period=0, uid=pod.metadata.uid)))


def doomed(pods: Iterable[Pod], nodes: Informer[Node], threshold: int) -> list[Pod]:
    """The pods that a look at everything removes.

    Those that are being deleted and that no agent will end: they have no node, or an administrator says that their
    node is switched off (KEP-2268). And the oldest of those that have ended, beyond the threshold.
    """
    going: list[Pod] = []
    ended: list[Pod] = []
    for pod in pods:
        node = nodes.get(pod.spec.node_name) if pod.spec.node_name else None
        if pod.metadata.deletion_timestamp is not None and (not pod.spec.node_name or _is_off(node)):
            going.append(pod)
        elif is_terminal(pod):
            ended.append(pod)
    ended.sort(key=lambda pod: (pod.status.reason != "Evicted", str(pod.metadata.creation_timestamp or ""),
                                pod.metadata.name))
    return going + ended[:max(0, len(ended) - threshold)]


def _is_off(node: Node | None) -> bool:
    return (node is not None and not is_true(node.status.conditions, "Ready")
            and any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints))


class TaintEvictionController(Controller[Key]):
    """Removes pods from nodes with NoExecute taints, at once or when their toleration runs out."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("taint-eviction", deps, workers=8)
        self._nodes, self._pods = deps.informers.get(NODES), deps.informers.get(PODS)
        self._pods.add_indexer("node", lambda pod: [pod.spec.node_name] if pod.spec.node_name else [])
        self._waiting: set[Key] = set()
        self._seen: dict[str, dict[tuple[str, str | None], Time]] = {}
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        self._note_taints(either(old, new).metadata.name, _no_execute(new))
        if new is not None and _no_execute(old) != _no_execute(new):
            for pod in self._pods.by_index("node", new.metadata.name):
                self.queue.add(key_of(pod))

    def _note_taints(self, node: str, taints: list[tuple[str, str | None]]) -> None:
        """Remember since when each taint is known: kubectl's have no time."""
        known, now = self._seen.pop(node, {}), Time.of(self.deps.clock.now())
        if taints:
            self._seen[node] = {taint: known.get(taint, now) for taint in taints}

    def _taints(self, node: Node) -> list[Taint]:
        """The node's taints, each with the time when it came."""
        known = self._seen.get(node.metadata.name, {})
        return [taint if taint.time_added else replace(taint, time_added=known.get((taint.key, taint.value)))
                for taint in node.spec.taints]

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            self._waiting.discard(key_of(either(old, new)))
        elif new.spec.node_name and (old is None or old.spec != new.spec):
            node = self._nodes.get(new.spec.node_name)
            if _no_execute(node):
                self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> None:
        """Evict the pod, or come back when it is time."""
        pod = self._pods.get(key[1], key[0])
        node = self._nodes.get(pod.spec.node_name) if pod is not None and pod.spec.node_name else None
        if pod is None or node is None or pod.metadata.deletion_timestamp is not None:
            self._waiting.discard(key)
            return
        due = plans.eviction(pod, self._taints(node), self.deps.clock.now()).at
        if due is None:
            if key in self._waiting:
                self._waiting.discard(key)
                self.deps.events.normal(pod, "TaintManagerEviction", f"Cancelling deletion of Pod {key[0]}/{key[1]}")
            return
        left = (due - self.deps.clock.now()).total_seconds()
        if left > 0:
            self._waiting.add(key)
            self.queue.add_after(key, left)
            return
        self._waiting.discard(key)
        self.deps.events.normal(pod, "TaintManagerEviction", f"Marking for deletion Pod {key[0]}/{key[1]}")
        condition = PodCondition(type="DisruptionTarget", status="True", reason="DeletionByTaintManager",
                                 message="Taint manager: deleting due to NoExecute taint",
                                 last_transition_time=Time.of(self.deps.clock.now()))
        status = replace(pod.status, conditions=replaced(pod.status.conditions, condition))
        client = self.deps.client
        if await ignore_missing(client.update(PODS, replace(pod, status=status), subresource="status")):
            await ignore_missing(client.delete(PODS, key[1], key[0], DeleteOptions(uid=pod.metadata.uid)))


def _no_execute(node: Node | None) -> list[tuple[str, str | None]]:
    return [(taint.key, taint.value) for taint in node.spec.taints if taint.effect == "NoExecute"] if node else []
