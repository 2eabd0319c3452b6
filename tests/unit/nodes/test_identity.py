from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from master.nodes.identity import Known, NodeIdentity, Refused, read_certificate, refusal, remember
from master.nodes.reports import label_allowed, merged_node, merged_pod_status
from sampan.api.types import core_v1, meta_v1
from sampan.pki import ca

START = datetime(2026, 1, 1, tzinfo=UTC)


def who(day: int, serial: int) -> NodeIdentity:
    return NodeIdentity("n1", serial, START + timedelta(days=day))


def test_a_life_of_a_node() -> None:
    first = who(0, 1)
    assert refusal(first, None, exists=False) == ""
    known = remember(first, None, exists=False)
    renewed = who(200, 2)
    assert refusal(renewed, known, exists=True) == ""
    known = remember(renewed, known, exists=True)
    assert refusal(first, known, exists=True) == ""  # a renewal whose answer was lost
    assert "has been deleted" in refusal(first, known, exists=False)
    assert "has been deleted" in refusal(renewed, known, exists=False)
    joined = who(200, 3)  # in the same second, another certificate
    assert refusal(joined, known, exists=False) == ""
    known = remember(joined, known, exists=False)
    assert "last joined" in refusal(first, known, exists=True)


def test_what_is_remembered_survives_its_line() -> None:
    known = Known(START, START + timedelta(days=3), 2**150 + 7)
    assert Known.read(known.text()) == known
    assert Known.read("") is None


@pytest.mark.parametrize(("user", "groups"), [
    ("system:node:n1", ("people",)), ("admin", ("system:nodes",)), ("system:node:", ("system:nodes",))])
def test_certificates_that_are_for_no_node(user: str, groups: tuple[str, ...]) -> None:
    _, authority = ca.Authority.create("ca")
    with pytest.raises(Refused):
        read_certificate(authority.issue(ca.Identity(user, groups)).certificate)


def test_a_node_s_certificate() -> None:
    _, authority = ca.Authority.create("ca")
    pair = authority.issue(ca.Identity("system:node:host.example", ("system:nodes",)))
    assert read_certificate(pair.certificate).node == "host.example"


@pytest.mark.parametrize(("label", "allowed"), [
    ("team", True), ("example.com/team", True), ("kubernetes.io/hostname", True), ("kubernetes.io/arch", True),
    ("node.kubernetes.io/anything", True), ("kubelet.kubernetes.io/x", True), ("a.node.kubernetes.io/x", True),
    ("topology.kubernetes.io/zone", True), ("node-restriction.kubernetes.io/x", False),
    ("node-role.kubernetes.io/control-plane", False), ("kubernetes.io/x", False), ("k8s.io/x", False),
    ("a.k8s.io/x", False)])
def test_labels_that_a_node_may_set(label: str, allowed: bool) -> None:
    assert label_allowed(label) is allowed


def test_conditions_of_others_stay() -> None:
    gate = core_v1.PodCondition(type="example.com/gate", status="True")
    ready = core_v1.PodCondition(type="Ready", status="True")
    stale = core_v1.PodCondition(type="Ready", status="False")
    merged = merged_pod_status(core_v1.PodStatus(conditions=[stale, gate], qos_class="Burstable"),
                               core_v1.PodStatus(phase="Running", conditions=[ready]))
    assert merged == core_v1.PodStatus(phase="Running", conditions=[ready, gate], qos_class="Burstable")


def test_a_node_keeps_its_spec_and_others_labels() -> None:
    taint = core_v1.Taint(key="k", effect="NoSchedule")
    current = core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1", labels={"a": "1", "b": "1"}),
                           spec=core_v1.NodeSpec(pod_cidr="10.0.0.0/24", taints=[taint]))
    reported = core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1", labels={"b": "2"}),
                            spec=core_v1.NodeSpec(pod_cidr="10.9.0.0/24"))
    merged = merged_node(current, reported)
    assert merged.spec == current.spec
    assert merged.metadata.labels == {"a": "1", "b": "2"}
