"""Roles, bindings and tokens with the real kubectl; and kubectl in a pod, with nothing but what the cluster gave it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.kubectl import Kubectl, binary, one_version

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: NAMESPACE}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: inside}
spec:
  serviceAccountName: bot
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: sampan-test/box:1
    command: [sleep, "100000"]
    volumeMounts: [{name: kubectl, mountPath: /kubectl, readOnly: true}]
  volumes:
  - name: kubectl
    hostPath: {path: BINARY, type: File}
"""


def by_token(kubectl: Kubectl, cluster: ClusterHandle, token: str, *arguments: str) -> tuple[int, str]:
    """kubectl with a bearer token instead of a certificate: its exit code, and all that it says."""
    server = kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
    command = [*kubectl.prefix, str(binary(kubectl.version)), "--kubeconfig=/dev/null", f"--server={server}",
               f"--certificate-authority={cluster.directory}/data/master/pki/ca.crt", f"--token={token}",
               f"--namespace={kubectl.namespace}", f"--cache-dir={kubectl.home}/cache-token", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=kubectl.env, check=False)
    return done.returncode, done.stdout + done.stderr


def test_roles_are_made_shown_and_count(kubectl: Kubectl) -> None:
    kubectl("create", "serviceaccount", "bot")
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods,pods/log,deployments.apps/scale")
    kubectl("create", "rolebinding", "readers", "--role=reader", "--user=ann", "--group=staff",
            f"--serviceaccount={kubectl.namespace}:bot")
    assert kubectl.json("get", "role", "reader")["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "list"]}]
    shown = kubectl("get", "rolebinding", "readers", "-o", "wide", "--no-headers").split()
    assert shown[:2] == ["readers", "Role/reader"]
    assert shown[3:] == ["ann", "staff", f"{kubectl.namespace}/bot"]
    account = f"system:serviceaccount:{kubectl.namespace}:bot"
    for who, verb, what, answer in (("ann", "list", "pods", "yes"), ("ann", "get", "pods/log", "yes"),
                                    ("ann", "delete", "pods", "no"), (account, "list", "pods", "yes"),
                                    (account, "list", "secrets", "no"), ("joe", "list", "pods", "no")):
        assert kubectl.run("auth", "can-i", verb, what, "--as", who).out.strip() == answer, (who, verb, what)
    assert kubectl.run("auth", "can-i", "get", "pods", "--as=joe", "--as-group=staff").out == "yes\n"
    assert kubectl("auth", "can-i", "*", "*") == "yes\n"
    listed = kubectl("auth", "can-i", "--list", "--as", account)
    assert [line.split() for line in listed.splitlines() if line.startswith("pods ")] == [
        ["pods", "[]", "[]", "[get", "list]"]]
    refused = kubectl.run("get", "secrets", "--as", account)
    assert refused.err == (f'Error from server (Forbidden): secrets is forbidden: User "{account}" cannot list '
                           f'resource "secrets" in API group "" in the namespace "{kubectl.namespace}"\n')
    assert "PolicyRule:\n  Resources " in kubectl("describe", "role", "reader")
    kubectl("set", "subject", "rolebinding", "readers", "--user=bob")
    assert kubectl.run("auth", "can-i", "list", "pods", "--as=bob").out == "yes\n"


def test_cluster_roles(kubectl: Kubectl) -> None:
    name = kubectl.namespace
    kubectl("create", "clusterrole", name, "--verb=get", "--non-resource-url=/metrics", "--non-resource-url=/logs/*")
    kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", "--group=monitors")
    kubectl("create", "rolebinding", "view", "--clusterrole=view", "--user=ann")
    try:
        for path, answer in (("/metrics", "yes"), ("/logs/a", "yes"), ("/debug", "no")):
            assert kubectl.run("auth", "can-i", "get", path, "--as=x", "--as-group=monitors").out.strip() == answer
        assert kubectl.run("auth", "can-i", "list", "deployments", "--as=ann").out == "yes\n"
        assert kubectl.run("auth", "can-i", "list", "secrets", "--as=ann").out == "no\n"
        rules = kubectl.json("get", "clusterrole", "admin")["rules"]
        assert any("rolebindings" in rule["resources"] for rule in rules)  # aggregated from three levels
        assert kubectl("get", "clusterroles", "--no-headers", "-l", "kubernetes.io/bootstrapping=rbac-defaults"
                       ).count("\n") > 25
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", name)


@one_version
def test_reconcile(kubectl: Kubectl) -> None:
    manifest = ROLE.replace("NAMESPACE", kubectl.namespace)  # this command does not look at --namespace
    assert kubectl("auth", "reconcile", "-f", "-", stdin=manifest).splitlines() == [
        "role.rbac.authorization.k8s.io/reader reconciled", "rolebinding.rbac.authorization.k8s.io/readers reconciled"]
    more = manifest.replace("[get, list]", "[get, watch]").replace("name: ann", "name: bob")
    kubectl("auth", "reconcile", "-f", "-", stdin=more)
    rules = kubectl.json("get", "role", "reader")["rules"]
    assert sorted(verb for rule in rules for verb in rule["verbs"]) == ["get", "list", "watch"]
    kubectl("auth", "reconcile", "--remove-extra-permissions", "--remove-extra-subjects", "-f", "-", stdin=more)
    assert kubectl.json("get", "role", "reader")["rules"][0]["verbs"] == ["get", "watch"]
    assert [item["name"] for item in kubectl.json("get", "rolebinding", "readers")["subjects"]] == ["bob"]


def test_tokens(kubectl: Kubectl, cluster: ClusterHandle) -> None:
    kubectl("create", "serviceaccount", "bot")
    kubectl("create", "rolebinding", "view", "--clusterrole=view", f"--serviceaccount={kubectl.namespace}:bot")
    token = kubectl("create", "token", "bot", "--duration=15m").strip()
    assert by_token(kubectl, cluster, token, "get", "pods") == (
        0, f"No resources found in {kubectl.namespace} namespace.\n")
    code, text = by_token(kubectl, cluster, token, "get", "secrets")
    assert code == 1
    assert f'User "system:serviceaccount:{kubectl.namespace}:bot" cannot list resource "secrets"' in text
    made = kubectl.json("create", "token", "bot", "--audience=vault")
    assert made["spec"]["audiences"] == ["vault"]
    assert "You must be logged in" in by_token(kubectl, cluster, made["status"]["token"], "get", "pods")[1]
    assert "serviceaccounts \"none\" not found" in kubectl.run("create", "token", "none").err
    kubectl("delete", "serviceaccount", "bot")
    assert "You must be logged in" in by_token(kubectl, cluster, token, "get", "pods")[1]


@one_version
def test_who_am_i(kubectl: Kubectl, cluster: ClusterHandle) -> None:
    assert "system:masters" in kubectl("auth", "whoami")
    kubectl("create", "serviceaccount", "bot")
    token = kubectl("create", "token", "bot").strip()
    code, text = by_token(kubectl, cluster, token, "auth", "whoami", "-o", "json")
    assert code == 0
    user = json.loads(text)["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{kubectl.namespace}:bot"
    assert user["groups"] == ["system:serviceaccounts", f"system:serviceaccounts:{kubectl.namespace}",
                              "system:authenticated"]


@one_version
def test_kubectl_in_a_pod(kubectl: Kubectl) -> None:
    kubectl("create", "serviceaccount", "bot")
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "readers", "--role=reader", f"--serviceaccount={kubectl.namespace}:bot")
    kubectl("create", "-f", "-", stdin=POD.replace("BINARY", str(binary(kubectl.version))))
    kubectl("wait", "pod/inside", "--for=condition=Ready", "--timeout=60s")
    inside = ("exec", "inside", "--", "/kubectl", "--cache-dir=/tmp/cache")
    assert kubectl(*inside, "get", "pods", "-o", "name") == "pod/inside\n"
    refused = kubectl.run(*inside, "get", "secrets")
    assert (f'secrets is forbidden: User "system:serviceaccount:{kubectl.namespace}:bot" cannot list resource '
            '"secrets" in API group') in refused.err
    user = json.loads(kubectl(*inside, "auth", "whoami", "-o", "json"))["status"]["userInfo"]
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["inside"]
    files = kubectl("exec", "inside", "--", "ls", "-1", "/var/run/secrets/kubernetes.io/serviceaccount").split()
    assert files == ["ca.crt", "namespace", "token"]
