"""Events: counted, combined, limited, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sampan.api import errors
from sampan.api.resources import EVENTS
from sampan.api.types.core_v1 import Event, Node
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.events import EventRecorder, reference
from sampan.client.fake import Call, FakeClient
from sampan.loop.clock import FakeClock
from tests.support.controllers import pod


class Told:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.client = FakeClient(self.clock)
        self.recorder = EventRecorder(self.client, self.clock, "kubelet", "n1")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.recorder.run())
            yield
            task.cancel()

    async def events(self) -> list[Event]:
        await self.recorder.flush()
        return (await self.client.list(EVENTS)).items


async def test_an_event_as_kubectl_shows_it() -> None:
    told = Told()
    async with told.writing():
        told.recorder.warning(reference(told.client.put(pod("p")), "spec.containers{web}"), "BackOff", "Back-off")
        told.recorder.named("other").normal(Node(metadata=ObjectMeta(name="n1", uid="u")), "Starting", "hello")
        of_node, of_pod = sorted(await told.events(), key=lambda item: item.involved_object.kind or "")
    assert of_pod.metadata.name.startswith("p.")
    assert int(of_pod.metadata.name.partition(".")[2], 16) > 0
    assert (of_pod.type, of_pod.reason, of_pod.message, of_pod.count) == ("Warning", "BackOff", "Back-off", 1)
    about = of_pod.involved_object
    assert (about.kind, about.namespace, about.name, about.uid, about.field_path) == (
        "Pod", "default", "p", "uid-p", "spec.containers{web}")
    assert of_pod.source is not None
    assert (of_pod.source.component, of_pod.source.host) == ("kubelet", "n1")
    assert of_pod.first_timestamp == of_pod.last_timestamp == told.clock.now()
    assert of_node.metadata.namespace == "default"
    assert of_node.reporting_component == "other"


async def test_the_same_again_is_counted() -> None:
    told = Told()
    async with told.writing():
        for _ in range(3):
            told.recorder.normal(pod("p"), "Pulled", "image is there")
            await told.recorder.flush()
            await told.clock.advance(10)
        found = await told.events()
        assert [(item.count, str(item.first_timestamp), str(item.last_timestamp)) for item in found] == [
            (3, "2026-01-01T00:00:00Z", "2026-01-01T00:00:20Z")]
        told.client.remove(EVENTS, found[0].metadata.name, "default")  # expired
        told.recorder.normal(pod("p"), "Pulled", "image is there")
        assert [item.count for item in await told.events()] == [4]


async def test_many_similar_ones_are_combined() -> None:
    told = Told()
    async with told.writing():
        for number in range(20):
            told.recorder.normal(pod("p"), "Seen", f"number {number}")
        found = await told.events()
    assert len(found) == 10
    last = [item for item in found if (item.message or "").startswith("(combined from similar events): ")]
    assert [(item.count, item.message) for item in last] == [(11, "(combined from similar events): number 19")]


async def test_one_object_cannot_flood() -> None:
    told = Told()
    async with told.writing():
        for number in range(100):
            told.recorder.normal(pod("loud"), f"Reason{number}", "x")
        told.recorder.normal(pod("quiet"), "Reason", "x")
        assert len(await told.events()) == 26
        await told.clock.advance(301)
        told.recorder.normal(pod("loud"), "Later", "x")
        assert "Later" in [item.reason for item in await told.events()]


async def test_recording_never_waits() -> None:
    told = Told()
    recorder = EventRecorder(told.client, told.clock, "kubelet", capacity=2)
    for number in range(5):
        recorder.normal(pod(f"p{number}"), "Seen", "x")  # nobody writes yet
    told.recorder = recorder
    async with told.writing():
        assert len(await told.events()) == 2


async def test_a_server_that_is_away_is_asked_again() -> None:
    told = Told()

    def refuse(call: Call) -> None:
        if call.verb == "create":
            raise errors.unavailable("down")

    told.client.on_call = refuse
    async with told.writing():
        told.recorder.normal(pod("p"), "Seen", "x")
        await told.clock.advance(0.1)
        told.client.on_call = None
        await told.clock.advance(1)
        assert [item.reason for item in await told.events()] == ["Seen"]
