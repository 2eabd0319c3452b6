"""Events: what happened to an object, told to people through `kubectl describe` and `kubectl get events`.

Follows client-go's `tools/record`: the same event again only raises a count; many similar ones (the same but for the
message) are combined; an object that causes too many is silenced for a while. Recording never waits: an event that
finds the queue full is dropped, since it must never hold up the work that it tells of.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from sampan.api.errors import ApiError
from sampan.api.resources import EVENTS, Object
from sampan.api.times import Time
from sampan.api.types.core_v1 import Event, EventSource, ObjectReference
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.protocol import Client, Patch
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

EventKind = Literal["Normal", "Warning"]
V = TypeVar("V")

CACHE_SIZE = 4096
"""Events remembered for counting, and objects remembered for the spam limit."""
SIMILAR = 10
"""So many different messages within `SIMILAR_SECONDS` are told; further ones are combined."""
SIMILAR_SECONDS = 600.0
BURST = 25
"""Events about one object that pass at once; then one every `REFILL_SECONDS`."""
REFILL_SECONDS = 300.0


def reference(obj: Object, field_path: str = "") -> ObjectReference:
    """The reference by which an Event names an object; `field_path` as in ``spec.containers{web}``."""
    meta = obj.metadata
    return ObjectReference(api_version=obj.api_version, kind=obj.kind, name=meta.name,
                           namespace=meta.namespace or None, uid=meta.uid or None,
                           resource_version=meta.resource_version or None, field_path=field_path or None)


@dataclass(frozen=True, slots=True)
class _Note:
    component: str
    about: ObjectReference
    type: EventKind
    reason: str
    message: str
    annotations: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Similar:
    messages: set[str]
    last: float


@dataclass(slots=True)
class _Told:
    name: str = ""
    count: int = 0
    first: Time | None = None


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True)
class Correlator:
    """Decides what becomes of each event; pure but for what it remembers. Instants are in seconds."""

    similar: OrderedDict[object, _Similar] = field(default_factory=OrderedDict)
    told: OrderedDict[object, _Told] = field(default_factory=OrderedDict)
    buckets: OrderedDict[object, _Bucket] = field(default_factory=OrderedDict)

    def allowed(self, note: _Note, now: float) -> bool:
        """The spam limit: a token bucket for each object."""
        bucket = _remember(self.buckets, _who(note), _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def combined(self, note: _Note, now: float) -> tuple[object, str]:
        """The key under which the event is counted, and its message."""
        key = (_who(note), note.type, note.reason)
        seen = _remember(self.similar, key, _Similar(set(), now))
        if now - seen.last > SIMILAR_SECONDS:
            seen.messages.clear()
        seen.last = now
        seen.messages.add(note.message)
        if len(seen.messages) < SIMILAR:
            return (key, note.message), note.message
        seen.messages.pop()
        return key, f"(combined from similar events): {note.message}"

    def told_before(self, key: object) -> _Told:
        """What has been written for the key so far."""
        return _remember(self.told, key, _Told())


def _who(note: _Note) -> tuple[str | None, ...]:
    about = note.about
    return note.component, about.kind, about.namespace, about.name, about.uid, about.api_version, about.field_path


def _remember(cache: OrderedDict[object, V], key: object, fresh: V) -> V:
    """The cached entry, or the fresh one; the least recently used ones go."""
    entry = cache.setdefault(key, fresh)
    cache.move_to_end(key)
    while len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
    return entry


class EventRecorder:
    """Writes Events; all parts of a process share one, each under its own component's name."""

    def __init__(self, client: Client, clock: Clock, component: str, host: str = "", *, capacity: int = 1000,
                 queue: asyncio.Queue[_Note] | None = None) -> None:
        """`queue` is another recorder's, whose `run` then writes for both."""
        self._client = client
        self._clock = clock
        self._component = component
        self._host = host
        self._queue = queue or asyncio.Queue[_Note](capacity)
        self._correlator = Correlator()
        self._stamp = 0

    def named(self, component: str) -> EventRecorder:
        """The same recorder on behalf of another component; only the first one's `run` is needed."""
        return EventRecorder(self._client, self._clock, component, self._host, queue=self._queue)

    def event(self, about: Object | ObjectReference, kind: EventKind, reason: str, message: str, *,
              annotations: dict[str, str] | None = None) -> None:
        """Tell of something; returns at once."""
        target = about if isinstance(about, ObjectReference) else reference(about)
        try:
            self._queue.put_nowait(_Note(self._component, target, kind, reason, message,
                                         tuple((annotations or {}).items())))
        except asyncio.QueueFull:
            log.debug("dropped an event about %s/%s: %s", target.kind, target.name, message)

    def normal(self, about: Object | ObjectReference, reason: str, message: str) -> None:
        """Something went as it should."""
        self.event(about, "Normal", reason, message)

    def warning(self, about: Object | ObjectReference, reason: str, message: str) -> None:
        """Something did not."""
        self.event(about, "Warning", reason, message)

    async def run(self) -> None:
        """Write what is told, until cancelled."""
        while True:
            note = await self._queue.get()
            try:
                await self._write(note)
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Return once everything told so far has been written or given up; `run` must be running."""
        await self._queue.join()

    async def _write(self, note: _Note) -> None:
        now = self._clock.monotonic()
        if not self._correlator.allowed(note, now):
            return
        key, message = self._correlator.combined(note, now)
        told = self._correlator.told_before(key)
        for delay in (0.2, 1.0, 5.0, None):
            try:
                await self._send(note, message, told)
            except ApiError as error:
                if error.code not in (429, 500, 503, 504) or delay is None:
                    log.debug("event about %s/%s not written: %s", note.about.kind, note.about.name, error)
                    return
                await self._clock.sleep(delay)
            else:
                return

    async def _send(self, note: _Note, message: str, told: _Told) -> None:
        now = Time.of(self._clock.now())
        namespace = note.about.namespace or "default"
        if told.name:
            body = {"count": told.count + 1, "lastTimestamp": str(now), "message": message}
            try:
                await self._client.patch(EVENTS, told.name, Patch("merge", body), namespace)
            except ApiError as error:
                if not error.is_not_found:  # it has expired: write it anew, with its count
                    raise
            else:
                told.count += 1
                return
        told.first = told.first or now
        self._stamp = max(self._stamp + 1, int(self._clock.now().timestamp() * 1_000_000) * 1000)
        name = f"{note.about.name}.{self._stamp:x}"  # nanoseconds, as upstream's; never the same twice
        await self._client.create(EVENTS, Event(
            metadata=ObjectMeta(name=name, namespace=namespace, annotations=dict(note.annotations)),
            involved_object=note.about, type=note.type, reason=note.reason, message=message, count=told.count + 1,
            first_timestamp=told.first, last_timestamp=now,
            source=EventSource(component=note.component, host=self._host or None),
            reporting_component=note.component, reporting_instance=self._host))
        told.name = name
        told.count += 1
