from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec import structs

from agent.engine.fake import FakeEngine
from agent.engine.protocol import EngineUnavailable
from agent.node import facts
from agent.node.facts import Health, HostFacts
from agent.node.heartbeat import BEAT_SECONDS, REPORT_SECONDS, Heartbeat
from agent.node.status import NodeSettings, Runtime, judge, node_object
from sampan.api.resources import Object, Resource
from sampan.api.types import coordination_v1, core_v1, meta_v1
from sampan.loop.clock import FakeClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1 << 30
FACTS = HostFacts("host", "m", "u", "b", "6.1", "Debian GNU/Linux 12 (bookworm)", "amd64", 4, 8 * GIB)
WELL = Health(memory_available=4 * GIB, disk_total=100 * GIB, disk_available=50 * GIB, inodes_total=1000,
              inodes_free=900, pids_max=32768, pids_used=200)
SETTINGS = NodeSettings("n1", "192.0.2.5", labels={"disk": "ssd"})
T = TypeVar("T", bound=Object)


@pytest.mark.parametrize(("health", "problem", "expected"), [
    (WELL, "", {"Ready"}),
    (replace(WELL, memory_available=GIB // 20), "", {"Ready", "MemoryPressure"}),
    (replace(WELL, disk_available=9 * GIB), "", {"Ready", "DiskPressure"}),
    (replace(WELL, inodes_free=49), "", {"Ready", "DiskPressure"}),
    (replace(WELL, inodes_total=0, inodes_free=0), "", {"Ready"}),
    (replace(WELL, pids_used=32000), "", {"Ready", "PIDPressure"}),
    (WELL, "container runtime is down", set()),
])
def test_conditions(health: Health, problem: str, expected: set[str]) -> None:
    verdicts = judge(health, Runtime(None, problem))
    assert {kind for kind, yes, _, _ in verdicts if yes} == expected
    if problem:
        assert verdicts[-1][2:] == ("KubeletNotReady", problem)


def test_a_transition_keeps_its_time_until_the_next() -> None:
    first = node_object(SETTINGS, FACTS, WELL, Runtime(None), None, NOW)
    later = node_object(SETTINGS, FACTS, WELL, Runtime(None, "down"), first, NOW + timedelta(hours=1))
    times = {item.type: str(item.last_transition_time) for item in later.status.conditions}
    assert times == {"MemoryPressure": "2026-01-01T00:00:00Z", "DiskPressure": "2026-01-01T00:00:00Z",
                     "PIDPressure": "2026-01-01T00:00:00Z", "Ready": "2026-01-01T01:00:00Z"}


def test_the_node_says_what_the_host_has() -> None:
    node = node_object(SETTINGS, FACTS, WELL, Runtime(None), None, NOW)
    assert node.status.capacity == {"cpu": "4", "memory": "8388608Ki", "pods": "110",
                                    "ephemeral-storage": "104857600Ki"}
    assert node.status.allocatable["memory"] == "8286208Ki"
    assert node.metadata.labels["disk"] == "ssd"
    assert node.metadata.labels["kubernetes.io/hostname"] == "n1"


class View:
    authoritative = True
    node: core_v1.Node | None = None

    async def loaded(self) -> None: ...
    async def synced(self) -> None: ...

    def get(self, resource: Resource[T], name: str, namespace: str = "") -> T | None:
        return self.node  # type: ignore[return-value]

    def list(self, resource: Resource[T]) -> Sequence[T]:
        return []

    def subscribe(self, resource: Resource[T], handler: Callable[[T | None, T | None], None]) -> None: ...


class Reports:
    def __init__(self) -> None:
        self.nodes: list[core_v1.Node] = []
        self.leases: list[coordination_v1.Lease] = []
        self.events: list[core_v1.Event] = []

    def node(self, node: core_v1.Node) -> None:
        self.nodes.append(node)

    def lease(self, lease: coordination_v1.Lease) -> None:
        self.leases.append(lease)

    def pod_status(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None: ...
    def pod_terminated(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None: ...

    def event(self, event: core_v1.Event) -> None:
        self.events.append(event)


def ready(node: core_v1.Node) -> str:
    return next(item.status for item in node.status.conditions if item.type == "Ready")


async def test_the_lease_is_renewed_each_beat_and_the_status_only_with_news(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, view, reports, engine = FakeClock(), View(), Reports(), FakeEngine()
    beat = Heartbeat(SETTINGS, FACTS, lambda _: WELL, engine, view, reports, clock)
    for _ in range(5):
        await beat.beat()
        view.node = reports.nodes[-1]
        await clock.advance(BEAT_SECONDS)
    assert (len(reports.leases), len(reports.nodes)) == (5, 1)
    assert reports.leases[-1].spec.renew_time != reports.leases[0].spec.renew_time

    async def down() -> None:
        raise EngineUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "ping", down)
        await beat.beat()
        assert ready(reports.nodes[-1]) == "False"
        assert "container runtime is down: no answer" in [item.message for item in reports.nodes[-1].status.conditions]
    view.node = reports.nodes[-1]
    await beat.beat()
    assert ready(reports.nodes[-1]) == "True"
    view.node = reports.nodes[-1]
    count = len(reports.nodes)
    await clock.advance(REPORT_SECONDS)
    await beat.beat()
    assert len(reports.nodes) == count + 1


async def test_a_master_that_thinks_otherwise_is_told_again() -> None:
    view, reports = View(), Reports()
    beat = Heartbeat(SETTINGS, FACTS, lambda _: WELL, FakeEngine(), view, reports, FakeClock())
    await beat.beat()
    view.node = None  # the object is gone, or was never made
    await beat.beat()
    assert len(reports.nodes) == 2


async def test_another_part_can_keep_the_node_from_being_ready() -> None:
    reports = Reports()
    beat = Heartbeat(SETTINGS, FACTS, lambda _: WELL, FakeEngine(), View(), reports, FakeClock(),
                     problems=[lambda: "", lambda: "the network is not ready"])
    await beat.beat()
    assert ready(reports.nodes[-1]) == "False"


async def test_news_is_reported_without_waiting_for_the_next_beat() -> None:
    reports, clock, news, problems = Reports(), FakeClock(), asyncio.Event(), ["no network yet"]
    beat = Heartbeat(SETTINGS, FACTS, lambda _: WELL, FakeEngine(), View(), reports, clock,
                     problems=[lambda: problems[0]], news=news)
    task = asyncio.ensure_future(beat.run())
    await clock.settle()
    assert [ready(node) for node in reports.nodes] == ["False"]
    problems[0] = ""
    news.set()
    await clock.settle()
    assert [ready(node) for node in reports.nodes] == ["False", "True"]
    await clock.advance(BEAT_SECONDS)
    assert len(reports.leases) == 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_events_tell_the_nodes_story() -> None:
    view, reports, problems, measured = View(), Reports(), ["no network yet"], [WELL]
    beat = Heartbeat(SETTINGS, FACTS, lambda _: measured[0], FakeEngine(), view, reports, FakeClock(),
                     problems=[lambda: problems[0]])

    async def told() -> list[str | None]:
        reports.events.clear()
        await beat.beat()
        view.node = reports.nodes[-1]
        return [event.reason for event in reports.events]

    assert await told() == ["Starting", "NodeAllocatableEnforced", "NodeHasSufficientMemory", "NodeHasNoDiskPressure",
                            "NodeHasSufficientPID"]
    assert reports.events[2].message == "Node n1 status is now: NodeHasSufficientMemory"
    assert (reports.events[2].involved_object.kind, reports.events[2].involved_object.uid) == ("Node", "n1")
    problems[0] = ""
    assert await told() == ["NodeReady"]
    assert await told() == []
    measured[0] = replace(WELL, disk_available=0)
    assert await told() == ["NodeHasDiskPressure"]
    measured[0] = WELL
    assert await told() == ["NodeHasNoDiskPressure"]
    assert (reports.events[0].count, reports.events[0].message) == (2, "Node n1 status is now: NodeHasNoDiskPressure")
    assert view.node is not None
    lost = [structs.replace(item, status="Unknown") for item in view.node.status.conditions]
    view.node = structs.replace(view.node, status=structs.replace(view.node.status, conditions=lost))
    assert await told() == ["NodeReady"], "the master had taken the node for lost"
    view.node = structs.replace(view.node, spec=core_v1.NodeSpec(unschedulable=True))
    kept = view.node
    assert await told() == ["NodeNotSchedulable"]
    view.node = kept
    assert await told() == []
    assert await told() == ["NodeSchedulable"]
    again = Heartbeat(SETTINGS, replace(FACTS, boot_id="another"), lambda _: WELL, FakeEngine(), view, reports,
                      FakeClock())
    reports.events.clear()
    await again.beat()
    assert [event.reason for event in reports.events][2:] == [
        "Rebooted", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]
    assert reports.events[2].message == "Node n1 has been rebooted, boot id: another"


def test_this_host_can_be_read() -> None:
    found = facts.host_facts()
    assert found.cpus >= 1
    assert found.memory > GIB // 8
    now = facts.health(Path("/var/lib/does-not-exist-yet"))
    assert 0 < now.disk_available <= now.disk_total
    assert facts.node_address("192.0.2.9") == "192.0.2.9"


async def test_annotations_are_reported_and_put_back() -> None:
    view, reports, said = View(), Reports(), {"how": "vxlan"}
    beat = Heartbeat(SETTINGS, FACTS, lambda _: WELL, FakeEngine(), view, reports, FakeClock(),
                     annotations=lambda: said)
    await beat.beat()
    view.node = reports.nodes[-1]
    await beat.beat()
    assert [node.metadata.annotations for node in reports.nodes] == [{"how": "vxlan"}]
    said = {"how": "host-gw"}
    await beat.beat()
    assert reports.nodes[-1].metadata.annotations == said
    view.node = structs.replace(reports.nodes[-1], metadata=meta_v1.ObjectMeta(name="n1"))  # somebody took them away
    await beat.beat()
    assert len(reports.nodes) == 3
