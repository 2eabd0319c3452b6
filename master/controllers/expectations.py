"""Acting on a stale copy creates too much: a controller that has just made three pods, and does not see them yet,
would make three more. So each key waits until the informer has caught up with what was written for it.

Upstream counts the additions and deletions to come (UIDTrackingControllerExpectations); here the resourceVersion that
a write returned tells when the informer has come as far.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sampan.api.resources import Object
from sampan.client.informer import Informer, key_of, revision_number
from sampan.loop.clock import Clock

K = TypeVar("K", bound=Hashable)

PATIENCE = 300.0
"""Seconds after which a key no longer waits: the server may have been restored from an older backup."""


@dataclass(slots=True)
class _Awaited:
    since: float
    revision: int = 0
    deleted: dict[tuple[str, str], str] = field(default_factory=dict)


class Expectations(Generic[K]):
    """What each key's own writes must have led to in an informer before the key is acted on again."""

    def __init__(self, informer: Informer[Any], clock: Clock) -> None:
        self._informer = informer
        self._clock = clock
        self._awaited: dict[K, _Awaited] = {}

    def wrote(self, key: K, obj: Object) -> None:
        """An object was created or changed; `obj` is what the server returned."""
        entry = self._entry(key)
        entry.revision = max(entry.revision, revision_number(obj.metadata.resource_version))

    def deleted(self, key: K, obj: Object) -> None:
        """An object's deletion was accepted."""
        self._entry(key).deleted[key_of(obj)] = obj.metadata.uid

    def pending(self, key: K) -> bool:
        """Whether the informer still has to catch up."""
        entry = self._awaited.get(key)
        if entry is None:
            return False
        if self._clock.monotonic() - entry.since < PATIENCE and (
                self._informer.revision < entry.revision or any(map(self._there, entry.deleted.items()))):
            return True
        del self._awaited[key]
        return False

    def forget(self, key: K) -> None:
        """The key is no more."""
        self._awaited.pop(key, None)

    def _entry(self, key: K) -> _Awaited:
        entry = self._awaited.setdefault(key, _Awaited(0.0))
        entry.since = self._clock.monotonic()
        return entry

    def _there(self, item: tuple[tuple[str, str], str]) -> bool:
        (namespace, name), uid = item
        obj = self._informer.get(name, namespace)
        return obj is not None and obj.metadata.uid == uid and obj.metadata.deletion_timestamp is None
