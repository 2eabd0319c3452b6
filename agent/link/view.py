"""The agent's copy of what concerns its node."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from sampan.api import codec, resources
from sampan.api.resources import Object, Resource
from sampan.nodeline import Key

T = TypeVar("T", bound=Object)
Handler = Callable[[Any, Any], None]

log = logging.getLogger(__name__)

HELD: tuple[Resource[Any], ...] = (resources.SERVICES, resources.ENDPOINTSLICES, resources.NODES,
                                   resources.SERVICEACCOUNTS, resources.CONFIGMAPS, resources.SECRETS, resources.PODS)
"""What masters send, in the order in which a checkpoint is read back: what pods refer to before the pods."""
_TYPES: dict[tuple[str, str], type[Any]] = {resource.key: resource.type for resource in HELD}


class Entry(NamedTuple):
    """One object held."""

    key: Key
    uid: str
    revision: str
    object: Any


class View:
    """Implements ClusterView; `put`, `delete`, `confirm` are for the line and the checkpoint."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], dict[tuple[str, str], Entry]] = {key: {} for key in _TYPES}
        self._handlers: defaultdict[tuple[str, str], list[Handler]] = defaultdict(list)
        self._loaded = asyncio.Event()
        self._synced = asyncio.Event()
        self.changed = asyncio.Event()
        """Set at every change; the checkpoint's writer clears it."""

    @property
    def authoritative(self) -> bool:
        """See ClusterView."""
        return self._synced.is_set()

    async def loaded(self) -> None:
        """See ClusterView."""
        await self._loaded.wait()

    async def synced(self) -> None:
        """See ClusterView."""
        await self._synced.wait()

    def get(self, resource: Resource[T], name: str, namespace: str = "") -> T | None:
        """See ClusterView."""
        entry = self._entries[resource.key].get((namespace, name))
        found: T | None = entry.object if entry else None
        return found

    def list(self, resource: Resource[T]) -> Sequence[T]:
        """See ClusterView."""
        return [entry.object for entry in self._entries[resource.key].values()]

    def subscribe(self, resource: Resource[T], handler: Callable[[T | None, T | None], None]) -> None:
        """See ClusterView."""
        self._handlers[resource.key].append(handler)

    def entries(self) -> Iterator[Entry]:
        """All that is held, what pods refer to before the pods."""
        for table in self._entries.values():
            yield from table.values()

    def put(self, key: Key, uid: str, revision: str, data: bytes) -> None:
        """An object is now so; one of the same name and another uid has been deleted in between."""
        table = self._entries.get(key.resource)
        if table is None:
            return  # a kind that only newer agents know
        old = table.get((key.namespace, key.name))
        if old and (old.uid, old.revision) == (uid, revision) and revision:
            return
        try:
            obj = codec.decode(_TYPES[key.resource], data)
        except (msgspec.DecodeError, ValueError):
            log.exception("%s cannot be read; it is ignored", key)
            return
        if old and old.uid != uid:
            self.delete(key)
            old = None
        table[key.namespace, key.name] = Entry(key, uid, revision, obj)
        self._tell(key, old.object if old else None, obj)

    def delete(self, key: Key) -> None:
        """The object is gone."""
        old = self._entries.get(key.resource, {}).pop((key.namespace, key.name), None)
        if old:
            self._tell(key, old.object, None)

    def restored(self) -> None:
        """The checkpoint has been read into the view."""
        self._loaded.set()

    def confirm(self) -> None:
        """The master has said all."""
        self._loaded.set()
        self._synced.set()

    def _tell(self, key: Key, old: Any, new: Any) -> None:
        self.changed.set()
        for handler in self._handlers[key.resource]:
            try:
                handler(old, new)
            except Exception:  # one reader's fault must not end the line
                log.exception("%s: a handler failed", key)
