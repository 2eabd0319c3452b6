"""Leases: one leader among several processes, and signs of life.

Leader election follows client-go's `leaderelection` with a LeaseLock. It bounds how long two may believe to lead, as
long as their clocks run at about the same speed; the clocks need not agree on the time, since each side measures
from the moment when it saw the Lease change.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from sampan.api.errors import ApiError
from sampan.api.resources import LEASES
from sampan.api.times import MicroTime
from sampan.api.types.coordination_v1 import Lease, LeaseSpec
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.client.protocol import Client
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How patient an election is, in seconds; the defaults are kube-controller-manager's."""

    duration: float = 15.0
    """Others wait this long after the last sign of life before they take the lead."""
    renew_deadline: float = 10.0
    """A leader that could not renew for this long gives up."""
    retry: float = 2.0
    """Time between tries."""


class LostLeadership(Exception):
    """Somebody else leads, or may begin to at any moment: the work had to stop."""


class LeaderElector:
    """Runs work in at most one of several processes."""

    def __init__(self, client: Client, clock: Clock, *, name: str, identity: str, namespace: str = "kube-system",
                 times: LeaseTimes = LeaseTimes(), rng: random.Random | None = None) -> None:
        self._client = client
        self._clock = clock
        self._name = name
        self._namespace = namespace
        self._times = times
        self._rng = rng or random.Random()  # noqa: S311 - spreads tries, keeps no secret
        self.identity = identity
        self._seen: LeaseSpec | None = None
        self._seen_at = 0.0
        self._lease: Lease | None = None

    @property
    def leading(self) -> bool:
        """Whether this process holds the Lease, as far as it knows."""
        return self._seen is not None and self._seen.holder_identity == self.identity

    @property
    def leader(self) -> str:
        """Who was last seen to lead."""
        return (self._seen.holder_identity or "") if self._seen else ""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lead, then do the work; ends when the work does, LostLeadership when the lead is lost."""
        acquired = await self._acquire()
        log.info("%s leads %s/%s", self.identity, self._namespace, self._name)
        try:
            async with asyncio.TaskGroup() as group:
                renewal = group.create_task(self._keep(acquired))
                await lead()
                renewal.cancel()
        except BaseExceptionGroup as failures:
            if failures.split(LostLeadership)[1] is not None:
                raise
            raise LostLeadership(f"{self._namespace}/{self._name} is led by {self.leader or 'nobody'}") from failures
        finally:
            await self._release()

    async def _acquire(self) -> float:
        """Returns since when it is held, by our clock: the others count from when that was written, not from when the
        answer came.
        """
        while True:
            began = self._clock.monotonic()
            if await self._try(self._times.renew_deadline):
                return began
            await self._clock.sleep(self._times.retry * (1 + 0.2 * self._rng.random()))

    async def _keep(self, renewed: float) -> None:
        while True:
            end = renewed + self._times.renew_deadline
            await self._clock.sleep(min(self._times.retry, end - self._clock.monotonic()))
            began = self._clock.monotonic()
            if began < end and await self._try(end - began):
                renewed = began
            elif not self.leading or self._clock.monotonic() >= end:
                raise LostLeadership

    async def _try(self, patience: float) -> bool:
        """Take or renew the Lease within so many seconds; False where another holds it or the server is not reached."""
        try:
            async with asyncio.timeout(patience):
                return await self._take_or_renew()
        except ApiError as error:
            log.debug("lease %s/%s: %s", self._namespace, self._name, error)
            if error.is_conflict:
                self._lease = None
        except TimeoutError:
            log.debug("lease %s/%s: no answer", self._namespace, self._name)
        return False

    async def _take_or_renew(self) -> bool:
        now = MicroTime.of(self._clock.now())
        if not (self.leading and self._lease is not None):  # a leader need not read what only it may write
            try:
                self._observe(await self._client.get(LEASES, self._name, self._namespace))
            except ApiError as error:
                if not error.is_not_found:
                    raise
                meta = ObjectMeta(name=self._name, namespace=self._namespace)
                spec = self._spec(now, now, 0)
                self._observe(await self._client.create(LEASES, Lease(metadata=meta, spec=spec)))
                return True
        assert self._lease is not None
        old = self._lease.spec
        mine = old.holder_identity == self.identity
        patience = old.lease_duration_seconds or self._times.duration
        if old.holder_identity and not mine and self._clock.monotonic() - self._seen_at < patience:
            return False
        acquired = (old.acquire_time if mine else None) or now
        transitions = (old.lease_transitions or 0) + (not mine)
        self._observe(await self._client.update(LEASES, replace(
            self._lease, spec=self._spec(acquired, now, transitions))))
        return True

    def _spec(self, acquired: MicroTime, renewed: MicroTime, transitions: int) -> LeaseSpec:
        return LeaseSpec(holder_identity=self.identity, lease_duration_seconds=max(1, round(self._times.duration)),
                         acquire_time=acquired, renew_time=renewed, lease_transitions=transitions)

    def _observe(self, lease: Lease) -> None:
        self._lease = lease
        if lease.spec != self._seen:
            self._seen, self._seen_at = lease.spec, self._clock.monotonic()

    async def _release(self) -> None:
        """Let the next one begin at once."""
        if not self.leading or self._lease is None:
            return
        now = MicroTime.of(self._clock.now())
        spec = replace(self._lease.spec, holder_identity="", lease_duration_seconds=1, renew_time=now,
                       acquire_time=now)
        try:
            async with asyncio.timeout(1.0):
                self._observe(await self._client.update(LEASES, replace(self._lease, spec=spec)))
        except (ApiError, TimeoutError) as error:
            log.debug("lease %s/%s not released: %s", self._namespace, self._name, error or "no answer")


class Heartbeat:
    """Renews a Lease for as long as it runs; a node's is named after it, in kube-node-lease (KEP-589)."""

    def __init__(self, client: Client, clock: Clock, *, name: str, namespace: str = "kube-node-lease",
                 duration: float = 40.0, owner: Callable[[], OwnerReference | None] = lambda: None) -> None:
        self._client = client
        self._clock = clock
        self._name = name
        self._namespace = namespace
        self._duration = duration
        self._owner = owner
        self._lease: Lease | None = None

    async def run(self) -> None:
        """Renew at every quarter of the duration, until cancelled."""
        while True:
            try:
                await self.beat()
            except ApiError as error:
                log.warning("lease %s/%s not renewed: %s", self._namespace, self._name, error)
                self._lease = None
            await self._clock.sleep(self._duration / 4)

    async def beat(self) -> None:
        """Renew now; ApiError where that is refused, and then the Lease is read again the next time."""
        now = MicroTime.of(self._clock.now())
        spec = LeaseSpec(holder_identity=self._name, lease_duration_seconds=round(self._duration), renew_time=now)
        try:
            if self._lease is None:
                self._lease = await self._client.get(LEASES, self._name, self._namespace)
        except ApiError as error:
            if not error.is_not_found:
                raise
            owner = self._owner()
            meta = ObjectMeta(name=self._name, namespace=self._namespace, owner_references=[owner] if owner else [])
            self._lease = await self._client.create(LEASES, Lease(metadata=meta, spec=spec))
            return
        self._lease = await self._client.update(LEASES, replace(self._lease, spec=spec))
