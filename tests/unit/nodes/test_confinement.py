"""A certificate that no longer counts: what its holder may not do any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from master.nodes.identity import Identities, NodeIdentity, read_certificate
from master.nodes.reports import NodeReports
from master.nodes.service import NodeService, ServerTls
from master.nodes.world import World
from sampan.api import codec
from sampan.api.errors import ApiError
from sampan.api.resources import NODES
from sampan.api.types import core_v1, meta_v1
from sampan.client.fake import FakeClient
from sampan.client.informer import InformerFactory
from sampan.loop.clock import FakeClock
from sampan.pb import node_pb2
from sampan.pki import ca

NODE = core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1"))


class Aborted(Exception):
    pass


class Call:
    """gRPC's context of a call with a certificate."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4711"

    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        raise Aborted(code, message)


class Certificates:
    """One for each day."""

    def __init__(self) -> None:
        self._day = datetime(2026, 1, 1, tzinfo=UTC)
        _, self._authority = ca.Authority.create("ca", lambda: self._day)

    def next(self) -> tuple[bytes, NodeIdentity]:
        self._day += timedelta(days=1)
        pair = self._authority.issue(ca.Identity("system:node:n1", ("system:nodes",)))
        return pair.certificate, read_certificate(pair.certificate)


def cluster() -> tuple[FakeClient, InformerFactory]:
    clock = FakeClock()
    client = FakeClient(clock)
    client.put(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="kube-system")))
    return client, InformerFactory(client, clock)


async def test_who_held_the_name_before_asks_for_nothing() -> None:
    client, informers = cluster()
    certificates = Certificates()
    (before, first), (now, second) = certificates.next(), certificates.next()
    for who in (first, second):  # the node joins, is deleted, and another host joins under its name
        await Identities(client).record(who, exists=False)
    client.put(NODE)
    service = NodeService(client, informers, lambda: ServerTls(b"", b"", b""))
    calls: tuple[tuple[Any, Any], ...] = (
        (service.Review, node_pb2.ReviewRequest()), (service.IssueToken, node_pb2.IssueTokenRequest()),
        (service.Stream, None))
    for call, request in calls:
        with pytest.raises(Aborted, match="join again") as refused:
            await call(request, Call(before))
        assert refused.value.args[0] is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(Aborted, match="this master issues no tokens"):
        await service.IssueToken(node_pb2.IssueTokenRequest(), Call(now))


async def test_a_report_that_comes_after_the_deletion_brings_no_node_back() -> None:
    client, informers = cluster()
    identities = Identities(client)
    reports = NodeReports(client, World(informers), identities)
    certificates = Certificates()
    (_, first), (_, again) = certificates.next(), certificates.next()
    report = node_pb2.Report(node=codec.encode(NODE))
    await reports.apply(first, report, {})
    client.remove(NODES, "n1")
    with pytest.raises(ApiError, match="has been deleted"):
        await reports.apply(first, report, {})
    assert client.count("create", "nodes") == 1
    await reports.apply(again, report, {})
    assert (await client.get(NODES, "n1")).metadata.name == "n1"
