"""Who gets in, and how far."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from master.apiserver.auth import StaticTokens
from sampan.api.resources import SECRETS
from sampan.pki.ca import Authority, Identity, make_request, new_key
from sampan.pki.tokens import BootstrapToken
from tests.support.apiserver import Running, api_server

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


async def test_without_a_certificate_one_is_anonymous(api: Running) -> None:
    async with api.anonymous() as session:
        for path in ("/healthz", "/livez", "/readyz", "/version", "/cacerts"):
            assert (await api.request("GET", path, session=session)).code == 200
        assert (await api.request("GET", "/cacerts", session=session)).body == api.pki.path("ca.crt").read_bytes()
        status = await api.refused(403, "GET", "/api/v1/namespaces/y/pods", session=session)
        assert status["message"] == ('pods is forbidden: User "system:anonymous" cannot list resource "pods" in API '
                                     'group "" in the namespace "y"')
        await api.refused(403, "GET", "/metrics", session=session)


async def test_unknown_tokens_are_nobody(api: Running) -> None:
    async with api.anonymous() as session:
        status = await api.refused(401, "GET", "/api/v1/pods", session=session,
                                   headers={"Authorization": "Bearer nonsense"})
        assert (status["reason"], status["message"]) == ("Unauthorized", "Unauthorized")


async def test_a_foreign_certificate_fails_in_tls(api: Running) -> None:
    _, foreign = Authority.create("other")
    async with api.client_session("admin", ["system:masters"], foreign) as session:
        with pytest.raises(aiohttp.ClientError):
            await api.request("GET", "/version", session=session)


async def test_impersonation(api: Running) -> None:
    joe = {"Impersonate-User": "joe", "Impersonate-Group": "system:masters"}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    info = await api.ok("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, headers=joe)
    assert info["status"]["userInfo"] == {"username": "joe", "groups": ["system:masters", "system:authenticated"]}
    await api.refused(403, "GET", "/api/v1/pods", headers={"Impersonate-User": "joe"})
    async with api.client_session("mary") as session:
        status = await api.refused(403, "GET", "/api/v1/pods", session=session, headers=joe)
        assert 'cannot impersonate resource "users"' in status["message"]


async def test_what_may_i_do(api: Running) -> None:
    spec = {"resourceAttributes": {"namespace": "default", "verb": "delete", "resource": "pods"}}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
    assert (await api.ok("POST", REVIEWS, body))["status"]["allowed"] is True
    async with api.client_session("mary") as session:
        assert (await api.ok("POST", REVIEWS, body, session=session))["status"]["allowed"] is False
    await api.refused(422, "POST", REVIEWS, {**body, "spec": {}})
    rules = await api.ok("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
                         {"spec": {"namespace": "default"}})
    assert rules["status"]["resourceRules"][0]["verbs"] == ["*"]


async def test_a_node_joins_with_its_token(api: Running) -> None:
    token = BootstrapToken.new()
    await api.parts.client.create(SECRETS, token.to_secret(datetime.now(UTC) + timedelta(hours=1), "test"))
    bearer = {"Authorization": f"Bearer {token}"}
    request = make_request(new_key(), Identity("system:node:n", ("system:nodes",)))
    body = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "n"},
            "spec": {"request": base64.b64encode(request).decode(), "usages": ["client auth", "digital signature"],
                     "signerName": "kubernetes.io/kube-apiserver-client-kubelet"}}
    async with api.anonymous() as session:
        made = await api.ok("POST", CSRS, body, session=session, headers=bearer)
        assert made["spec"]["username"] == f"system:bootstrap:{token.id}"
        assert "system:bootstrappers" in made["spec"]["groups"]
        await api.ok("GET", CSRS + "/n", session=session, headers=bearer)
        await api.refused(403, "GET", CSRS, session=session, headers=bearer)
        await api.refused(403, "GET", "/api/v1/secrets", session=session, headers=bearer)
    approval = {**made, "status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Test",
                                                   "message": "ok"}]}}
    approved = await api.ok("PUT", CSRS + "/n/approval", approval)
    assert approved["status"]["conditions"][0]["type"] == "Approved"
    await api.ok("DELETE", f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{token.id}")
    async with api.anonymous() as session:
        await api.refused(401, "GET", CSRS + "/n", session=session, headers=bearer)


async def test_static_tokens(tmp_path: Path) -> None:
    tokens = StaticTokens([["secret", "alice", "1", "system:masters"]])
    async with api_server(tmp_path, authenticators=[tokens]) as api, api.anonymous() as session:
        bearer = {"Authorization": "Bearer secret"}
        assert (await api.ok("GET", "/api/v1/pods", session=session, headers=bearer))["items"] == []


def among_protocols(*tokens: str) -> list[str]:
    encoded = [base64.urlsafe_b64encode(token.encode()).decode().rstrip("=") for token in tokens]
    return [f"base64url.bearer.authorization.k8s.io.{token}" for token in encoded]


async def test_a_token_among_a_websocket_s_protocols(tmp_path: Path) -> None:
    """Browsers cannot send it otherwise. It is not answered with, and nothing but a handshake may carry it."""
    tokens = StaticTokens([["secret?", "alice", "1", "system:masters"]])
    path = "/api/v1/pods?watch=1"
    async with api_server(tmp_path, authenticators=[tokens]) as api, api.anonymous() as session:
        protocols = [*among_protocols("secret?"), "base64.binary.k8s.io"]
        async with session.ws_connect(api.url + path, protocols=protocols) as socket:
            assert socket.protocol == "base64.binary.k8s.io"
        header = {"Sec-WebSocket-Protocol": ", ".join(protocols)}
        await api.refused(403, "GET", "/api/v1/pods", session=session, headers=header)
        for wrong in (among_protocols("secret?"), [*among_protocols("other"), "a"],
                      [*among_protocols("secret?", "secret?"), "a"],
                      ["base64url.bearer.authorization.k8s.io.!", "a"]):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(api.url + path, protocols=wrong)
            assert caught.value.status == 401, wrong


async def test_nonsense_on_the_wire_ends_only_its_connection(api: Running) -> None:
    async with api.anonymous() as session:
        assert (await api.request("GET", "/healthz", session=session)).code == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")  # no TLS
    await writer.drain()
    await reader.read()  # until it is closed
    writer.close()
    assert (await api.request("GET", "/healthz")).code == 200
