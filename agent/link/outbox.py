"""Reports that wait for the master: of each thing only the newest, until it is acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sampan.api import codec
from sampan.api.types import coordination_v1, core_v1
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.loop.queue import WorkQueue
from sampan.pb import node_pb2

log = logging.getLogger(__name__)

Key = tuple[str, ...]
Readiness = tuple[str | None, dict[str, str]]
EVENT_AGE = 600.0
"""Seconds after which an event that could not be delivered is dropped."""
EVENT_COUNT = 1000
GATHER = 1.0
"""Seconds that a pod's status waits for the next where it changes nothing that others wait for."""
_IN_FLIGHT = 64
_TEMPORARY = frozenset((409, 429, 500, 502, 503, 504))
_EVERYDAY = frozenset((404, 409))


@dataclass(frozen=True, slots=True)
class _Item:
    build: Callable[[], node_pb2.Report]
    final: bool = False
    since: float = 0.0
    readiness: Readiness | None = None


def readiness(status: core_v1.PodStatus) -> Readiness:
    """What others wait for: the phase, and the conditions of being ready."""
    return status.phase, {condition.type: condition.status for condition in status.conditions
                          if condition.type in ("Ready", "ContainersReady")}


class Outbox:
    """Implements Reports; `next`, `acknowledge` and `reset` are for the line."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: WorkQueue[Key] = WorkQueue(Backoff(initial=0.2, maximum=30.0))
        self._items: dict[Key, _Item] = {}
        self._flying: dict[int, tuple[Key, _Item]] = {}
        self._sequence = itertools.count(1)
        self._slots = asyncio.Semaphore(_IN_FLIGHT)

    def __len__(self) -> int:
        """Reports that the master has not taken yet."""
        return len(self._items)

    # Reports

    def pod_status(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None:
        """See Reports."""
        self._pod(pod, status, terminated=False)

    def pod_terminated(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None:
        """See Reports."""
        self._pod(pod, status, terminated=True)

    def node(self, node: core_v1.Node) -> None:
        """See Reports."""
        self._add(("node",), _Item(lambda: node_pb2.Report(node=codec.encode(node))))

    def lease(self, lease: coordination_v1.Lease) -> None:
        """See Reports."""
        self._add(("lease",), _Item(lambda: node_pb2.Report(lease=codec.encode(lease))))

    def event(self, event: core_v1.Event) -> None:
        """See Reports."""
        key = "event", event.metadata.namespace, event.metadata.name
        if key not in self._items and sum(known[0] == "event" for known in self._items) >= EVENT_COUNT:
            del self._items[next(known for known in self._items if known[0] == "event")]
        since = self._clock.monotonic()
        self._add(key, _Item(lambda: node_pb2.Report(event=codec.encode(event)), since=since))

    def _pod(self, pod: core_v1.Pod, status: core_v1.PodStatus, *, terminated: bool) -> None:
        key = "pod", pod.metadata.uid
        known = self._items.get(key)
        if known and known.final and not terminated:
            return

        def build() -> node_pb2.Report:
            meta = pod.metadata
            return node_pb2.Report(pod=node_pb2.PodReport(
                namespace=meta.namespace, name=meta.name, uid=meta.uid, status=codec.encode(status),
                terminated=terminated))

        before = known.readiness if known else readiness(pod.status)
        item = _Item(build, final=terminated, readiness=readiness(status))
        self._add(key, item, after=0.0 if terminated or item.readiness != before else GATHER)

    def _add(self, key: Key, item: _Item, after: float = 0.0) -> None:
        self._items[key] = item
        self._queue.add_after(key, after)

    # The line

    async def next(self) -> node_pb2.Report:
        """The next report to send; waits for one, and while too many are unacknowledged."""
        await self._slots.acquire()
        try:
            while True:
                key = await self._queue.get()
                item = self._items.get(key)
                if item is not None and not self._stale(key, item):
                    break
                self._items.pop(key, None)
                self._queue.forget(key)
                self._queue.done(key)
        except BaseException:
            self._slots.release()
            raise
        report = item.build()
        report.sequence = next(self._sequence)
        self._flying[report.sequence] = key, item
        return report

    def acknowledge(self, ack: node_pb2.Ack) -> None:
        """The master has taken a report, or refused it for now or for good."""
        key, item = self._flying.pop(ack.sequence, (None, None))
        if key is None:
            return
        self._slots.release()
        newest = self._items.get(key) is item
        if ack.code in _TEMPORARY and newest:
            level = logging.DEBUG if ack.code in _EVERYDAY else logging.WARNING
            delay = self._queue.add_failed(key)
            log.log(level, "report %s was not taken: %s; again in %.1f s", "/".join(key), ack.message, delay)
        else:
            if ack.code != 200 and ack.code not in _EVERYDAY:
                log.warning("report %s was refused: %s", "/".join(key), ack.message)
            self._queue.forget(key)
            if newest:
                del self._items[key]
        self._queue.done(key)

    def reset(self) -> None:
        """The connection is lost: what was not acknowledged goes again over the next one."""
        flying, self._flying = self._flying, {}
        for key, _ in flying.values():
            self._slots.release()
            self._queue.add(key)
            self._queue.done(key)

    def close(self) -> None:
        """Drop the timers of delayed reports."""
        self._queue.close()

    def _stale(self, key: Key, item: _Item) -> bool:
        return key[0] == "event" and self._clock.monotonic() - item.since > EVENT_AGE
