"""What a node may do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from master.apiserver.auth import ANONYMOUS, AUTHENTICATED
from master.apiserver.authorization import defaults
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.nodes import NodeAuthorizer, NodePods, node_of
from master.apiserver.entry import Entry
from master.apiserver.request import parse
from master.apiserver.strategy import User

NODE = User("system:node:n1", ("system:nodes", AUTHENTICATED))
LEASES = "/apis/coordination.k8s.io/v1/namespaces"


def pod(name: str, node: str = "", *, namespace: str = "ns", secret: str = "", revision: int = 1) -> Entry:
    spec: dict[str, Any] = {"containers": [{"name": "main"}], "serviceAccountName": f"{name}-account"}
    if node:
        spec["nodeName"] = node
    if secret:
        spec["volumes"] = [{"name": "v", "secret": {"secretName": secret}},
                           {"name": "w", "projected": {"sources": [{"configMap": {"name": f"{secret}-config"}}]}}]
    meta = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    return Entry(msgspec.json.encode({"metadata": meta, "spec": spec}), revision, namespace, name)


def authorizer(*pods: Entry) -> NodeAuthorizer:
    known = NodePods()
    for entry in pods:
        known._changed(None, entry)
    return NodeAuthorizer(known, defaults.NODE_RULES)


@pytest.fixture(scope="module")
def rule() -> NodeAuthorizer:
    return authorizer(pod("mine", "n1", secret="mine"), pod("other", "n2", secret="theirs"), pod("waiting", secret="x"),
                      pod("mine", "n2", namespace="elsewhere", secret="far"))


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/api/v1/nodes/n1", True),
    ("GET", "/api/v1/nodes/n2", False),
    ("GET", "/api/v1/nodes", False),
    ("GET", "/api/v1/nodes?watch=1", False),
    ("GET", "/api/v1/nodes?watch=1&fieldSelector=metadata.name%3Dn1", True),
    ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn2", False),
    ("POST", "/api/v1/nodes", True),  # the rest NodeRestriction decides
    ("PATCH", "/api/v1/nodes/n1/status", True),
    ("DELETE", "/api/v1/nodes/n1", False),
    ("GET", "/api/v1/nodes/n1/proxy/", False),
    ("GET", "/api/v1/namespaces/ns/pods/mine", True),
    ("GET", "/api/v1/namespaces/ns/pods/other", False),
    ("GET", "/api/v1/namespaces/ns/pods/waiting", False),
    ("GET", "/api/v1/namespaces/elsewhere/pods/mine", False),
    ("GET", "/api/v1/pods", False),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", True),
    ("GET", "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D%3Dn1", True),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", False),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn2", False),
    ("DELETE", "/api/v1/namespaces/ns/pods/mine", True),
    ("DELETE", "/api/v1/namespaces/ns/pods", False),
    ("PUT", "/api/v1/namespaces/ns/pods/mine", False),
    ("PUT", "/api/v1/namespaces/ns/pods/mine/status", True),
    ("POST", "/api/v1/namespaces/ns/pods/mine/eviction", True),
    ("POST", "/api/v1/namespaces/ns/pods/mine/binding", False),
    ("GET", "/api/v1/namespaces/ns/pods/mine/exec", False),
    ("GET", "/api/v1/namespaces/ns/pods/mine/log", False),
    ("GET", "/api/v1/namespaces/ns/secrets/mine", True),
    ("GET", "/api/v1/namespaces/ns/secrets/theirs", False),
    ("GET", "/api/v1/namespaces/ns/secrets/x", False),
    ("GET", "/api/v1/namespaces/elsewhere/secrets/mine", False),
    ("GET", "/api/v1/namespaces/ns/secrets", False),
    ("GET", "/api/v1/secrets", False),
    ("GET", "/api/v1/namespaces/ns/secrets?watch=1&fieldSelector=metadata.name%3Dmine", True),
    ("GET", "/api/v1/namespaces/ns/secrets?watch=1&fieldSelector=metadata.name%3Dtheirs", False),
    ("PUT", "/api/v1/namespaces/ns/secrets/mine", False),
    ("DELETE", "/api/v1/namespaces/ns/secrets/mine", False),
    ("GET", "/api/v1/namespaces/ns/configmaps/mine-config", True),
    ("GET", "/api/v1/namespaces/ns/configmaps/theirs-config", False),
    ("POST", "/api/v1/namespaces/ns/configmaps", False),
    ("POST", "/api/v1/namespaces/ns/serviceaccounts/mine-account/token", True),
    ("POST", "/api/v1/namespaces/ns/serviceaccounts/other-account/token", False),
    ("POST", "/api/v1/namespaces/ns/serviceaccounts", False),
    ("GET", "/api/v1/namespaces/ns/serviceaccounts/mine-account", False),
    ("GET", LEASES + "/kube-node-lease/leases/n1", True),
    ("PUT", LEASES + "/kube-node-lease/leases/n1", True),
    ("POST", LEASES + "/kube-node-lease/leases", True),
    ("GET", LEASES + "/kube-node-lease/leases/n2", False),
    ("GET", LEASES + "/kube-node-lease/leases", False),
    ("GET", LEASES + "/kube-system/leases/n1", False),
    ("GET", "/api/v1/services", True),
    ("POST", "/api/v1/services", False),
    ("POST", "/api/v1/namespaces/ns/events", True),
    ("GET", "/api/v1/namespaces/ns/events", False),
    ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", True),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", True),
    ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", True),
    ("PUT", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", False),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", False),
    ("POST", "/apis/apps/v1/namespaces/ns/deployments", False),
    ("GET", "/metrics", False),
])
def test_a_node(rule: NodeAuthorizer, method: str, path: str, allowed: bool) -> None:
    assert rule.decide(NODE, Attributes.of(parse(method, path))).allowed is allowed


@pytest.mark.parametrize(("user", "node", "known"), [
    (NODE, "n1", True), (User("system:node:n1"), "", False), (User("joe", ("system:nodes",)), "", False),
    (User("system:node:", ("system:nodes",)), "", True), (ANONYMOUS, "", False)])
def test_who_is_a_node(user: User, node: str, known: bool) -> None:
    assert node_of(user) == (node, known)


def test_others_are_not_its_concern(rule: NodeAuthorizer) -> None:
    asked = Attributes("get", "", "nodes", name="n1")
    assert not rule.decide(User("joe"), asked).allowed
    assert rule.decide(User("system:node:", ("system:nodes",)), asked).reason == 'unknown node for user "system:node:"'


@pytest.mark.parametrize(("path", "reason"), [
    ("/api/v1/nodes/n2", "node 'n1' cannot read 'n2', only its own Node object"),
    ("/api/v1/nodes", "node 'n1' cannot read all nodes, only its own Node object"),
    ("/api/v1/pods", "can only list/watch pods with spec.nodeName field selector"),
    ("/api/v1/namespaces/ns/secrets/theirs", "no relationship found between node 'n1' and this object"),
    ("/api/v1/secrets", "can only read namespaced object of this type"),
    (LEASES + "/kube-system/leases/n1", 'can only access leases in the "kube-node-lease" system namespace'),
])
def test_reasons_are_upstreams(rule: NodeAuthorizer, path: str, reason: str) -> None:
    assert rule.decide(NODE, Attributes.of(parse("GET", path))).reason == reason


def test_a_pods_life() -> None:
    pods = NodePods()
    rule = NodeAuthorizer(pods, [])
    secret = Attributes.of(parse("GET", "/api/v1/namespaces/ns/secrets/s"))
    waiting, bound = pod("p", secret="s"), pod("p", "n1", secret="s", revision=2)
    pods._changed(None, waiting)
    assert not rule.decide(NODE, secret).allowed
    pods._changed(waiting, bound)
    assert rule.decide(NODE, secret).allowed
    later = pod("p", "n1", secret="t", revision=3)
    pods._changed(bound, later)
    assert not rule.decide(NODE, secret).allowed  # read anew
    pods._changed(later, None)
    pods._changed(None, pod("p", "n2", secret="s", revision=4))  # another of that name
    assert not rule.decide(NODE, secret).allowed
    assert rule.decide(User("system:node:n2", ("system:nodes",)), secret).allowed
    assert set(pods._pods) == {"n2"}
