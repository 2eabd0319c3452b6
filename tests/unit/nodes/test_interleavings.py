"""What happens to a node's objects while the master is busy with its agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from master.nodes.identity import Identities, NodeIdentity
from master.nodes.reports import NodeReports
from master.nodes.service import NodeService, ServerTls
from master.nodes.world import World
from sampan.api import codec
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, NODES, PODS
from sampan.api.types import core_v1, meta_v1
from sampan.client.fake import Call, FakeClient
from sampan.client.informer import InformerFactory
from sampan.loop.clock import FakeClock
from sampan.pb import node_pb2
from sampan.pb.node_pb2 import AgentMessage
from sampan.pki import ca
from tests.support.nodeline import node, pod, until

WHO = NodeIdentity("n1", 1, datetime(2026, 1, 1, tzinfo=UTC))


class Cluster:
    """A cluster whose informers hear nothing new while `hears` is cleared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.client = FakeClient(self.clock)
        self.client.put(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="kube-system")))
        self.informers = InformerFactory(self.client, self.clock)
        self.hears = asyncio.Event()
        self.hears.set()
        watch = self.client.watch

        async def held(*place: Any, **options: Any) -> AsyncGenerator[Any, None]:
            async with aclosing(watch(*place, **options)) as events:
                async for event in events:
                    await self.hears.wait()
                    yield event

        monkeypatch.setattr(self.client, "watch", held)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.informers.run())
            await self.informers.wait_synced()
            await self.clock.settle()
            yield
            task.cancel()


def ready(status: str) -> list[Any]:
    return [core_v1.PodCondition(type="Ready", status=status)]


async def test_a_pod_s_status_is_written_that_only_an_old_copy_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    world = World(cluster.informers)
    reports = NodeReports(cluster.client, world, Identities(cluster.client))
    stored = cluster.client.put(pod("web", "n1"))

    async def tell(status: str) -> None:
        said = core_v1.PodStatus(phase="Running", conditions=ready(status))
        await reports.apply(WHO, node_pb2.Report(pod=node_pb2.PodReport(
            namespace="default", name="web", uid=stored.metadata.uid, status=codec.encode(said))), {})

    async with cluster.running():
        await tell("True")
        await cluster.clock.settle()
        cluster.hears.clear()
        await tell("False")
        await tell("True")
        assert (await cluster.client.get(PODS, "web", "default")).status.conditions == ready("True")
        cluster.hears.set()
        await cluster.clock.settle()
        updates = cluster.client.count("update", "pods")
        await tell("True")
        assert cluster.client.count("update", "pods") == updates


async def test_a_node_s_status_is_written_that_only_an_old_copy_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    reports = NodeReports(cluster.client, World(cluster.informers), Identities(cluster.client))

    def saying(status: str) -> core_v1.Node:
        return core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1"), status=core_v1.NodeStatus(
            conditions=[core_v1.NodeCondition(type="Ready", status=status)]))

    cluster.client.put(saying("True"))
    async with cluster.running():
        cluster.hears.clear()
        cluster.client.put(saying("Unknown"))  # it was silent for too long
        await reports.apply(WHO, node_pb2.Report(node=codec.encode(saying("True"))), {})
        assert (await cluster.client.get(NODES, "n1")).status.conditions[0].status == "True"


class Aborted(Exception):
    pass


class Line:
    """gRPC's context of an agent's Sync call: it greets, holds nothing, and stays."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self._said = [AgentMessage(hello=node_pb2.Hello(version=1)), AgentMessage(held=node_pb2.Held(last=True))]

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4711"

    async def read(self) -> AgentMessage:
        if not self._said:
            await asyncio.Event().wait()
        return self._said.pop(0)

    async def write(self, message: object) -> None:
        pass

    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        raise Aborted(message)


async def test_an_agent_hears_that_its_node_is_deleted_while_it_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, deleted = Cluster(monkeypatch), list[Call]()
    _, authority = ca.Authority.create("ca")
    certificate = authority.issue(ca.Identity("system:node:n1", ("system:nodes",))).certificate
    service = NodeService(cluster.client, cluster.informers, lambda: ServerTls(b"", b"", b""))
    cluster.client.put(node("n1"))

    def delete(call: Call) -> None:
        if call.plural == CONFIGMAPS.plural and not deleted:
            deleted.append(call)
            cluster.client.remove(NODES, "n1")

    async with cluster.running():
        cluster.client.on_call = delete
        async with asyncio.timeout(60):
            with pytest.raises(Aborted, match="has just been deleted"):
                await service.Sync(None, Line(certificate))
            assert deleted
            with pytest.raises(Aborted, match="join again"):
                await service.Sync(None, Line(certificate))


async def test_what_was_asked_over_a_line_that_another_has_replaced_is_given_up(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The host was switched off and on: nobody has noticed yet that its old line is dead."""
    cluster = Cluster(monkeypatch)
    _, authority = ca.Authority.create("ca")
    certificate = authority.issue(ca.Identity("system:node:n1", ("system:nodes",))).certificate
    service = NodeService(cluster.client, cluster.informers, lambda: ServerTls(b"", b"", b""))
    cluster.client.put(node("n1"))
    async with cluster.running():
        first = asyncio.create_task(service.Sync(None, Line(certificate)))
        await until(service.connected)
        asked = asyncio.create_task(service.open("n1", node_pb2.Open()))
        await cluster.clock.settle()
        second = asyncio.create_task(service.Sync(None, Line(certificate)))
        with pytest.raises(Aborted, match="another agent has connected"):
            await first
        async with asyncio.timeout(25):  # by itself it would wait for 30 s
            with pytest.raises(ApiError, match="broke"):
                await asked
        assert service.connected() == {"n1"}
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
