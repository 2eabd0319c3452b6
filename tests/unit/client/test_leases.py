"""Leader election and heartbeats by Lease."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sampan.api import errors
from sampan.api.resources import LEASES
from sampan.api.types.coordination_v1 import LeaseSpec
from sampan.client.fake import Call, FakeClient
from sampan.client.leases import Heartbeat, LeaderElector, LostLeadership
from sampan.client.protocol import Patch
from sampan.loop.clock import FakeClock


class Race:
    """Candidates for one Lease, and who has led when."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.client = FakeClient(self.clock)
        self.leading: set[str] = set()
        self.history: list[str] = []

    def candidate(self, identity: str) -> LeaderElector:
        return LeaderElector(self.client, self.clock, name="lock", identity=identity)

    async def lead(self, identity: str) -> None:
        self.leading.add(identity)
        self.history.append(identity)
        assert len(self.leading) == 1, "two lead at once"
        try:
            await asyncio.Event().wait()
        finally:
            self.leading.discard(identity)

    def start(self, group: asyncio.TaskGroup, identity: str) -> asyncio.Task[None]:
        async def run() -> None:
            try:
                await self.candidate(identity).run(lambda: self.lead(identity))
            except LostLeadership:
                self.history.append(f"{identity} lost")

        return group.create_task(run())

    async def spec(self) -> LeaseSpec:
        return (await self.client.get(LEASES, "lock", "kube-system")).spec


async def test_one_leads_until_it_ends() -> None:
    race = Race()
    async with asyncio.TaskGroup() as group:
        first = race.start(group, "a")
        await race.clock.settle()
        second = race.start(group, "b")
        await race.clock.advance(60)
        assert race.history == ["a"]
        spec = await race.spec()
        assert (spec.holder_identity, spec.lease_duration_seconds, spec.lease_transitions) == ("a", 15, 0)
        assert spec.renew_time is not None
        assert spec.acquire_time is not None
        assert (race.clock.now() - spec.acquire_time).total_seconds() == 60, "since when it leads"
        assert (race.clock.now() - spec.renew_time).total_seconds() <= 2
        first.cancel()
        await race.clock.advance(5)  # it released the Lease: nobody waits out its duration
        assert race.history == ["a", "b"]
        assert (await race.spec()).lease_transitions == 1
        second.cancel()


async def test_a_dead_leader_is_followed_after_the_duration() -> None:
    race = Race()
    async with asyncio.TaskGroup() as group:
        first = race.start(group, "a")
        await race.clock.settle()
        race.client.on_call = _refuse  # and the release does not get through either
        first.cancel()
        await race.clock.settle()
        race.client.on_call = None
        second = race.start(group, "b")
        await race.clock.advance(12)
        assert race.history == ["a"]
        await race.clock.advance(8)
        assert race.history == ["a", "b"]
        second.cancel()


def _refuse(_: Call) -> None:
    raise errors.unavailable("down")


async def test_a_leader_that_cannot_renew_stops_before_others_begin() -> None:
    race = Race()
    async with asyncio.TaskGroup() as group:
        race.start(group, "a")
        await race.clock.settle()
        race.client.on_call = _refuse
        await race.clock.advance(9)
        assert race.leading == {"a"}
        await race.clock.advance(4)
        assert race.leading == set()
        assert race.history == ["a", "a lost"]


async def test_a_leader_that_was_overtaken_stops() -> None:
    race = Race()
    async with asyncio.TaskGroup() as group:
        race.start(group, "a")
        await race.clock.settle()
        await race.client.patch(LEASES, "lock", Patch("merge", {"spec": {"holderIdentity": "b"}}), "kube-system")
        await race.clock.advance(5)
        assert race.history == ["a", "a lost"]
        assert (await race.spec()).holder_identity == "b"


async def test_the_work_s_failure_is_told() -> None:
    race = Race()

    async def fail() -> None:
        raise RuntimeError("a fault")

    with pytest.raises(ExceptionGroup) as failure:
        await race.candidate("a").run(fail)
    assert isinstance(failure.value.exceptions[0], RuntimeError)
    assert (await race.spec()).holder_identity == ""


async def test_heartbeats() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    beat = Heartbeat(client, clock, name="n1")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(beat.run())
        await clock.advance(35)
        lease = await client.get(LEASES, "n1", "kube-node-lease")
        assert lease.spec.lease_duration_seconds == 40
        assert lease.spec.holder_identity == "n1"
        assert lease.spec.renew_time is not None
        assert (clock.now() - lease.spec.renew_time).total_seconds() == 5
        client.remove(LEASES, "n1", "kube-node-lease")
        await clock.advance(25)  # one beat is lost, the next makes the Lease anew
        assert (await client.get(LEASES, "n1", "kube-node-lease")).spec.holder_identity == "n1"
        task.cancel()


async def test_a_leader_whose_server_first_refuses_and_then_is_silent_stops_in_time(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that nobody answers must not begin when there is no time left for it: others begin after 15 s."""
    race = Race()
    tries: list[float] = []

    async def silent(*_: object, **__: object) -> None:
        tries.append(race.clock.monotonic())
        if race.clock.monotonic() < 9:
            raise errors.unavailable("down")
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        race.start(group, "a")
        await race.clock.settle()
        monkeypatch.setattr(race.client, "update", silent)
        monkeypatch.setattr(race.client, "get", silent)
        await race.clock.advance(12)
        assert race.leading == set()
        assert tries[:4] == [2, 4, 6, 8]


async def test_a_leader_s_time_ends_between_two_tries_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    race = Race()

    async def refused(*_: object, **__: object) -> None:
        await race.clock.sleep(0.3)
        raise errors.unavailable("down")

    async with asyncio.TaskGroup() as group:
        race.start(group, "a")
        await race.clock.settle()
        monkeypatch.setattr(race.client, "update", refused)
        await race.clock.advance(9.9)
        assert race.leading == {"a"}
        await race.clock.advance(0.2)  # the last try was at 8.9 s
        assert race.leading == set()
        await race.clock.advance(1)


async def test_a_renewal_counts_from_when_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may have seen it at once, and its answer have come late."""
    race, update = Race(), FakeClient.update
    sent: list[float] = []

    async def late(self: FakeClient, *args: Any, **options: Any) -> Any:
        sent.append(race.clock.monotonic())
        if len(sent) > 1:
            await asyncio.Event().wait()
        answer = await update(self, *args, **options)
        await race.clock.sleep(7.9)
        return answer

    monkeypatch.setattr(FakeClient, "update", late)
    async with asyncio.TaskGroup() as group:
        race.start(group, "a")
        await race.clock.settle()
        async with asyncio.timeout(60):
            while race.leading:
                await race.clock.advance(0.1)
                await asyncio.sleep(0.01)
        assert race.clock.monotonic() < sent[0] + 15
