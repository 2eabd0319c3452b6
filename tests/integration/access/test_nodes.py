"""What a node's certificate opens, over HTTPS: itself, its pods and what these refer to, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from master.nodes.identity import Known
from tests.support.apiserver import Running

PODS, SECRETS = "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/secrets"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
MERGE = "application/merge-patch+json"


@pytest.fixture
async def cluster(api: Running) -> Running:
    """Two nodes with a pod each, that mount a Secret each."""
    await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    for number in (1, 2):
        await api.ok("POST", "/api/v1/nodes", {"metadata": {"name": f"n{number}"}})
        await api.ok("POST", SECRETS, {"metadata": {"name": f"s{number}"}, "stringData": {"a": "b"}})
        volume = {"name": "v", "secret": {"secretName": f"s{number}"}}
        await api.ok("POST", PODS, {"metadata": {"name": f"p{number}"}, "spec": {
            "nodeName": f"n{number}", "volumes": [volume], "containers": [{"name": "c", "image": "i"}]}})
    return api


@asynccontextmanager
async def node(api: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with api.client_session("system:node:n1", ["system:nodes"]) as session:
        yield session


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/api/v1/nodes/n1"), ("GET", f"{PODS}/p1"), ("GET", f"{SECRETS}/s1"), ("GET", "/api/v1/services"),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1"), ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1"),
    ("GET", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"), ("GET", "/api")])
async def test_what_it_reads(cluster: Running, method: str, path: str) -> None:
    async with node(cluster) as session:
        assert (await cluster.request(method, path, session=session)).code in (200, 404)


@pytest.mark.parametrize(("method", "path", "why"), [
    ("GET", "/api/v1/nodes/n2", "node 'n1' cannot read 'n2', only its own Node object"),
    ("GET", "/api/v1/nodes", "node 'n1' cannot read all nodes, only its own Node object"),
    ("DELETE", "/api/v1/nodes/n1", "cannot delete resource"),
    ("GET", f"{PODS}/p2", "no relationship found between node 'n1' and this object"),
    ("GET", "/api/v1/pods", "can only list/watch pods with spec.nodeName field selector"),
    ("GET", "/api/v1/pods?watch=1", "can only list/watch pods with spec.nodeName field selector"),
    ("DELETE", f"{PODS}/p2", 'node "n1" can only delete pods with spec.nodeName set to itself'),
    ("DELETE", PODS, "cannot deletecollection resource"),
    ("GET", f"{PODS}/p1/log", "cannot get resource"),
    ("GET", f"{SECRETS}/s2", "no relationship found between node 'n1' and this object"),
    ("GET", SECRETS, "No Object name found"),
    ("DELETE", f"{SECRETS}/s1", "can only read resources of this type"),
    ("GET", f"{LEASES}/n2", "can only access node lease with the same name as the requesting node"),
    ("GET", LEASES, "can only get, create, update, patch, or delete a node lease"),
    ("GET", "/apis/apps/v1/deployments", "cannot list resource"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "cannot list resource"),
    ("GET", "/metrics", "cannot get path"),
])
async def test_what_it_must_not(cluster: Running, method: str, path: str, why: str) -> None:
    async with node(cluster) as session:
        status = await cluster.refused(403, method, path, session=session)
        assert why in status["message"]


@pytest.mark.parametrize(("method", "path", "body", "why"), [
    ("PATCH", "/api/v1/nodes/n2/status", {"status": {"nodeInfo": None}},
     'node "n1" is not allowed to modify node "n2"'),
    ("PATCH", "/api/v1/nodes/n1", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}},
     'node "n1" is not allowed to modify taints'),
    ("PATCH", "/api/v1/nodes/n1", {"spec": {"podCIDR": "0.0.0.0/1"}},
     'node "n1" is not allowed to modify spec.podCIDRs'),
    ("PATCH", "/api/v1/nodes/n1", {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}},
     "is not allowed to modify labels: node-role.kubernetes.io/control-plane"),
    ("PATCH", "/api/v1/nodes/n1", {"metadata": {"labels": {"node-restriction.kubernetes.io/pci": "1"}}},
     "is not allowed to modify labels: node-restriction.kubernetes.io/pci"),
    ("POST", "/api/v1/nodes", {"metadata": {"name": "n3"}}, 'node "n1" is not allowed to modify node "n3"'),
    ("PATCH", f"{PODS}/p2/status", {"status": {"phase": "Failed"}},
     'node "n1" can only update pod status for pods with spec.nodeName set to itself'),
    ("PATCH", f"{PODS}/p1/status", {"metadata": {"labels": {"a": "b"}}}, 'node "n1" cannot update labels through pod'),
    ("PATCH", f"{PODS}/p1", {"metadata": {"labels": {"a": "b"}}}, "cannot patch resource"),
    ("POST", PODS, {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
     'pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods'),
    ("POST", f"{PODS}/p2/eviction", {"apiVersion": "policy/v1", "kind": "Eviction"},
     'node "n1" can only delete pods with spec.nodeName set to itself'),
    ("POST", f"{PODS}/p1/binding", {"target": {"name": "n1"}}, "cannot create resource"),
    ("POST", LEASES, {"metadata": {"name": "n2"}}, "can only access node lease with the same name"),
    ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": {}},
     "node requested token not bound to a pod"),
])
async def test_what_it_must_not_write(cluster: Running, method: str, path: str, body: Any, why: str) -> None:
    async with node(cluster) as session:
        content_type = MERGE if method == "PATCH" else "application/json"
        status = await cluster.refused(403, method, path, body, session=session, content_type=content_type)
        assert why in status["message"]


async def test_what_it_writes(cluster: Running) -> None:
    async with node(cluster) as session:
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        await cluster.ok("PATCH", "/api/v1/nodes/n1/status", ready, session=session, content_type=MERGE)
        await cluster.ok("PATCH", "/api/v1/nodes/n1", {"metadata": {"labels": {"team": "a"}}}, session=session,
                         content_type=MERGE)
        await cluster.ok("POST", LEASES, {"metadata": {"name": "n1"}}, session=session)
        await cluster.ok("PATCH", f"{PODS}/p1/status", {"status": {"phase": "Running"}}, session=session,
                         content_type=MERGE)
        review = {"spec": {"token": "x"}}
        await cluster.ok("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review, session=session)
        await cluster.ok("DELETE", f"{PODS}/p1", {"gracePeriodSeconds": 0}, session=session)


async def test_a_deleted_node_does_not_come_back_this_way(cluster: Running) -> None:
    async with node(cluster) as session:
        await cluster.ok("DELETE", "/api/v1/nodes/n1")
        others = {"metadata": {"name": "n1"}, "spec": {"podCIDR": "0.0.0.0/1"}}
        status = await cluster.refused(403, "POST", "/api/v1/nodes", others, session=session)
        assert 'node "n1" is not allowed to modify spec.podCIDRs' in status["message"]
        await cluster.ok("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}}, session=session)
        await cluster.ok("DELETE", "/api/v1/nodes/n1")
        known = {"metadata": {"name": "node-identities"}, "data": {"n1": "seen there"}}
        await cluster.ok("POST", "/api/v1/namespaces/kube-system/configmaps", known)
        status = await cluster.refused(403, "POST", "/api/v1/nodes", {"metadata": {"name": "n1"}}, session=session)
        assert 'node "n1" has been deleted from the cluster' in status["message"]


async def test_a_node_is_not_spoken_for_by_its_old_certificates(cluster: Running) -> None:
    now = datetime.now(UTC)
    table = "/api/v1/namespaces/kube-system/configmaps/node-identities"
    async with node(cluster) as session:
        await cluster.ok("GET", "/api/v1/nodes/n1", session=session)
        rejoined = Known(now, now, 7)  # another host has joined in its place
        await cluster.ok("POST", table.rpartition("/")[0], {
            "metadata": {"name": "node-identities"}, "data": {"n1": rejoined.text()}})
        for method, path in (("GET", f"{SECRETS}/s1"), ("POST", REQUESTS)):
            status = await cluster.refused(403, method, path, {} if method == "POST" else None, session=session)
            assert status["message"] == (
                'this certificate of node "n1" is from before the node last joined; join again')
        joined = Known(now - timedelta(days=2), now - timedelta(days=1), 7)
        await cluster.ok("PATCH", table, {"data": {"n1": joined.text()}}, content_type=MERGE)
        await cluster.ok("GET", f"{SECRETS}/s1", session=session)
        await cluster.ok("DELETE", "/api/v1/nodes/n1")
        await cluster.refused(404, "GET", "/api/v1/nodes/n1", session=session)  # it may be about to register
        renewed = Known(joined.since, now, 8)
        await cluster.ok("PATCH", table, {"data": {"n1": renewed.text()}}, content_type=MERGE)
        status = await cluster.refused(403, "POST", REQUESTS, {}, session=session)
        assert status["message"] == 'node "n1" has been deleted from the cluster; join again with a new token'


async def test_it_loses_with_its_pod_what_that_referred_to(cluster: Running) -> None:
    async with node(cluster) as session:
        await cluster.ok("GET", f"{SECRETS}/s1", session=session)
        await cluster.ok("DELETE", f"{PODS}/p1", {"gracePeriodSeconds": 0})
        await cluster.refused(403, "GET", f"{SECRETS}/s1", session=session)


async def test_tokens_only_for_its_own_pods(cluster: Running) -> None:
    path = "/api/v1/namespaces/default/serviceaccounts/default/token"
    async with node(cluster) as session:
        for name, code in (("p1", 201), ("p2", 403)):
            uid = (await cluster.ok("GET", f"{PODS}/{name}"))["metadata"]["uid"]
            ref = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
            answer = await cluster.request("POST", path, {"spec": {"boundObjectRef": ref}}, session=session)
            assert answer.code == code, answer.body
        ref = {"apiVersion": "v1", "kind": "Pod", "name": "p1"}
        status = await cluster.refused(403, "POST", path, {"spec": {"boundObjectRef": ref}}, session=session)
        assert "node requested token with a pod binding without a uid" in status["message"]
