"""Events about pods, in upstream's words; repeated ones are counted, a flood is cut (client-go's correlator)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from agent.link.protocol import Reports
from sampan.api.times import Time
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import Clock

COMPONENT = "kubelet"
BURST = 25.0
REFILL_SECONDS = 300.0
REMEMBERED = 4096
FORGET_AFTER = timedelta(minutes=55)


@dataclass(slots=True)
class _Bucket:
    """What a pod may still say, refilled by one every five minutes."""

    tokens: float
    at: float


class PodEvents:
    """Sends events by way of the master; the same event again raises the first one's count."""

    def __init__(self, reports: Reports, node: str, clock: Clock) -> None:
        self._reports = reports
        self._node = node
        self._clock = clock
        self._known: OrderedDict[tuple[str, ...], core_v1.Event] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def emit(self, pod: core_v1.Pod, kind: str, reason: str, message: str, container: str = "") -> None:
        """An event of the pod, or of one of its containers; `kind` is Normal or Warning."""
        path = field_path(pod, container) if container else None
        key = (pod.metadata.uid, path or "", kind, reason, message)
        if not self._allowed(pod.metadata.uid):
            return
        now = self._clock.now()
        before = self._known.pop(key, None)
        if before and before.last_timestamp and now - before.last_timestamp < FORGET_AFTER:
            event = replace(before, count=(before.count or 1) + 1, last_timestamp=Time.of(now))
        else:
            event = self._first(pod, kind, reason, message, path, now)
        self._known[key] = event
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._reports.event(event)

    def _first(self, pod: core_v1.Pod, kind: str, reason: str, message: str, path: str | None,
               now: datetime) -> core_v1.Event:
        meta = pod.metadata
        unique = f"{int(now.timestamp() * 1_000_000_000) + len(self._known):x}"
        return core_v1.Event(
            metadata=meta_v1.ObjectMeta(name=f"{meta.name}.{unique}", namespace=meta.namespace),
            involved_object=core_v1.ObjectReference(
                api_version="v1", kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid,
                resource_version=meta.resource_version or None, field_path=path),
            type=kind, reason=reason, message=message[:1024], count=1,
            first_timestamp=Time.of(now), last_timestamp=Time.of(now),
            source=core_v1.EventSource(component=COMPONENT, host=self._node),
            reporting_component=COMPONENT, reporting_instance=self._node)

    def _allowed(self, uid: str) -> bool:
        now = self._clock.monotonic()
        bucket = self._buckets.pop(uid, None) or _Bucket(BURST, now)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        self._buckets[uid] = bucket
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def field_path(pod: core_v1.Pod, container: str) -> str:
    """``spec.containers{name}``: which part of the pod an event is about."""
    init = any(entry.name == container for entry in pod.spec.init_containers)
    return f"spec.{'initContainers' if init else 'containers'}{{{container}}}"
