"""What the informers know, arranged for the node service: pods by node, and who must hear of a change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from master.nodes.interest import EVERYWHERE, REFERENCED, map_entry, same_entry
from sampan.api import codec, resources
from sampan.api.resources import Object, Resource, T
from sampan.api.types import core_v1
from sampan.client.informer import Informer, InformerFactory
from sampan.nodeline import Key, key_of

WATCHED: tuple[Resource[Any], ...] = (*EVERYWHERE, *REFERENCED, resources.PODS)
Listener = Callable[[Key], None]


class World:
    """Reads informers; tells one listener per node which keys to look at again."""

    def __init__(self, informers: InformerFactory) -> None:
        """Add what is needed to `informers`, which somebody else runs."""
        self._sources: dict[tuple[str, str], Informer[Any]] = {
            resource.key: informers.get(resource) for resource in WATCHED}
        self._pods: defaultdict[str, set[Key]] = defaultdict(set)
        self._listeners: dict[str, Listener] = {}
        self._encoded: dict[Key, tuple[str, bytes]] = {}
        self._sources[resources.PODS.key].add_handler(self._pod_changed)
        self._sources[resources.NODES.key].add_handler(self._node_changed)
        for resource in (*EVERYWHERE, *REFERENCED):
            if resource is not resources.NODES:
                self._forward(resource)

    async def synced(self) -> None:
        """Returns when every informer has its first list."""
        for source in self._sources.values():
            await source.wait_synced()

    def get(self, resource: Resource[T], name: str, namespace: str = "") -> T | None:
        """One object as it was last seen."""
        found: T | None = self._sources[resource.key].get(name, namespace)
        return found

    def find(self, key: Key) -> Object | None:
        """The same by key."""
        found: Object | None = self._sources[key.resource].get(key.name, key.namespace)
        return found

    def pods(self, node: str) -> frozenset[Key]:
        """The pods bound to a node."""
        return frozenset(self._pods.get(node, ()))

    def everywhere(self) -> Iterator[Key]:
        """What every node is sent."""
        for resource in EVERYWHERE:
            for obj in self._sources[resource.key]:
                yield key_of(resource, obj)

    def encode(self, key: Key, obj: Object, node: str) -> bytes:
        """The JSON that `node` is sent of the object; what goes to every node is encoded once."""
        if key.resource not in _SHARED or (isinstance(obj, core_v1.Node) and obj.metadata.name == node):
            return codec.encode(obj)
        revision, data = self._encoded.get(key, ("", b""))
        if revision != obj.metadata.resource_version or not revision:
            data = codec.encode(map_entry(obj) if isinstance(obj, core_v1.Node) else obj)
            self._encoded[key] = obj.metadata.resource_version, data
        return data

    def listen(self, node: str, listener: Listener) -> None:
        """Call `listener` from now on with every key that may concern the node; replaces an earlier one."""
        self._listeners[node] = listener

    def unlisten(self, node: str, listener: Listener) -> None:
        """End that, unless somebody else listens by now."""
        if self._listeners.get(node) is listener:
            del self._listeners[node]

    def _tell(self, node: str, key: Key) -> None:
        listener = self._listeners.get(node)
        if listener:
            listener(key)

    def _tell_all(self, key: Key) -> None:
        for listener in list(self._listeners.values()):
            listener(key)

    def _forward(self, resource: Resource[Any]) -> None:
        def changed(old: Object | None, new: Object | None) -> None:
            obj = new or old
            if obj is None:
                return
            key = key_of(resource, obj)
            if new is None:
                self._encoded.pop(key, None)
            self._tell_all(key)

        self._sources[resource.key].add_handler(changed)

    def _pod_changed(self, old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
        before = old.spec.node_name if old else None
        after = new.spec.node_name if new else None
        for pod, node in ((old, before), (new, after)):
            if pod and node:
                key = key_of(resources.PODS, pod)
                if node == after:
                    self._pods[node].add(key)
                else:
                    self._drop(node, key)
                self._tell(node, key)

    def _drop(self, node: str, key: Key) -> None:
        self._pods[node].discard(key)
        if not self._pods[node]:
            del self._pods[node]

    def _node_changed(self, old: core_v1.Node | None, new: core_v1.Node | None) -> None:
        node = new or old
        if node is None:
            return
        key = key_of(resources.NODES, node)
        if old and new and same_entry(map_entry(old), map_entry(new)):
            self._tell(node.metadata.name, key)
            return
        if new is None:
            self._encoded.pop(key, None)
        self._tell_all(key)


_SHARED = frozenset(resource.key for resource in EVERYWHERE)
