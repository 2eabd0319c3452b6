from __future__ import annotations

import base64
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.kinds import context, create_errors, made, strategy, update_errors

Tree = dict[str, Any]

NAMESPACE = ("", "namespaces")
NODE = ("", "nodes")
EVENT = ("", "events")
ENDPOINTS = ("", "endpoints")
LEASE = ("coordination.k8s.io", "leases")
SLICE = ("discovery.k8s.io", "endpointslices")
CSR = ("certificates.k8s.io", "certificatesigningrequests")


def test_namespaces() -> None:
    stored = made(NAMESPACE, {"metadata": {"name": "team"}, "status": {"phase": "Terminating"}})
    assert stored == {"metadata": {"name": "team", "labels": {"kubernetes.io/metadata.name": "team"}},
                      "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    assert strategy(NAMESPACE).fields(stored)["status.phase"] == "Active"
    assert create_errors(NAMESPACE, {"metadata": {"name": "n"}, "spec": {"finalizers": ["mine"]}}) == [
        'spec.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified']


@pytest.mark.parametrize(("subresource", "finalizers", "phase"), [
    ("", ["kubernetes"], "Active"), ("status", ["kubernetes"], "Terminating"), ("finalize", [], "Active")])
def test_a_namespaces_doors(subresource: str, finalizers: list[str], phase: str) -> None:
    old = made(NAMESPACE, {"metadata": {"name": "n"}})
    new = {"metadata": {"name": "n"}, "spec": {"finalizers": []}, "status": {"phase": "Terminating"}}
    strategy(NAMESPACE).prepare_update(new, old, context(subresource))
    assert new["spec"] == {"finalizers": finalizers}
    assert new["status"] == {"phase": phase}


def test_a_namespaces_phase_follows_its_deletion() -> None:
    tree = {"metadata": {"name": "n"}, "status": {"phase": "Terminating"}}
    assert update_errors(NAMESPACE, {"metadata": {"name": "n"}}, tree, "status") == [
        'status.Phase: Invalid value: "Terminating": may only be \'Active\' if `deletionTimestamp` is empty']
    tree["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"  # type: ignore[index]
    assert update_errors(NAMESPACE, {"metadata": {"name": "n"}}, tree, "status") == []


def node(**spec: Any) -> Tree:
    return {"metadata": {"name": "n"}, "spec": spec}


def test_node_defaults() -> None:
    stored = made(NODE, node(podCIDR="10.1.0.0/24") | {"status": {"capacity": {"cpu": "4"}}})
    assert stored["spec"]["podCIDRs"] == ["10.1.0.0/24"]
    assert stored["status"]["allocatable"] == {"cpu": "4"}
    assert strategy(NODE).fields(node(unschedulable=True)) == {"spec.unschedulable": "true"}


@pytest.mark.parametrize(("tree", "expected"), [
    (node(taints=[{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]), []),
    (node(taints=[{"key": "a"}]), ["metadata.taints[0].effect: Required value"]),
    (node(taints=[{"key": "a", "effect": "NoSchedule", "value": "x"}, {"key": "a", "effect": "NoSchedule"}]),
     [('metadata.taints[1]: Duplicate value: core.Taint{Key:"a", Value:"", Effect:"NoSchedule", TimeAdded:<nil>}: '
      "taints must be unique by key and effect pair")]),
    (node(podCIDRs=["10.0.0.0"]), [('spec.podCIDRs[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. '
                                   "10.9.8.0/24 or 2001:db8::/64)")]),
    (node(podCIDR="10.1.0.0/24", podCIDRs=["10.2.0.0/24"]),
     [('spec.podCIDR: Invalid value: "10.1.0.0/24": conversion error: in.PodCIDR(10.1.0.0/24) != '
       "in.PodCIDRs[0](10.2.0.0/24)")]),
    (node(podCIDR="", podCIDRs=["10.2.0.0/24"]), []),
    (node() | {"status": {"capacity": {"cpu": "-1"}}},
     ['status.allocatable.cpu: Invalid value: "-1": must be greater than or equal to 0',
      'status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0']),
])
def test_nodes(tree: Tree, expected: list[str]) -> None:
    assert sorted(create_errors(NODE, tree)) == expected


def test_node_updates() -> None:
    set_once = node(podCIDR="10.1.0.0/24", providerID="a")
    assert update_errors(NODE, node(), set_once) == []
    assert update_errors(NODE, set_once, node(podCIDR="10.2.0.0/24", providerID="b")) == [
        'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid',
        'spec.providerID: Forbidden: node updates may not change providerID except from "" to valid']
    twice = node() | {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}] * 2}}
    assert update_errors(NODE, node(), twice, "status") == [
        'status.addresses[1]: Duplicate value: core.NodeAddress{Type:"InternalIP", Address:"10.0.0.1"}']


def event(**members: Any) -> Tree:
    return {"metadata": {"name": "e", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, **members}


@pytest.mark.parametrize(("tree", "expected"), [
    (event(), []), (event(involvedObject={"kind": "Node", "name": "n"}), []),
    (event(involvedObject={"namespace": "other"}),
     ['involvedObject.namespace: Invalid value: "other": does not match event.namespace']),
    (event(eventTime="2026-01-01T00:00:00.000000Z", reportingComponent="kubelet", reportingInstance="n", action="a",
           reason="r"), []),
    (event(eventTime="2026-01-01T00:00:00.000000Z", reportingComponent="kubelet", message="m" * 1025),
     ["reportingInstance: Required value", "action: Required value", "reason: Required value",
      'message: Invalid value: "": can have at most 1024 characters']),
])
def test_events(tree: Tree, expected: list[str]) -> None:
    assert create_errors(EVENT, tree) == expected


def test_event_fields() -> None:
    fields = strategy(EVENT).fields(event(reason="Started", type="Normal", source={"component": "agent"}))
    assert fields["involvedObject.kind"] == "Pod"
    assert fields["involvedObject.name"] == "p"
    assert (fields["reason"], fields["type"], fields["source"]) == ("Started", "Normal", "agent")


def endpoints(*subsets: Tree) -> Tree:
    return {"metadata": {"name": "e"}, "subsets": list(subsets)}


@pytest.mark.parametrize(("tree", "expected"), [
    (endpoints(), []), (endpoints({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}), []),
    (endpoints({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": ""}]}), []),
    (endpoints({"ports": [{"port": 80}]}),
     ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
    (endpoints({"addresses": [{"ip": "169.254.1.1"}]}),
     [('subsets[0].addresses[0].ip: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, '
      "fe80::/10)")]),
    (endpoints({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 0}]}),
     ["subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"]),
    (endpoints({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}, {"port": 2, "name": "b"}]}),
     ["subsets[0].ports[0].name: Required value"]),
])
def test_endpoints(tree: Tree, expected: list[str]) -> None:
    assert create_errors(ENDPOINTS, tree) == expected


def endpoint_slice(**members: Any) -> Tree:
    return {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], **members}


@pytest.mark.parametrize(("tree", "expected"), [
    (endpoint_slice(ports=[{"port": 80}]), []), (endpoint_slice(endpoints=[]), []),
    (endpoint_slice(addressType="FQDN", endpoints=[{"addresses": ["a.example.com"]}]), []),
    (endpoint_slice(addressType=""), ["addressType: Required value"]),
    (endpoint_slice(addressType="MAC"),
     ['addressType: Unsupported value: "MAC": supported values: "FQDN", "IPv4", "IPv6"']),
    (endpoint_slice(endpoints=[{}]), ["endpoints[0].addresses: Required value: must contain at least 1 address"]),
    (endpoint_slice(endpoints=[{"addresses": ["::2"]}]),
     ['endpoints[0].addresses[0]: Invalid value: "::2": must be a valid IPv4 address']),
    (endpoint_slice(ports=[{"port": 1}, {"port": 2}]), ['ports[1].name: Duplicate value: ""']),
    (endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"] * 101}]),
     ["endpoints[0].addresses: Too many: 101: must have at most 100 items"]),
])
def test_endpoint_slices(tree: Tree, expected: list[str]) -> None:
    assert create_errors(SLICE, tree) == expected


def test_an_endpoint_slice_changes() -> None:
    old = made(SLICE, endpoint_slice(ports=[{"port": 80}]))
    assert old["ports"] == [{"port": 80, "name": "", "protocol": "TCP"}]
    assert update_errors(SLICE, endpoint_slice(), endpoint_slice(addressType="IPv6", endpoints=[])) == [
        'addressType: Invalid value: "IPv6": field is immutable']
    rules = strategy(SLICE)
    annotated, labelled, emptied = deepcopy(old), deepcopy(old), deepcopy(old)
    annotated["metadata"]["annotations"] = {"a": "b"}
    labelled["metadata"]["labels"] = {"a": "b"}
    emptied["endpoints"] = []
    assert [rules.changes_generation(new, old) for new in (annotated, labelled, emptied)] == [False, True, True]


def test_leases() -> None:
    assert create_errors(LEASE, {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 15}}) == []
    assert create_errors(LEASE, {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0,
                                                                    "leaseTransitions": -1}}) == [
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"]
    assert strategy(LEASE).allow_create_on_update
    assert not strategy(LEASE).allow_unconditional_update


@pytest.fixture(scope="module")
def request_text() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "system:node:n")])
    built = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(built.public_bytes(serialization.Encoding.PEM)).decode()


def csr(request: str, **spec: Any) -> Tree:
    return {"metadata": {"name": "r"}, "spec": {
        "request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"], **spec}}


def test_a_csr_says_who_asks(request_text: str) -> None:
    stored = made(CSR, csr(request_text, username="root", groups=["system:masters"], extra={"a": ["b"]}))
    assert stored["spec"]["username"] == "alice"
    assert stored["spec"]["groups"] == ["dev", "system:authenticated"]
    assert stored["spec"]["uid"] == "u-1"
    assert "extra" not in stored["spec"]
    assert stored["status"] == {}
    assert strategy(CSR).fields(stored) == {"spec.signerName": "kubernetes.io/kube-apiserver-client"}


@pytest.mark.parametrize(("spec", "expected"), [
    ({}, []),
    ({"usages": []}, ["spec.usages: Required value"]),
    ({"usages": ["client auth", "client auth"]}, ['spec.usages[1]: Duplicate value: "client auth"']),
    ({"signerName": ""}, ["spec.signerName: Required value"]),
    ({"signerName": "plain"},
     [('spec.signerName: Invalid value: "plain": must be a fully qualified domain and path of the form '
      "'example.com/signer-name'")]),
    ({"signerName": "single/x"},
     ['spec.signerName: Invalid value: "single": should be a domain with at least two segments separated by dots']),
    ({"signerName": "kubernetes.io/legacy-unknown"},
     [('spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this '
      "API version")]),
    ({"expirationSeconds": 599},
     ["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"]),
    ({"request": base64.b64encode(b"hi").decode()},
     ["spec.request: Invalid value: []byte{0x68, 0x69}: PEM block type must be CERTIFICATE REQUEST"]),
])
def test_csrs(request_text: str, spec: Tree, expected: list[str]) -> None:
    assert create_errors(CSR, csr(request_text) | {"spec": {**csr(request_text)["spec"], **spec}}) == expected


EC_KEY, VERSION_1 = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("020100")


@pytest.mark.parametrize(("there", "instead", "complaint"), [
    (EC_KEY, EC_KEY[:-1] + b"\x7f", "x509: Unknown key type: 1.2.840.10045.2.127"),
    (VERSION_1, VERSION_1[:-1] + b"\x07", "x509: 7 is not a valid CSR version"),
])
def test_a_request_that_cannot_be_judged(request_text: str, there: bytes, instead: bytes, complaint: str) -> None:
    der = x509.load_pem_x509_csr(base64.b64decode(request_text)).public_bytes(serialization.Encoding.DER)
    assert der.count(there) >= 1
    body = base64.encodebytes(der.replace(there, instead, 1)).decode()
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    found = create_errors(CSR, csr(base64.b64encode(text.encode()).decode()))
    assert [line.endswith(complaint) for line in found] == [True]


def test_an_unknown_usage(request_text: str) -> None:
    assert create_errors(CSR, csr(request_text, usages=["flying"]))[0].startswith(
        'spec.usages[0]: Unsupported value: "flying": supported values: "any", "cert sign", "client auth"')


APPROVED = {"type": "Approved", "status": "True", "reason": "Fine"}


def test_only_approval_approves(request_text: str) -> None:
    old = csr(request_text)
    new = csr(request_text) | {"status": {"conditions": [dict(APPROVED)]}}
    assert update_errors(CSR, old, new, "approval") == []
    assert update_errors(CSR, old, new) == []  # the main door keeps the old status
    assert update_errors(CSR, old, new, "status") == [
        'status.conditions: Forbidden: updates may not add a condition of type "Approved"']


def issued(request_text: str) -> str:
    """A certificate for the request, made by the one who asks."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.load_pem_x509_csr(base64.b64decode(request_text))
    made_at = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = x509.CertificateBuilder(
        request.subject, request.subject, key.public_key(), 1, made_at, made_at).sign(key, hashes.SHA256())
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.PEM)).decode()


@pytest.mark.parametrize(("text", "complaint"), [
    ("eA==", "must contain at least one CERTIFICATE PEM block"),
    (base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n").decode(),
     'only CERTIFICATE PEM blocks are allowed, found "PRIVATE KEY"'),
    (base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").decode(), "x509: "),
])
def test_what_is_no_certificate(request_text: str, text: str, complaint: str) -> None:
    new = csr(request_text) | {"status": {"certificate": text}}
    found = update_errors(CSR, csr(request_text), new, "status")
    assert [line.startswith(f'status.certificate: Invalid value: "<certificate data>": {complaint}')
            for line in found] == [True]


def test_a_certificate_is_issued_once(request_text: str) -> None:
    old = made(CSR, csr(request_text))
    new = deepcopy(old)
    new["status"] = {"certificate": issued(request_text)}
    rules = strategy(CSR)
    assert rules.validate_update(new, old, context("status")) == []
    other = deepcopy(old)
    other["status"] = {"certificate": issued(request_text)}
    assert [str(error) for error in rules.validate_update(other, new, context("status"))] == [
        "status.certificate: Forbidden: updates may not modify existing certificate content"]


def test_an_approval_is_stamped_and_brings_no_certificate(request_text: str) -> None:
    old = made(CSR, csr(request_text))
    new = deepcopy(old)
    new["status"] = {"conditions": [dict(APPROVED)], "certificate": "eA=="}
    strategy(CSR).prepare_update(new, old, context("approval"))
    now = "2026-01-02T03:04:05Z"
    assert new["status"] == {"conditions": [APPROVED | {"lastUpdateTime": now, "lastTransitionTime": now}]}


def test_a_decision_stands(request_text: str) -> None:
    old = made(CSR, csr(request_text))
    old["status"] = {"conditions": [dict(APPROVED)]}
    for conditions, expected in (
        ([], ['status.conditions: Forbidden: updates may not remove a condition of type "Approved"']),
        ([APPROVED, {"type": "Denied", "status": "True"}], []),
    ):
        new = deepcopy(old)
        new["status"] = {"conditions": conditions}
        assert [str(error) for error in strategy(CSR).validate_update(new, old, context("approval"))] == expected
    both = deepcopy(old)
    both["status"] = {"conditions": [APPROVED, {"type": "Denied", "status": "True"}]}
    assert [str(error) for error in strategy(CSR).validate(both, context("approval"))] == [
        'status.conditions[1].type: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive']
