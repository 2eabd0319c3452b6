"""What one node must be told, and in which order, to lead it from what it holds to what is.

The order keeps the promise that agents rely on: what a pod refers to comes before the pod, so an object that is not
there when its pod is does not exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from master.nodes.interest import EVERYWHERE, REFERENCED, needs
from master.nodes.world import World
from sampan.api import resources
from sampan.api.resources import Object
from sampan.nodeline import Key
from sampan.pb.node_pb2 import Change

Fetch = Callable[[Key], Awaitable[Object | None]]
_EVERYWHERE = frozenset(resource.key for resource in EVERYWHERE)
_REFERENCED = frozenset(resource.key for resource in REFERENCED)
_NOTHING: frozenset[Key] = frozenset()


class Version(NamedTuple):
    """Which state of which object of that name."""

    uid: str
    revision: str


class Feed:
    """Turns keys that may have changed into messages for one node.

    `fetch` reads an object from the API rather than the cache: the caches of two resources are not equally fresh,
    and a pod must not be sent as if its newest ConfigMap were absent.
    """

    def __init__(self, node: str, world: World, fetch: Fetch, held: Mapping[Key, Version]) -> None:
        self._node = node
        self._world = world
        self._fetch = fetch
        self._held = dict(held)
        self._sent: dict[Key, Version] = {
            key: version for key, version in held.items() if key.resource not in _EVERYWHERE}
        self._told: set[Key] = set()  # over this connection; what is held may be from before a backup was restored
        self._references: dict[Key, frozenset[Key]] = {}
        self._users: defaultdict[Key, set[Key]] = defaultdict(set)

    async def catch_up(self) -> AsyncIterator[Change]:
        """From what the node held when it connected to what is now."""
        wanted = set(self._world.everywhere())
        for key in sorted(wanted, key=_order):
            obj = self._world.find(key)
            if obj is not None and self._held.get(key) != _version(obj):
                yield self._put(key, obj)
        for key in [key for key in self._held if key.resource in _EVERYWHERE and key not in wanted]:
            yield _delete(key)
        self._held.clear()
        pods = {key for key in self._sent if key.resource == resources.PODS.key} | self._world.pods(self._node)
        async for change in self._pods(pods):
            yield change
        for key in [key for key in self._sent if key.resource in _REFERENCED and not self._users.get(key)]:
            yield self._forget(key)

    async def changes(self, keys: Collection[Key]) -> AsyncIterator[Change]:
        """What to say of keys that have changed; of most the node need not know."""
        for key in keys:
            if key.resource in _EVERYWHERE:
                obj = self._world.find(key)
                yield self._put(key, obj) if obj is not None else _delete(key)
            elif key.resource in _REFERENCED and self._users.get(key):
                for change in self._state(key, self._world.find(key)):
                    yield change
        async for change in self._pods({key for key in keys if key.resource == resources.PODS.key}):
            yield change

    async def _pods(self, keys: Collection[Key]) -> AsyncIterator[Change]:
        mine = self._world.pods(self._node)
        released: set[Key] = set()
        for key in sorted(set(keys) - mine):
            if key in self._sent:
                yield self._forget(key)
            released |= self._release(key, _NOTHING)
        for key in sorted(set(keys) & mine):
            pod = self._world.get(resources.PODS, key.name, key.namespace)
            if pod is None or pod.spec.node_name != self._node:
                continue  # it has just gone: its key comes again
            wanted = needs(pod)
            for reference in sorted(wanted):
                if not self._users[reference] or reference not in self._sent:
                    for change in self._state(reference, await self._fetch(reference)):
                        yield change
                self._users[reference].add(key)
            for change in self._state(key, pod):
                yield change
            released |= self._release(key, wanted)
        for reference in sorted(released):
            if not self._users.get(reference) and reference in self._sent:
                yield self._forget(reference)

    def _release(self, pod: Key, wanted: frozenset[Key]) -> frozenset[Key]:
        """The pod refers to `wanted` from now on; returns what it no longer refers to."""
        dropped = self._references.pop(pod, _NOTHING) - wanted
        if wanted:
            self._references[pod] = wanted
        for reference in dropped:
            self._users[reference].discard(pod)
            if not self._users[reference]:
                del self._users[reference]
        return dropped

    def _state(self, key: Key, obj: Object | None) -> Iterator[Change]:
        """Say how an object is now, unless the node knows."""
        if obj is None:
            if key in self._sent:
                yield self._forget(key)
            return
        version, sent = _version(obj), self._sent.get(key)
        if version == sent or (sent and key in self._told and version.uid == sent.uid
                               and _older(version.revision, sent.revision)):
            return
        self._sent[key] = version
        self._told.add(key)
        yield self._put(key, obj)

    def _put(self, key: Key, obj: Object) -> Change:
        version = _version(obj)
        return Change(operation=Change.PUT, key=key.message(), uid=version.uid, revision=version.revision,
                      object=self._world.encode(key, obj, self._node))

    def _forget(self, key: Key) -> Change:
        self._sent.pop(key, None)
        self._told.discard(key)
        return _delete(key)


def _version(obj: Object) -> Version:
    return Version(obj.metadata.uid, obj.metadata.resource_version)


def _older(one: str, other: str) -> bool:
    """Whether a cache lags behind what was read directly. Our own revisions are numbers."""
    return one.isdigit() and other.isdigit() and int(one) < int(other)


def _delete(key: Key) -> Change:
    return Change(operation=Change.DELETE, key=key.message())


_RANK = {resource.key: rank for rank, resource in enumerate(EVERYWHERE)}


def _order(key: Key) -> tuple[int, Key]:
    return _RANK.get(key.resource, len(_RANK)), key
