"""Who may do what, where there are several nodes: what a node's own certificate opens, and pods with their tokens."""

from __future__ import annotations

import json
from functools import partial

import pytest

from tests.support.kubectl import binary
from tests.support.lab import LabHandle, LabSpace
from tests.support.space import patience

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"


def as_node(lab: LabHandle, node: str, method: str, path: str, body: str = "") -> tuple[int, str]:
    """An HTTPS request with the certificate that the node's agent has: the code, and the Status's message if any."""
    pki = lab.hosts[node].directories["data"] / "agent" / "pki"
    if not pki.exists():
        pki = next(lab.hosts[node].directories["data"].rglob("node.pem")).parent
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    done = lab.exec(node, "curl", "--silent", "--max-time", "30", "--request", method, "--cacert", f"{pki}/ca.crt",
                    "--cert", f"{pki}/node.pem", "--header", f"Content-Type: {content_type}",
                    *(("--data", body) if body else ()), "--write-out", "\n%{http_code}", lab.server + path)
    text, _, code = done.rpartition("\n")
    return int(code), str(json.loads(text).get("message", ""))


def test_a_nodes_certificate_opens_what_is_its_own(lab: LabHandle, space: LabSpace) -> None:
    one, two = (node.name for node in lab.workers[:2])
    for node in (one, two):
        space.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"for-{node}"},
                      "stringData": {"a": "b"}})
        space.pod(f"on-{node}", nodeName=node, terminationGracePeriodSeconds=0,
                  volumes=[{"name": "v", "secret": {"secretName": f"for-{node}"}}])
    space.ready(f"on-{one}", f"on-{two}")
    here = f"/api/v1/namespaces/{space.name}"
    for path in (f"/api/v1/nodes/{one}", f"{here}/pods/on-{one}", f"{here}/secrets/for-{one}",
                 f"/api/v1/pods?fieldSelector=spec.nodeName%3D{one}", "/api/v1/services"):
        assert as_node(lab, one, "GET", path)[0] == 200, path
    for method, path, body, words in (
            ("GET", f"/api/v1/nodes/{two}", "", "only its own Node object"),
            ("GET", f"{here}/pods/on-{two}", "", "no relationship found between node"),
            ("GET", f"{here}/secrets/for-{two}", "", "no relationship found between node"),
            ("GET", "/api/v1/secrets", "", "can only read namespaced object"),
            ("GET", "/api/v1/pods", "", "spec.nodeName field selector"),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "", "cannot list resource"),
            ("DELETE", f"{here}/pods/on-{two}", "", "can only delete pods with spec.nodeName set to itself"),
            ("DELETE", f"/api/v1/nodes/{two}", "", "cannot delete resource"),
            ("PATCH", f"/api/v1/nodes/{two}/status", '{"status": {"phase": "x"}}', "is not allowed to modify node"),
            ("PATCH", f"/api/v1/nodes/{one}", '{"metadata": {"labels": {"node-role.kubernetes.io/x": ""}}}',
             "is not allowed to modify labels"),
            ("PATCH", f"{here}/pods/on-{two}/status", '{"status": {"phase": "Failed"}}', "can only update pod status"),
            ("POST", f"{here}/serviceaccounts/default/token", '{"spec": {}}', "not bound to a pod")):
        code, message = as_node(lab, one, method, path, body)
        assert (code, words in message) == (403, True), (method, path, code, message)


def test_a_pod_on_each_node_uses_its_token(lab: LabHandle, space: LabSpace) -> None:
    space("create", "role", "reader", "--verb=get,list", "--resource=pods")
    space("create", "rolebinding", "readers", "--role=reader", f"--serviceaccount={space.name}:default")
    tool = {"volumes": [{"name": "kubectl", "hostPath": {"path": str(binary("1.32")), "type": "File"}}],
            "app": {"volumeMounts": [{"name": "kubectl", "mountPath": "/kubectl", "readOnly": True}]}}
    for node in lab.workers:
        space.pod(f"on-{node.name}", nodeName=node.name, terminationGracePeriodSeconds=0, **tool)
    command = ("/kubectl", "--cache-dir=/tmp/cache", "get")

    def sees_itself(name: str) -> bool:
        return f"pod/{name}" in space.run(name, *command, "pods", "-o", "name", check=False)

    for node in lab.workers:
        name = f"on-{node.name}"
        space.ready(name)
        patience("kubectl in a pod reaches the Service kubernetes", partial(sees_itself, name))
        refused = space.run(name, *command, "secrets", check=False)
        assert f'User "system:serviceaccount:{space.name}:default" cannot list resource "secrets"' in refused


def test_without_its_master_an_agent_goes_on_with_the_tokens_it_has(lab: LabHandle, space: LabSpace) -> None:
    node = lab.workers[0].name
    space.pod("keeps", nodeName=node, terminationGracePeriodSeconds=0)
    space.ready("keeps")
    token, box = space.run("keeps", "cat", TOKEN), space.boxes("keeps")[0]["Id"]
    lab.stop("master", "master")
    try:
        starts = lab.log(node).count(f"node {node} is up")
        lab.restart(node, "agent", kill=True)
        patience("the agent has begun again", lambda: lab.log(node).count(f"node {node} is up") > starts)
        assert lab.docker(node, "exec", box, "cat", TOKEN) == token
    finally:
        lab.start("master", "master")
    patience("exec through the agent's line to the master, with the same token",
             lambda: space.run("keeps", "cat", TOKEN, check=False) == token, 60)
    assert space.boxes("keeps")[0]["Id"] == box
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    found = json.loads(space("create", "-f", "-", "-o", "json", stdin=json.dumps(review)))
    assert found["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"] == [node]
