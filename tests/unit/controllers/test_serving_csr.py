"""Certificates of nodes' ports: for the node's own names and addresses, and for itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from master.components import NodeSigner
from master.controllers import csr_plan
from master.nodes.service import peer_address
from sampan.api.errors import ApiError
from sampan.api.types import certificates_v1, core_v1, meta_v1
from sampan.pki import ca
from sampan.pki.cluster import ClusterPki
from sampan.pki.request import key_and_request

USER = "system:node:node-1"
USAGES = ["digital signature", "server auth"]
NODE = core_v1.Node(metadata=meta_v1.ObjectMeta(name="node-1"), status=core_v1.NodeStatus(addresses=[
    core_v1.NodeAddress(type="InternalIP", address="192.0.2.1"),
    core_v1.NodeAddress(type="Hostname", address="host-1")]))
RESERVED = ["198.51.100.1", "10.96.0.1", "kubernetes.default.svc"]
DISGUISED = ["Kubernetes.Default.svc", "*.default.svc", "kubernetes.default.svc.", str(ip_address("::ffff:10.96.0.1"))]
LIAR = core_v1.Node(metadata=NODE.metadata, status=core_v1.NodeStatus(addresses=[
    core_v1.NodeAddress(type="InternalIP", address=name) for name in ("192.0.2.1", *RESERVED, *DISGUISED)]))
"""It says that it has the API server's names and addresses."""


def request(names: Sequence[str], user: str = USER, group: str = "system:nodes") -> bytes:
    return ca.make_request(ca.new_key(), ca.Identity(user, (group,)), names)


def approval(names: Sequence[str], node: core_v1.Node | None = NODE, *, asker: str = USER,
             usages: Sequence[str] = USAGES) -> str:
    pem = request(names)
    spec = certificates_v1.CertificateSigningRequestSpec(request=pem, signer_name=csr_plan.NODE_SERVING,
                                                         usages=list(usages), username=asker)
    return csr_plan.approval(certificates_v1.CertificateSigningRequest(spec=spec), csr_plan.read(pem), node, RESERVED)


@pytest.mark.parametrize("names", [["node-1"], ["node-1", "192.0.2.1"], ["host-1", "192.0.2.1"]])
def test_own_names_are_approved(names: list[str]) -> None:
    assert approval(names).startswith("Auto approving self kubelet serving certificate")


def test_everything_else_waits_for_a_person() -> None:
    assert approval(["node-1", "192.0.2.2"]) == ""
    assert approval(["kubernetes.default.svc"]) == ""
    assert approval([]) == ""
    assert approval(["node-1"], None) == ""
    assert approval(["node-1", "192.0.2.1"], LIAR)
    for name in (*RESERVED, *DISGUISED):
        assert approval(["node-1", name], LIAR) == ""
    assert approval(["node-1"], asker="system:node:node-2") == ""
    assert approval(["node-1"], usages=["digital signature", "client auth"]) == ""


@pytest.fixture
def signer(tmp_path: Path) -> NodeSigner:
    pki = ClusterPki(tmp_path, ["localhost"])
    pki.ensure()
    return NodeSigner(pki, RESERVED)


@pytest.mark.parametrize("name", [*RESERVED, *DISGUISED])
async def test_a_server_s_certificate_in_the_api_server_s_name_is_for_its_own_host_alone(
        signer: NodeSigner, name: str) -> None:
    await signer.sign_serving(request(["node-1", "192.0.2.1"]), LIAR, "192.0.2.1")
    for peer in ("192.0.2.1", name, ""):
        with pytest.raises(ApiError, match=r"node-1 is not on the API server's host, whose name or address .* is"):
            await signer.sign_serving(request(["node-1", name]), LIAR, peer)
    for peer in ("127.0.0.1", "127.0.1.1"):
        assert name in ca.certificate_names(await signer.sign_serving(request(["node-1", name]), LIAR, peer))


@pytest.mark.parametrize(("peer", "address"), [
    ("ipv4:192.0.2.1:4711", "192.0.2.1"), ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"), ("ipv6:[::1]:4711", "::1"),
    ("unix:", "")])
def test_what_grpc_calls_a_peer(peer: str, address: str) -> None:
    assert peer_address(peer) == address


async def test_over_the_line_the_same_rules_hold(signer: NodeSigner) -> None:
    signed = await signer.sign_serving(request(["node-1", "192.0.2.1"]), NODE, "192.0.2.1")
    assert ca.certificate_names(signed) == {"node-1", "192.0.2.1"}
    assert ca.certificate_usages(signed) == ("server auth",)
    assert ca.certificate_expiry(signed) - signer._pki._now() > timedelta(days=360)
    for bad in (request(["192.0.2.2"]), request([]), request(["node-1"], "system:node:node-2"),
                request(["node-1"], USER, "system:masters")):
        with pytest.raises(ApiError) as refused:
            await signer.sign_serving(bad, NODE, "192.0.2.1")
        assert refused.value.code == 403
    with pytest.raises(ApiError) as refused:
        await signer.sign_serving(b"nonsense", NODE, "192.0.2.1")
    assert refused.value.code == 400


async def test_a_request_made_in_another_process() -> None:
    key, pem = await key_and_request(USER, "system:nodes", ["node-1", "192.0.2.1"])
    wish = csr_plan.read(pem)
    assert (wish.identity.user, wish.identity.groups) == (USER, ("system:nodes",))
    assert set(wish.names) == {"node-1", "192.0.2.1"}
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
