"""What agents ask of the master for others, over their own line."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.link.authority import Action, AuthorityError, AuthorityRefused, Caller, TokenOrder
from agent.link.files import NodeFiles
from agent.link.link import Link
from master.nodes.service import NodeService, ServerTls
from sampan.client.informer import InformerFactory
from sampan.loop.backoff import Backoff
from sampan.loop.clock import SystemClock
from sampan.pki.ca import Identity
from tests.support.apiserver import Running

RBAC = "/apis/rbac.authorization.k8s.io/v1"
PODS, ACCOUNTS = "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/serviceaccounts"
METRICS = Action("get", "metrics")


@asynccontextmanager
async def line(api: Running) -> AsyncIterator[Link]:
    """An agent's line, as node n1, once it is connected."""
    clock = SystemClock()
    informers = InformerFactory(api.parts.client, clock)
    pair = api.authority.issue(Identity("master"), names=["127.0.0.1"], usages=("server auth",))
    tls = ServerTls(pair.certificate, pair.key, api.authority.certificate)
    service = NodeService(api.parts.client, informers, lambda: tls, "127.0.0.1:0",
                          authority=api.parts.node_authority())
    running = [asyncio.create_task(informers.run()), asyncio.create_task(service.run())]
    try:
        async with asyncio.timeout(60):
            await service.started.wait()
        files = NodeFiles(api.directory / "node")
        files.store(api.authority.issue(Identity("system:node:n1", ("system:nodes",))), api.authority.certificate)
        link = Link("n1", [f"127.0.0.1:{service.port}"], files, clock, backoff=Backoff(initial=0.02, maximum=0.2))
        running.insert(0, asyncio.create_task(link.run()))
        async with asyncio.timeout(60):
            await link.connected.wait()
        yield link
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.fixture
async def cluster(api: Running) -> Running:
    """Two nodes with a pod each."""
    await api.ok("POST", ACCOUNTS, {"metadata": {"name": "default"}})
    await api.ok("POST", ACCOUNTS, {"metadata": {"name": "prom"}})
    for number in (1, 2):
        await api.ok("POST", "/api/v1/nodes", {"metadata": {"name": f"n{number}"}})
        await api.ok("POST", PODS, {"metadata": {"name": f"p{number}"}, "spec": {
            "nodeName": f"n{number}", "containers": [{"name": "c", "image": "i"}]}})
    return api


async def order(api: Running, pod: str, /, **changes: Any) -> TokenOrder:
    uid = (await api.ok("GET", f"{PODS}/{pod}"))["metadata"]["uid"]
    return TokenOrder(**{"namespace": "default", "pod": pod, "uid": uid, "service_account": "default", "audiences": (),
                         "seconds": 3607, **changes})


async def test_a_token_for_a_pod_here(cluster: Running) -> None:
    async with line(cluster) as link:
        issued = await link.authority.issue_token(await order(cluster, "p1"))
        assert (issued.expires - issued.issued).total_seconds() == 3607
        review = {"spec": {"token": issued.token}}
        found = await cluster.ok("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        assert found["status"]["user"]["username"] == "system:serviceaccount:default:default"
        other = await link.authority.issue_token(await order(cluster, "p1", audiences=("vault",), seconds=600))
        payload = other.token.split(".")[1]
        assert b'"aud":["vault"]' in base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))


@pytest.mark.parametrize(("pod", "changes", "message"), [
    ("p2", {}, "node requested token bound to a pod scheduled on a different node"),
    ("p1", {"uid": "another"}, "does not match the UID in record"),
    ("p1", {"uid": ""}, "node requested token with a pod binding without a uid"),
    ("p1", {"service_account": "prom"}, "to pod running with different serviceaccount name."),
    ("p1", {"service_account": "nobody"}, 'serviceaccounts "nobody" not found'),
    ("p1", {"pod": "p9"}, 'pods "p9" not found'),
])
async def test_no_token_for_others(cluster: Running, pod: str, changes: dict[str, Any], message: str) -> None:
    async with line(cluster) as link:
        with pytest.raises(AuthorityRefused, match=message):
            await link.authority.issue_token(await order(cluster, pod, **changes))


async def test_no_token_for_a_mirror_pod(cluster: Running) -> None:
    """A node may make such pods in every namespace: it would get the token of each one's default account."""
    meta = {"name": "mirror", "annotations": {"kubernetes.io/config.mirror": "x"}}
    await cluster.ok("POST", PODS, {"metadata": meta, "spec": {
        "nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
    async with line(cluster) as link:
        with pytest.raises(AuthorityError, match="to pod running with different serviceaccount name"):
            await link.authority.issue_token(await order(cluster, "mirror"))


async def test_who_may_read_the_nodes_port(cluster: Running) -> None:
    rules = [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
             {"nonResourceURLs": ["/healthz"], "verbs": ["get"]}]
    await cluster.ok("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "scrape"}, "rules": rules})
    await cluster.ok("POST", f"{RBAC}/clusterrolebindings", {
        "metadata": {"name": "scrape"}, "roleRef": {"kind": "ClusterRole", "name": "scrape"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "prom"}]})
    token = (await cluster.ok("POST", f"{ACCOUNTS}/prom/token", {}))["status"]["token"]
    plain = (await cluster.ok("POST", f"{ACCOUNTS}/default/token", {}))["status"]["token"]
    async with line(cluster) as link:
        ask = link.authority.review
        prom, nobody = Caller(token=token), Caller()
        verdict = await ask(prom, METRICS)
        assert (verdict.authenticated, verdict.allowed) == (True, True)
        assert verdict.user == "system:serviceaccount:default:prom"
        assert "system:serviceaccounts" in verdict.groups
        assert (await ask(prom, Action("get", path="/healthz"))).allowed
        for action in (Action("get", "proxy"), Action("create", "metrics"), Action("get", path="/logs")):
            assert not (await ask(prom, action)).allowed
        verdict = await ask(Caller(token=plain), METRICS)
        assert (verdict.authenticated, verdict.allowed) == (True, False)
        assert verdict.reason == (
            'nodes "n1" is forbidden: User "system:serviceaccount:default:default" cannot get resource "nodes/metrics" '
            'in API group "" at the cluster scope')
        assert not (await ask(Caller(token="nonsense"), METRICS)).authenticated
        assert not (await ask(nobody, METRICS)).authenticated
        assert (await ask(Caller(name="root", groups=("system:masters",)), METRICS)).allowed
        assert not (await ask(Caller(name="system:node:n1", groups=("system:nodes",)), METRICS)).allowed
        await cluster.ok("DELETE", f"{RBAC}/clusterrolebindings/scrape")
        assert (await ask(prom, METRICS)).allowed  # remembered for a while


async def test_without_a_line_nobody_answers(cluster: Running) -> None:
    async with line(cluster) as link:
        wanted = await order(cluster, "p1")
    with pytest.raises(AuthorityError, match="no connection"):
        await link.authority.issue_token(wanted)
