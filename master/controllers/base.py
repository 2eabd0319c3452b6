"""What all controllers have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sampan.api.errors import ApiError
from sampan.client.events import EventRecorder
from sampan.client.informer import InformerFactory
from sampan.client.protocol import Client
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.loop.queue import Watcher, WorkQueue
from sampan.loop.reconcile import ReconcileLoop, Retry

K = TypeVar("K", bound=Hashable)
Key = tuple[str, str]
"""Namespace and name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deps:
    """What a controller works with."""

    client: Client
    informers: InformerFactory
    clock: Clock
    events: EventRecorder
    queues: Callable[[str], Watcher] | None = None
    """Who counts what happens in the queue of that name."""


@dataclass(slots=True)
class Counters:
    """What has happened in one controller's queue."""

    reconciles: int = 0
    retries: int = 0
    errors: int = 0
    seconds: float = 0.0


class Controller(Generic[K]):
    """A keyed queue and the workers that empty it; subclasses fill the queue from informers and say what to do."""

    def __init__(self, name: str, deps: Deps, *, workers: int = 4, component: str = "") -> None:
        """`component` is what `kubectl describe` shows as the source of events, by default ``<name>-controller``."""
        self.name = name
        self.deps = replace(deps, events=deps.events.named(component or f"{name}-controller"))
        self.queue: WorkQueue[K] = WorkQueue(Backoff(initial=0.05, maximum=300.0),
                                             watcher=deps.queues(name) if deps.queues else None)
        self.counters = Counters()
        self._workers = workers

    async def reconcile(self, key: K) -> None:
        """Make things fit for one key; called again with back-off when it raises."""
        raise NotImplementedError

    async def run(self) -> None:
        """Work until cancelled; the informers must have synced."""
        await ReconcileLoop(self.name, self.queue, self._counted, workers=self._workers).run()

    async def _counted(self, key: K) -> None:
        started = self.deps.clock.monotonic()
        try:
            await self.reconcile(key)
        except Retry:
            self.counters.retries += 1
            raise
        except ApiError as error:
            self.counters.retries += 1
            if error.is_conflict:  # somebody was faster; the informer will bring what they wrote
                raise Retry(str(error)) from error
            self.counters.errors += 1
            raise
        except Exception:
            self.counters.retries += 1
            self.counters.errors += 1
            raise
        finally:
            self.counters.reconciles += 1
            self.counters.seconds += self.deps.clock.monotonic() - started


async def slow_start(count: int, call: Callable[[int], Awaitable[None]]) -> tuple[int, ApiError | None]:
    """Make `count` calls in parallel batches of 1, 2, 4, …; stop after a batch in which one failed.

    Where all would fail for the same reason (a quota), few are tried. Returns how many succeeded, and the first
    failure.
    """
    done, batch = 0, 1
    while done < count:
        size = min(batch, count - done)
        results = await asyncio.gather(*(call(done + index) for index in range(size)), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        done += size - len(failed)
        for error in failed:
            if not isinstance(error, ApiError):
                raise error
        if failed:
            first = failed[0]
            assert isinstance(first, ApiError)
            return done, first
        batch *= 2
    return done, None


def namespace_terminating(error: ApiError) -> bool:
    """Whether a create was refused because its namespace is going away: no reason to complain or to try again."""
    return any(cause.reason == "NamespaceTerminating" for cause in error.causes)


async def ignore_missing(call: Awaitable[object]) -> bool:
    """Await a call on an object that may be gone by now; False where it is."""
    try:
        await call
    except ApiError as error:
        if not error.is_not_found:
            raise
        return False
    return True
