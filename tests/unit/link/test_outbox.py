from __future__ import annotations

import asyncio

import pytest

from agent.link import outbox as outboxes
from agent.link.outbox import EVENT_AGE, EVENT_COUNT, Outbox
from sampan.api import codec
from sampan.api.types import coordination_v1, core_v1, meta_v1
from sampan.loop.clock import FakeClock
from sampan.pb.node_pb2 import Ack, Report

POD = core_v1.Pod(metadata=meta_v1.ObjectMeta(name="p", namespace="default", uid="u"),
                  spec=core_v1.PodSpec(containers=[]))


@pytest.fixture(autouse=True)
def no_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not sent is held back for another reason."""
    monkeypatch.setattr(outboxes, "GATHER", 0.0)


def status(message: str) -> core_v1.PodStatus:
    return core_v1.PodStatus(message=message)


def message(report: Report) -> str | None:
    return codec.decode(core_v1.PodStatus, report.pod.status).message


def event(name: str) -> core_v1.Event:
    return core_v1.Event(metadata=meta_v1.ObjectMeta(name=name, namespace="default"),
                         involved_object=core_v1.ObjectReference(name="p"))


async def take(outbox: Outbox) -> Report:
    async with asyncio.timeout(60):
        return await outbox.next()


async def quiet(outbox: Outbox) -> bool:
    """Whether nothing is to be sent."""
    try:
        async with asyncio.timeout(0.02):
            await outbox.next()
    except TimeoutError:
        return True
    return False


async def test_the_newest_status_wins() -> None:
    outbox = Outbox(FakeClock())
    for number in range(3):
        outbox.pod_status(POD, status(str(number)))
    assert message(await take(outbox)) == "2"
    assert await quiet(outbox)


async def test_what_changes_no_readiness_waits_for_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "GATHER", 3600)  # nothing comes by itself however slow the machine is
    outbox = Outbox(FakeClock())
    outbox.pod_status(POD, core_v1.PodStatus(phase="Pending"))
    first = await take(outbox)
    outbox.pod_status(POD, core_v1.PodStatus(phase="Pending", pod_ip="10.244.0.2"))
    outbox.acknowledge(Ack(sequence=first.sequence, code=200))
    assert await quiet(outbox)
    outbox.pod_status(POD, core_v1.PodStatus(phase="Running", pod_ip="10.244.0.2"))
    second = await take(outbox)
    assert codec.decode(core_v1.PodStatus, second.pod.status).phase == "Running"


async def test_what_waits_goes_by_itself_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "GATHER", 0.01)
    outbox = Outbox(FakeClock())
    outbox.pod_status(POD, core_v1.PodStatus(phase="Pending"))
    outbox.acknowledge(Ack(sequence=(await take(outbox)).sequence, code=200))
    outbox.pod_status(POD, core_v1.PodStatus(phase="Pending", pod_ip="10.244.0.2"))
    assert codec.decode(core_v1.PodStatus, (await take(outbox)).pod.status).pod_ip == "10.244.0.2"


async def test_of_node_and_lease_the_newest_go() -> None:
    outbox = Outbox(FakeClock())
    for number in "12":
        outbox.node(core_v1.Node(metadata=meta_v1.ObjectMeta(name="n", resource_version=number)))
        outbox.lease(coordination_v1.Lease(metadata=meta_v1.ObjectMeta(name="n", resource_version=number),
                                           spec=coordination_v1.LeaseSpec(holder_identity="n")))
    reports = {report.WhichOneof("body"): report for report in (await take(outbox), await take(outbox))}
    assert codec.decode(core_v1.Node, reports["node"].node).metadata.resource_version == "2"
    assert codec.decode(coordination_v1.Lease, reports["lease"].lease).metadata.resource_version == "2"
    assert await quiet(outbox)


async def test_one_report_of_a_pod_is_under_way_at_a_time() -> None:
    outbox = Outbox(FakeClock())
    outbox.pod_status(POD, status("1"))
    first = await take(outbox)
    outbox.pod_status(POD, status("2"))
    assert await quiet(outbox)
    outbox.acknowledge(Ack(sequence=first.sequence, code=200))
    second = await take(outbox)
    assert message(second) == "2"
    outbox.acknowledge(Ack(sequence=second.sequence, code=200))
    assert len(outbox) == 0
    assert await quiet(outbox)


async def test_what_was_not_acknowledged_goes_again_after_a_reconnect() -> None:
    outbox = Outbox(FakeClock())
    outbox.pod_status(POD, status("1"))
    first = await take(outbox)
    outbox.reset()
    again = await take(outbox)
    assert message(again) == "1"
    outbox.acknowledge(Ack(sequence=first.sequence, code=200))  # of the lost connection: means nothing now
    assert len(outbox) == 1


@pytest.mark.parametrize(("code", "kept"), [(200, False), (403, False), (404, False), (422, False), (409, True),
                                            (503, True), (500, True)])
async def test_refusals_for_now_and_for_good(code: int, kept: bool) -> None:
    outbox = Outbox(FakeClock())
    outbox.pod_status(POD, status("1"))
    first = await take(outbox)
    outbox.acknowledge(Ack(sequence=first.sequence, code=code, message="why"))
    assert len(outbox) == kept
    if kept:
        assert message(await take(outbox)) == "1"
    outbox.close()


async def test_nothing_is_said_of_a_pod_after_its_end() -> None:
    outbox = Outbox(FakeClock())
    outbox.pod_terminated(POD, status("end"))
    outbox.pod_status(POD, status("late"))
    report = await take(outbox)
    assert report.pod.terminated
    assert message(report) == "end"


async def test_events_are_dropped_when_they_are_old_or_too_many() -> None:
    clock = FakeClock()
    outbox = Outbox(clock)
    outbox.event(event("old"))
    outbox.pod_status(POD, status("as old"))
    await clock.advance(EVENT_AGE + 1)
    for number in range(EVENT_COUNT + 5):
        outbox.event(event(f"e{number}"))
    assert len(outbox) == EVENT_COUNT + 1
    assert message(await take(outbox)) == "as old", "a status holds until there is another"
    first = codec.decode(core_v1.Event, (await take(outbox)).event)
    assert first.metadata.name == "e5"


async def test_reports_in_flight_are_bounded() -> None:
    outbox = Outbox(FakeClock())
    for number in range(100):
        outbox.event(event(f"e{number}"))
    taken = [await take(outbox) for _ in range(64)]
    assert await quiet(outbox)
    outbox.acknowledge(Ack(sequence=taken[0].sequence, code=200))
    await take(outbox)
