"""Certificates for nodes and users; expired bootstrap tokens; all controllers together."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from master.controllers import csr_plan as plans
from master.controllers.csr import CsrController
from master.controllers.manager import ControllerManager, ControllerOptions
from master.controllers.tokens import TokenCleaner
from sampan.api.resources import CERTIFICATESIGNINGREQUESTS as CSRS
from sampan.api.resources import LEASES, NODES, PODS, SECRETS
from sampan.api.times import Time
from sampan.api.types.certificates_v1 import CertificateSigningRequest as Csr
from sampan.api.types.certificates_v1 import CertificateSigningRequestCondition as Condition
from sampan.api.types.certificates_v1 import CertificateSigningRequestSpec as Spec
from sampan.api.types.core_v1 import Node, NodeAddress, NodeCondition, NodeStatus, Secret
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.loop.clock import FakeClock
from sampan.pki import ca
from sampan.pki.tokens import BootstrapToken
from tests.support.controllers import World, deployment

NODE = ca.Identity("system:node:n1", ("system:nodes",))
REQUEST = ca.make_request(ca.new_key(), NODE)
USAGES = ["digital signature", "client auth"]
BOOTSTRAP = {"username": "system:bootstrap:abcdef", "groups": ["system:bootstrappers", "system:authenticated"]}


def csr(name: str = "n1", request: bytes = REQUEST, **spec: Any) -> Csr:
    values = {"signer_name": plans.NODE_CLIENT, "usages": USAGES, **BOOTSTRAP} | spec
    return Csr(metadata=ObjectMeta(name=name, uid=name), spec=Spec(request=request, **values))


APPROVALS: list[tuple[str, Csr, plans.Wish, bool]] = [
    ("a new node", csr(), plans.Wish(NODE), True),
    ("a node renewing itself", csr(username=NODE.user, groups=["system:nodes"]), plans.Wish(NODE), True),
    ("a node asking for another", csr(username="system:node:n2", groups=["system:nodes"]), plans.Wish(NODE), False),
    ("a stranger", csr(username="eve", groups=[]), plans.Wish(NODE), False),
    ("a stranger named like a token", csr(groups=[]), plans.Wish(NODE), False),
    ("an administrator's certificate", csr(), plans.Wish(ca.Identity("admin", ("system:masters",))), False),
    ("one group too many", csr(), plans.Wish(ca.Identity(NODE.user, ("system:nodes", "system:masters"))), False),
    ("no name", csr(), plans.Wish(ca.Identity("system:node:", ("system:nodes",))), False),
    ("with host names", csr(), plans.Wish(NODE, ("n1",)), False),
    ("for a server", csr(usages=["digital signature", "server auth"]), plans.Wish(NODE), False),
    ("another signer", csr(signer_name=plans.CLIENT), plans.Wish(NODE), False),
]


@pytest.mark.parametrize(("request_", "wish", "expected"), [item[1:] for item in APPROVALS],
                         ids=[item[0] for item in APPROVALS])
def test_who_is_approved_without_asking(request_: Csr, wish: plans.Wish, expected: bool) -> None:
    assert bool(plans.approval(request_, wish)) == expected


def test_what_signers_refuse() -> None:
    user = plans.Wish(ca.Identity("jane", ("devs",)))
    assert not plans.complaint(plans.CLIENT, USAGES, user)
    assert "system:masters" in plans.complaint(plans.CLIENT, USAGES, plans.Wish(ca.Identity("x", ("system:masters",))))
    assert plans.complaint(plans.CLIENT, USAGES, plans.Wish(NODE))
    for usages in (["server auth"], ["digital signature"], [*USAGES, "server auth"], []):
        assert "usages did not match [client auth]" in plans.complaint(plans.CLIENT, usages, user)
    serving = ["digital signature", "server auth"]
    assert not plans.complaint(plans.NODE_SERVING, serving, plans.Wish(NODE, ("10.0.0.1",)))
    assert plans.complaint(plans.NODE_SERVING, serving, plans.Wish(NODE))
    assert plans.complaint(plans.NODE_SERVING, serving, plans.Wish(NODE, ("mailto:x",), only_hosts=False))


def test_requests_are_cleaned_up() -> None:
    now = Time.of(FakeClock().now())
    pending = replace(csr(), metadata=ObjectMeta(name="n1", creation_timestamp=now))
    assert plans.delete_at(pending) == now + timedelta(hours=24)
    approved = replace(pending, status=replace(pending.status, conditions=[
        Condition(type="Approved", status="True", last_update_time=now)]))
    assert plans.delete_at(approved) == now + timedelta(hours=1)


async def test_a_node_gets_its_certificate() -> None:
    world = World()
    _, authority = ca.Authority.create("test", world.clock.now)
    async with world.running(lambda deps: CsrController(deps, authority)):
        world.client.put(csr(expiration_seconds=3600))
        world.client.put(csr("eve", username="eve", groups=[]))
        world.client.put(csr("broken", request=b"nonsense"))
        await world.settle()
        found = await world.client.get(CSRS, "n1")
        assert found.status.conditions[0].message == (
            "Auto approving kubelet client certificate after SubjectAccessReview.")
        assert found.status.certificate is not None
        assert ca.certificate_identity(found.status.certificate) == NODE
        assert ca.certificate_expiry(found.status.certificate) == world.clock.now() + timedelta(hours=1)
        assert (await world.client.get(CSRS, "eve")).status.conditions == []
        assert (await world.client.get(CSRS, "broken")).status.certificate is None


@pytest.mark.parametrize(("ready", "asker", "kind"), [
    ("True", "system:bootstrap:abcdef", "Denied"),
    ("Unknown", "system:bootstrap:abcdef", "Approved"),  # the host is set up anew
    ("True", NODE.user, "Approved"),  # it renews itself
])
async def test_a_token_makes_no_second_host_of_a_living_node(ready: str, asker: str, kind: str) -> None:
    world = World()
    _, authority = ca.Authority.create("test", world.clock.now)
    world.client.put(Node(metadata=ObjectMeta(name="n1"),
                          status=NodeStatus(conditions=[NodeCondition(type="Ready", status=ready)])))
    async with world.running(lambda deps: CsrController(deps, authority)):
        world.client.put(csr(username=asker))
        await world.settle()
        status = (await world.client.get(CSRS, "n1")).status
        assert [item.type for item in status.conditions] == [kind]
        assert bool(status.certificate) == (kind == "Approved")
        if kind == "Denied":
            assert 'a Node with name "n1" and status "Ready" already exists' in (status.conditions[0].message or "")


async def test_a_serving_request_that_comes_before_the_node_s_addresses() -> None:
    world = World()
    _, authority = ca.Authority.create("test", world.clock.now)
    request = ca.make_request(ca.new_key(), NODE, ["n1", "192.0.2.10"])
    async with world.running(lambda deps: CsrController(deps, authority)):
        world.client.put(Node(metadata=ObjectMeta(name="n1")))
        world.client.put(csr("serving", request, signer_name=plans.NODE_SERVING, username=NODE.user,
                             groups=["system:nodes"], usages=["digital signature", "server auth"]))
        await world.settle()
        assert not (await world.client.get(CSRS, "serving")).status.conditions
        known = NodeStatus(addresses=[NodeAddress(type="InternalIP", address="192.0.2.10")])
        world.client.put(replace(await world.client.get(NODES, "n1"), status=known))
        await world.settle()
        assert (await world.client.get(CSRS, "serving")).status.certificate


async def test_what_a_person_approved_wrongly_is_refused() -> None:
    world = World()
    _, authority = ca.Authority.create("test", world.clock.now)
    request = ca.make_request(ca.new_key(), ca.Identity("admin", ("system:masters",)))
    asked = csr("admin", request=request, signer_name=plans.CLIENT, username="eve", groups=[])
    approved = replace(asked.status, conditions=[Condition(type="Approved", status="True",
                                                           last_update_time=Time.of(world.clock.now()))])
    async with world.running(lambda deps: CsrController(deps, authority)):
        world.client.put(replace(asked, status=approved))
        await world.settle()
        found = await world.client.get(CSRS, "admin")
        assert found.status.certificate is None
        assert [(item.type, item.reason) for item in found.status.conditions[1:]] == [
            ("Failed", "SignerValidationFailure")]


async def test_expired_tokens_are_deleted() -> None:
    world = World()
    old, new = BootstrapToken("aaaaaa", "0" * 16), BootstrapToken("bbbbbb", "0" * 16)
    async with world.running(TokenCleaner):
        world.client.put(old.to_secret(world.clock.now() - timedelta(seconds=1), "old"))
        world.client.put(new.to_secret(world.clock.now() + timedelta(hours=1), "new"))
        world.client.put(Secret(metadata=ObjectMeta(name="other", namespace="kube-system"), type="Opaque",
                                data={"expiration": b"2000-01-01T00:00:00Z"}))
        await world.settle()
        assert [item.metadata.name for item in (await world.client.list(SECRETS)).items] == [
            "bootstrap-token-bbbbbb", "other"]


async def test_all_together_and_only_the_leader() -> None:
    world = World()
    _, authority = ca.Authority.create("test", world.clock.now)
    first, second = (ControllerManager(world.client, world.clock, ControllerOptions(
        signer=authority, ca_bundle="PEM", leader_election=True, identity=name)) for name in ("a", "b"))
    async with asyncio.TaskGroup() as group:
        one = group.create_task(first.run())
        await world.clock.settle(100)
        two = group.create_task(second.run())
        world.client.put(deployment(replicas=2))
        await _until(world, lambda: world.client.count("create", "pods") == 2)
        assert {"deployment", "endpoints", "garbage"} <= first.counters.keys()
        await _until(world, lambda: first.counters["replicaset"].reconciles > 0)
        await _until(world, lambda: set(first.depths.values()) == {0})
        assert second.counters == {}
        one.cancel()  # hands the lead over
        await world.clock.settle(100)
        await world.clock.advance(5)
        await _until(world, lambda: bool(second.counters))
        assert (await world.client.get(LEASES, "sampan-controllers", "kube-system")).spec.holder_identity == "b"
        await _until(world, lambda: second.counters["replicaset"].reconciles > 0)
        assert len((await world.client.list(PODS)).items) == 2
        two.cancel()


async def _until(world: World, true: Any) -> None:
    for _ in range(200):
        if true():
            return
        await world.clock.settle(10)
    raise AssertionError("it never happens")
