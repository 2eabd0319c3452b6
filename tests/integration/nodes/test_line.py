"""The node service and the agent's link over real gRPC and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from agent.link.files import NodeFiles
from agent.link.link import Link
from agent.node.events import NodeEvents
from sampan.api import codec
from sampan.api.resources import CONFIGMAPS, EVENTS, LEASES, NODES, PODS, SECRETS, SERVICES
from sampan.api.times import MicroTime, Time
from sampan.api.types import coordination_v1, core_v1
from sampan.nodeline import CHANNEL_OPTIONS, PROTOCOL_VERSION
from sampan.pb import node_pb2, node_pb2_grpc
from sampan.pki import ca
from tests.support import nodeline
from tests.support.nodeline import Master, meta, node, pod, running, until


@pytest.fixture
async def master() -> AsyncIterator[Master]:
    async with nodeline.master() as made:
        yield made


async def synced(link: Link) -> None:
    async with asyncio.timeout(60):
        await link.connected.wait()


def lease(name: str, namespace: str = "kube-node-lease", holder: str = "") -> coordination_v1.Lease:
    now = MicroTime.of(nodeline.SystemClock().now())
    return coordination_v1.Lease(metadata=meta(name, namespace), spec=coordination_v1.LeaseSpec(
        holder_identity=holder or name, lease_duration_seconds=40, renew_time=now))


def event(name: str, kind: str, about: str, uid: str = "", namespace: str = "default") -> core_v1.Event:
    return core_v1.Event(
        metadata=meta(name, namespace), reason="Started", message="Started container main", type="Normal", count=1,
        involved_object=core_v1.ObjectReference(kind=kind, name=about, namespace=namespace if kind == "Pod" else None,
                                                uid=uid or None))


async def test_a_node_gets_its_own_pods_and_only_what_they_refer_to(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(node("n1"))
    client.put(core_v1.ConfigMap(metadata=meta("mine"), data={"k": "v"}))
    client.put(core_v1.ConfigMap(metadata=meta("other")))
    client.put(core_v1.Secret(metadata=meta("secret"), data={"k": b"v"}))
    client.put(core_v1.Secret(metadata=meta("foreign"), data={"k": b"v"}))
    client.put(core_v1.Service(metadata=meta("svc")))
    client.put(pod("a", "n1", config="mine", secret="secret"))
    client.put(pod("b", "n2", config="other", secret="foreign"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        view = link.view
        assert [p.metadata.name for p in view.list(PODS)] == ["a"]
        assert [c.metadata.name for c in view.list(CONFIGMAPS)] == ["mine"]
        assert [s.metadata.name for s in view.list(SECRETS)] == ["secret"]
        assert view.list(SECRETS)[0].data == {"k": b"v"}
        assert [s.metadata.name for s in view.list(SERVICES)] == ["svc"]
        assert [n.metadata.name for n in view.list(NODES)] == ["n1"]


async def test_what_a_pod_refers_to_is_there_before_the_pod(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        found: list[tuple[str, bool]] = []

        def arrived(old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
            if new is not None and old is None:
                config = new.spec.containers[0].env_from[0].config_map_ref
                assert config is not None
                found.append((new.metadata.name, link.view.get(CONFIGMAPS, config.name or "", "default") is not None))

        link.view.subscribe(PODS, arrived)
        for number in range(30):
            master.client.put(core_v1.ConfigMap(metadata=meta(f"c{number}")))
            master.client.put(pod(f"p{number}", "n1", config=f"c{number}"))
        await until(lambda: len(found) == 30)
        assert all(there for _, there in found)


async def test_changes_follow_and_what_nobody_needs_goes(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(node("n1"))
    client.put(core_v1.ConfigMap(metadata=meta("c"), data={"k": "1"}))
    stored = client.put(pod("a", "n1", config="c"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        config = await client.get(CONFIGMAPS, "c", "default")
        await client.update(CONFIGMAPS, replace(config, data={"k": "2"}))
        await until(lambda: (link.view.get(CONFIGMAPS, "c", "default") or config).data == {"k": "2"})
        client.remove(PODS, "a", "default")
        await until(lambda: not link.view.list(PODS) and not link.view.list(CONFIGMAPS))
        again = client.put(pod("a", "n1", config="c"))
        assert again.metadata.uid != stored.metadata.uid
        await until(lambda: link.view.list(PODS) and link.view.list(CONFIGMAPS))


async def test_a_connection_that_is_lost_is_resumed_without_a_gap_or_a_relist(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(node("n1"))
    for number in range(20):
        client.put(core_v1.Service(metadata=meta(f"s{number}")))
    client.put(core_v1.ConfigMap(metadata=meta("c"), data={"k": "1"}))
    client.put(pod("stays", "n1", config="c"))
    client.put(pod("goes", "n1"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        heard: list[str] = []
        for resource in (PODS, SERVICES, CONFIGMAPS):
            link.view.subscribe(resource, lambda old, new: heard.append((new or old or node("?")).metadata.name))
        await master.stop()
        await until(lambda: not link.connected.is_set())
        client.remove(PODS, "goes", "default")
        client.remove(SERVICES, "s3", "default")
        client.put(pod("comes", "n1"))
        await master.start()
        await synced(link)
        assert {p.metadata.name for p in link.view.list(PODS)} == {"stays", "comes"}
        assert sorted(heard) == ["comes", "goes", "s3"]


async def test_reports_are_applied_and_acknowledged(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(node("n1"))
    stored = client.put(pod("a", "n1"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        gate = core_v1.PodCondition(type="example.com/gate", status="True")
        await client.update(PODS, replace(stored, status=core_v1.PodStatus(conditions=[gate])), subresource="status")
        ready = core_v1.PodCondition(type="Ready", status="True")
        link.reports.pod_status(stored, core_v1.PodStatus(phase="Pending"))
        link.reports.pod_status(stored, core_v1.PodStatus(phase="Running", conditions=[ready]))
        link.reports.lease(lease("n1"))
        link.reports.event(event("e1", "Pod", "a", stored.metadata.uid))
        link.reports.event(event("e2", "Node", "n1"))
        await until(lambda: not len(link.reports))
        now = await client.get(PODS, "a", "default")
        assert now.status.phase == "Running"
        assert {condition.type for condition in now.status.conditions} == {"Ready", "example.com/gate"}
        assert (await client.get(LEASES, "n1", "kube-node-lease")).spec
        assert {e.metadata.name for e in (await client.list(EVENTS, "default")).items} == {"e1", "e2"}
        link.reports.lease(lease("n1"))
        link.reports.event(replace(event("e1", "Pod", "a", stored.metadata.uid), count=7))
        await until(lambda: not len(link.reports))
        assert (await client.get(EVENTS, "e1", "default")).count == 7


async def test_reports_wait_for_the_master_and_the_newest_wins(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    stored = master.client.put(pod("a", "n1"))
    await master.stop()
    async with running(master.agent(tmp_path, "n1")) as link:
        for number in range(5):
            link.reports.pod_status(stored, core_v1.PodStatus(phase="Running", message=str(number)))
        await master.start()
        await until(lambda: not len(link.reports))
        assert (await master.client.get(PODS, "a", "default")).status.message == "4"
        assert master.client.count("update", "pods", "status") == 1


async def test_a_terminated_pod_goes_only_when_it_is_being_deleted(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(node("n1"))
    stored = client.put(pod("a", "n1"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        link.reports.pod_terminated(stored, core_v1.PodStatus(phase="Succeeded"))
        await until(lambda: client.count("get", "pods") >= 5)  # refused, and tried again
        assert (await client.get(PODS, "a", "default")).metadata.uid == stored.metadata.uid
        now = await client.get(PODS, "a", "default")
        client.put(replace(now, metadata=replace(now.metadata, deletion_timestamp=Time.of(master.clock.now()))))
        await until(lambda: client.count("delete", "pods") and not link.view.list(PODS))
        await until(lambda: not len(link.reports))


async def test_a_new_node_registers_itself_and_is_shut_out_once_deleted(master: Master, tmp_path: Path) -> None:
    client = master.client
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        condition = core_v1.NodeCondition(type="Ready", status="True")
        reported = replace(node("n1"), status=core_v1.NodeStatus(conditions=[condition]))
        link.reports.node(reported)
        await until(lambda: not len(link.reports))
        stored = await client.get(NODES, "n1")
        assert stored.status.conditions == [condition]
        await until(lambda: link.view.get(NODES, "n1"))
        client.remove(NODES, "n1")
        await until(lambda: "has been deleted" in link.refusal)
    async with running(master.agent(tmp_path, "n1", files=NodeFiles(tmp_path / "pki"))) as link:
        await until(lambda: "has been deleted" in link.refusal)
        assert not link.connected.is_set()
    await asyncio.sleep(1.1)  # certificates tell time in seconds
    async with running(master.agent(tmp_path / "again", "n1")) as link:
        link.reports.node(reported)
        await until(lambda: not len(link.reports))
        assert (await client.get(NODES, "n1")).metadata.uid != stored.metadata.uid
    async with running(master.agent(tmp_path, "n1", files=NodeFiles(tmp_path / "pki"))) as link:
        await until(lambda: "last joined" in link.refusal)


# What a node must be refused


async def refused(link: Link, master: Master) -> None:
    """All that was reported has been answered, and nothing written."""
    revision = master.client.revision
    await until(lambda: not len(link.reports))
    assert master.client.revision == revision


async def test_a_node_may_not_touch_what_is_not_its_own(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(node("n1"))
    client.put(node("n2"))
    foreign = client.put(pod("b", "n2"))
    unbound = client.put(pod("c", ""))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        await until(lambda: client.count("update", "configmaps") + client.count("create", "configmaps"))
        link.reports.pod_status(foreign, core_v1.PodStatus(phase="Failed"))
        link.reports.pod_terminated(unbound, core_v1.PodStatus(phase="Failed"))
        link.reports.node(node("n2"))
        await refused(link, master)
        labelled = replace(node("n1"), metadata=replace(node("n1").metadata, labels={
            "node-restriction.kubernetes.io/tier": "secret"}))
        link.reports.node(labelled)
        await refused(link, master)
        for wrong in (lease("n2"), lease("n1", "default"), lease("n1", holder="n2")):
            link.reports.lease(wrong)
            await refused(link, master)
        for wrong_event in (event("x", "Pod", "b", foreign.metadata.uid), event("x", "Node", "n2"),
                            event("x", "Service", "svc"), event("x", "Node", "n1", namespace="kube-system"),
                            event("x", "Pod", "nowhere", "some-uid")):
            link.reports.event(wrong_event)
            await refused(link, master)
        mine = client.put(pod("a", "n1"))
        client.put(event("b.1", "Pod", "b", foreign.metadata.uid))
        await until(lambda: link.view.get(PODS, "a", "default"))
        link.reports.event(replace(event("b.1", "Pod", "a", mine.metadata.uid), count=2))
        await refused(link, master)


async def test_a_node_report_moves_no_pod_and_changes_no_spec(master: Master, tmp_path: Path) -> None:
    client = master.client
    client.put(replace(node("n1", "10.1.0.0/24")))
    mine = client.put(pod("a", "n1"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        moved = replace(mine, spec=replace(mine.spec, node_name="n2", containers=[]))
        link.reports.pod_status(moved, core_v1.PodStatus(phase="Running"))
        stolen = replace(node("n1", "10.9.0.0/16"), metadata=replace(node("n1").metadata, labels={"a": "b"}))
        link.reports.node(replace(stolen, spec=replace(stolen.spec, unschedulable=True)))
        await until(lambda: not len(link.reports))
        now = await client.get(PODS, "a", "default")
        assert now.spec == mine.spec
        assert now.status.phase == "Running"
        stored = await client.get(NODES, "n1")
        assert stored.spec == core_v1.NodeSpec(pod_cidr="10.1.0.0/24")
        assert stored.metadata.labels == {"a": "b"}


async def test_a_report_about_an_earlier_pod_of_the_same_name_is_dropped(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    before = master.client.put(pod("a", "n1"))
    master.client.remove(PODS, "a", "default")
    master.client.put(pod("a", "n1"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        link.reports.pod_status(before, core_v1.PodStatus(phase="Failed"))
        await until(lambda: not len(link.reports))
        assert (await master.client.get(PODS, "a", "default")).status.phase is None


async def raw(master: Master, files: NodeFiles, version: int) -> grpc.aio.AioRpcError | None:
    """Greet the master by hand; returns how it refused."""
    pair = files.pair()
    credentials = grpc.ssl_channel_credentials(files.authority(), pair.key, pair.certificate)
    async with grpc.aio.secure_channel(master.address, credentials, options=CHANNEL_OPTIONS) as channel:
        call = node_pb2_grpc.NodeServiceStub(channel).Sync()
        try:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # reading says why
                await call.write(node_pb2.AgentMessage(hello=node_pb2.Hello(version=version, software="test")))
                await call.write(node_pb2.AgentMessage(held=node_pb2.Held(last=True)))
            assert isinstance(await call.read(), node_pb2.MasterMessage)
        except grpc.aio.AioRpcError as error:
            return error
        finally:
            call.cancel()
    return None


async def test_only_certificates_of_nodes_are_let_in(master: Master, tmp_path: Path) -> None:
    error = await raw(master, master.identity(tmp_path / "a", "n1", groups=("developers",)), PROTOCOL_VERSION)
    assert error is not None
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    _, other = ca.Authority.create("other-ca")
    files = NodeFiles(tmp_path / "b")
    files.store(other.issue(ca.Identity("system:node:n1", ("system:nodes",))), master.authority.certificate)
    error = await raw(master, files, PROTOCOL_VERSION)
    assert error is not None
    assert error.code() == grpc.StatusCode.UNAVAILABLE  # the handshake fails


async def test_a_newer_agent_is_refused_with_a_reason(master: Master, tmp_path: Path) -> None:
    files = master.identity(tmp_path, "n1")
    assert await raw(master, files, PROTOCOL_VERSION) is None
    error = await raw(master, files, PROTOCOL_VERSION + 1)
    assert error is not None
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "upgrade the master first" in (error.details() or "")


async def test_a_certificate_is_renewed_while_the_line_is_up(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    files = master.identity(tmp_path / "pki", "n1", lifetime=ca.YEAR / 365 / 24 / 60)  # most of it is slack, long gone
    before = files.pair()
    async with running(master.agent(tmp_path, "n1", files=files)) as link:
        await until(lambda: files.pair().certificate != before.certificate)
        assert ca.belong_together(files.pair())
        assert files.pair().key != before.key
        assert link.connected.is_set()
    async with running(master.agent(tmp_path, "n1", files=files)) as link:
        await synced(link)


async def test_a_certificate_that_cannot_be_renewed_is_told(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    assert master.service is not None
    master.service._signer = None
    link = master.agent(tmp_path, "n1", files=master.identity(tmp_path / "pki", "n1", lifetime=ca.YEAR / 365 / 24 / 60))
    link.warn = partial(NodeEvents(link.reports, "n1", master.clock).emit, "Warning")
    async with running(link):
        await until(lambda: master.client.count("create", "events"))
    [told] = (await master.client.list(EVENTS, "default")).items
    assert (told.type, told.reason, told.involved_object.name) == ("Warning", "CertificateExpirationWarning", "n1")
    assert re.fullmatch(r"the node's certificate ends \S+ \S+ and could not be renewed: this master signs no "
                        "certificates", told.message or ""), told.message


async def test_an_agent_without_master_restores_its_pods(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    master.client.put(core_v1.Secret(metadata=meta("s"), data={"password": b"correct horse"}))
    master.client.put(pod("a", "n1", secret="s"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        await until((tmp_path / "checkpoint.json").exists)
    await master.stop()
    text = (tmp_path / "checkpoint.json").read_bytes()
    assert b"correct horse" not in text
    assert b"Y29ycmVjdCBob3JzZQ" not in text  # nor as base64
    async with running(master.agent(tmp_path, "n1", files=NodeFiles(tmp_path / "pki"))) as link:
        async with asyncio.timeout(60):
            await link.view.loaded()
        assert not link.view.authoritative
        assert [p.metadata.name for p in link.view.list(PODS)] == ["a"]
        assert link.view.list(SECRETS)[0].data == {"password": b"correct horse"}


async def test_two_agents_of_one_node_do_not_both_stay(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    async with running(master.agent(tmp_path / "1", "n1")) as first:
        await synced(first)
        files = master.identity(tmp_path / "2", "n1")
        lost = asyncio.create_task(until(lambda: not first.connected.is_set()))  # it may soon be back
        assert await raw(master, files, PROTOCOL_VERSION) is None
        await lost
        await synced(first)  # the other has gone


async def test_an_object_as_large_as_the_api_allows_passes(master: Master, tmp_path: Path) -> None:
    master.client.put(node("n1"))
    master.client.put(core_v1.ConfigMap(metadata=meta("big"), data={"k": "x" * 1_500_000}))
    master.client.put(pod("a", "n1", config="big"))
    async with running(master.agent(tmp_path, "n1")) as link:
        await synced(link)
        found = link.view.get(CONFIGMAPS, "big", "default")
        assert found is not None
        assert len(codec.encode(found)) > 1_500_000
