"""Tokens of ServiceAccounts, over HTTPS."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import jwt
import pytest

from master.apiserver.accounts.signing import ISSUER, SigningKey
from master.controllers.account_tokens import AccountTokenController
from master.controllers.base import Deps
from master.controllers.role_aggregation import RoleAggregationController
from sampan.client.events import EventRecorder
from sampan.client.informer import InformerFactory
from sampan.loop.clock import SystemClock
from tests.support.apiserver import Running

ACCOUNTS, PODS = "/api/v1/namespaces/default/serviceaccounts", "/api/v1/namespaces/default/pods"
TOKEN = f"{ACCOUNTS}/bot/token"
REVIEW = "/apis/authentication.k8s.io/v1/tokenreviews"
BOT = "system:serviceaccount:default:bot"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def bot(api: Running) -> dict[str, Any]:
    found: dict[str, Any] = await api.ok("POST", ACCOUNTS, {"metadata": {"name": "bot"}})
    return found


async def new_token(api: Running, **spec: Any) -> str:
    return str((await api.ok("POST", TOKEN, {"spec": spec}))["status"]["token"])


async def make_pod(api: Running, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i"}
    made: dict[str, Any] = await api.ok("POST", PODS, {"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "bot", "containers": [container], **spec}})
    return made


async def reviewed(api: Running, token: str, *audiences: str) -> dict[str, Any]:
    spec = {"token": token} | ({"audiences": list(audiences)} if audiences else {})
    status: dict[str, Any] = (await api.ok("POST", REVIEW, {"spec": spec}))["status"]
    return status


async def test_a_token_and_what_it_says(api: Running, bot: dict[str, Any]) -> None:
    made = await api.ok("POST", TOKEN, {})
    assert made["kind"] == "TokenRequest"
    assert made["spec"] == {"audiences": [ISSUER], "expirationSeconds": 3600}
    keys = await api.ok("GET", "/openid/v1/jwks")
    key = jwt.PyJWKSet.from_dict(keys).keys[0]
    assert jwt.get_unverified_header(made["status"]["token"]) == {"alg": "ES256", "kid": key.key_id}
    claims = jwt.decode(made["status"]["token"], key, algorithms=["ES256"], audience=ISSUER, issuer=ISSUER)
    assert claims["sub"] == BOT
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["nbf"] == claims["iat"]
    account = {"name": "bot", "uid": bot["metadata"]["uid"]}
    assert claims["kubernetes.io"] == {"namespace": "default", "serviceaccount": account}
    found = await api.ok("GET", "/.well-known/openid-configuration")
    assert (found["issuer"], found["id_token_signing_alg_values_supported"]) == (ISSUER, ["ES256"])
    assert found["jwks_uri"].endswith("/openid/v1/jwks")


async def test_its_bearer_is_the_account(api: Running, bot: dict[str, Any]) -> None:
    token = await new_token(api)
    async with api.anonymous() as session:
        status = await api.refused(403, "GET", PODS, session=session, headers=bearer(token))
        assert status["message"] == (f'pods is forbidden: User "{BOT}" cannot list resource "pods" in API group "" in '
                                     'the namespace "default"')
        info = await api.ok("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, session=session,
                            headers=bearer(token))
        user = info["status"]["userInfo"]
        assert user["username"] == BOT
        assert user["uid"] == bot["metadata"]["uid"]
        assert user["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
        assert list(user["extra"]) == ["authentication.kubernetes.io/credential-id"]
        await api.refused(401, "GET", PODS, session=session, headers=bearer(token[:-4] + "AAAA"))
        other = await new_token(api, audiences=["vault"])
        await api.refused(401, "GET", PODS, session=session, headers=bearer(other))
    strange = SigningKey.create().sign(jwt.decode(token, options={"verify_signature": False}))
    assert "error" in await reviewed(api, strange)


@pytest.mark.usefixtures("bot")
async def test_reviews(api: Running) -> None:
    token, other = await new_token(api), await new_token(api, audiences=["vault", "other"])
    found = await reviewed(api, token)
    assert (found["authenticated"], found["user"]["username"], found["audiences"]) == (True, BOT, [ISSUER])
    assert (await reviewed(api, other, "vault", "more"))["audiences"] == ["vault"]
    for wrong in (await reviewed(api, other), await reviewed(api, token, "vault"), await reviewed(api, "nonsense")):
        assert "authenticated" not in wrong
        assert wrong["error"].startswith("[invalid bearer token, ")
    await api.refused(400, "POST", REVIEW, {"spec": {}})


@pytest.mark.usefixtures("bot")
async def test_it_ends_with_what_it_is_bound_to(api: Running) -> None:
    pod = await make_pod(api, nodeName="n1")
    ref = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]}
    token = await new_token(api, boundObjectRef=ref)
    user = (await reviewed(api, token))["user"]
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    assert user["extra"]["authentication.kubernetes.io/node-name"] == ["n1"]
    await api.ok("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await reviewed(api, token))["error"] == "[invalid bearer token, service account token has been invalidated]"
    await make_pod(api)
    assert "error" in await reviewed(api, token)  # another pod of that name
    secret = "/api/v1/namespaces/default/secrets"
    await api.ok("POST", secret, {"metadata": {"name": "s"}})
    token = await new_token(api, boundObjectRef={"apiVersion": "v1", "kind": "Secret", "name": "s"})
    assert (await reviewed(api, token))["authenticated"]
    await api.ok("DELETE", f"{secret}/s")
    assert "error" in await reviewed(api, token)
    token = await new_token(api)
    await api.ok("DELETE", f"{ACCOUNTS}/bot")
    assert "error" in await reviewed(api, token)
    await api.ok("POST", ACCOUNTS, {"metadata": {"name": "bot"}})
    assert "error" in await reviewed(api, token)


@pytest.mark.usefixtures("bot")
async def test_a_pods_standard_token_lasts_longer_than_it_says(api: Running) -> None:
    await make_pod(api)
    ref = {"apiVersion": "v1", "kind": "Pod", "name": "p"}
    for seconds, lasts in ((3607, 365 * 24 * 3600), (3600, 3600)):
        claims = jwt.decode(await new_token(api, boundObjectRef=ref, expirationSeconds=seconds),
                            options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == lasts
        assert claims["kubernetes.io"].get("warnafter") == (claims["iat"] + 3607 if seconds == 3607 else None)


@pytest.mark.parametrize(("spec", "code", "message"), [
    ({"expirationSeconds": 60}, 422,
     ('TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 60: may not specify a '
      "duration less than 10 minutes")),
    ({"expirationSeconds": 2**33}, 422, "may not specify a duration larger than 2^32 seconds"),
    ({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}}, 400,
     "cannot bind token to object of type apps/v1, Kind=Deployment"),
    ({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "x"}}, 404, 'pods "x" not found'),
    ({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x"}}, 409,
     "the UID in the bound object reference (x) does not match the UID in record"),
    ({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "other"}}, 400,
     'cannot bind token for serviceaccount "bot" to pod running with different serviceaccount name.'),
])
@pytest.mark.usefixtures("bot")
async def test_what_is_refused(api: Running, spec: dict[str, Any], code: int, message: str) -> None:
    await make_pod(api)
    await api.ok("POST", ACCOUNTS, {"metadata": {"name": "default"}})
    await api.ok("POST", PODS, {"metadata": {"name": "other"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    status = await api.refused(code, "POST", TOKEN, {"spec": spec})
    assert message in status["message"]
    await api.refused(404, "POST", f"{ACCOUNTS}/nobody/token", {})


@pytest.mark.usefixtures("bot")
async def test_pods_get_their_accounts_token(api: Running) -> None:
    pod = await make_pod(api, initContainers=[{"name": "i", "image": "i"}])
    (volume,) = pod["spec"]["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert len(volume["name"]) == len("kube-api-access-") + 5
    sources = volume["projected"]["sources"]
    assert sources[0] == {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    assert sources[1]["configMap"]["name"] == "kube-root-ca.crt"
    assert volume["projected"]["defaultMode"] == 420
    mount = {"name": volume["name"], "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    for key in ("containers", "initContainers"):
        assert [container["volumeMounts"] for container in pod["spec"][key]] == [[mount]]
    replaced = {**pod, "spec": {**pod["spec"], "volumes": None, "containers": [{"name": "c", "image": "new"}]}}
    del replaced["spec"]["initContainers"][0]["volumeMounts"]
    assert (await api.ok("PUT", f"{PODS}/p", replaced))["spec"]["volumes"] == [volume]


@pytest.mark.usefixtures("bot")
async def test_pods_that_want_none_get_none(api: Running) -> None:
    pod = await make_pod(api, automountServiceAccountToken=False)
    assert "volumes" not in pod["spec"]
    account = {"metadata": {"name": "quiet"}, "automountServiceAccountToken": False,
               "imagePullSecrets": [{"name": "registry"}]}
    await api.ok("POST", ACCOUNTS, account)
    own = {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "quiet"}
    pod = await api.ok("POST", PODS, {"metadata": {"name": "q"}, "spec": own})
    assert "volumes" not in pod["spec"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    wanting = await api.ok("POST", PODS, {"metadata": {"name": "r"}, "spec": {
        **own, "automountServiceAccountToken": True}})
    assert len(wanting["spec"]["volumes"]) == 1


async def test_a_pod_without_its_account(api: Running) -> None:
    spec = {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "none"}
    status = await api.refused(403, "POST", PODS, {"metadata": {"name": "p"}, "spec": spec})
    assert status["message"] == ('pods "p" is forbidden: error looking up service account default/none: serviceaccount '
                                 '"none" not found')
    status = await api.refused(403, "POST", PODS, {"metadata": {"generateName": "p-"}, "spec": spec})
    assert status["message"].startswith('pods "p-" is forbidden: ')
    waiting = asyncio.create_task(api.ok("POST", PODS, {"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i"}]}}))
    await asyncio.sleep(0)
    await api.ok("POST", ACCOUNTS, {"metadata": {"name": "default"}})  # comes a moment after its namespace
    assert (await waiting)["spec"]["serviceAccountName"] == "default"


async def test_tokens_in_secrets(api: Running, bot: dict[str, Any]) -> None:
    clock = SystemClock()
    informers = InformerFactory(api.parts.client, clock)
    deps = Deps(api.parts.client, informers, clock, EventRecorder(api.parts.client, clock, "test"))
    key = api.parts.security._key
    assert key is not None
    controller = AccountTokenController(deps, key, "PEM")
    running = [asyncio.create_task(informers.run()), asyncio.create_task(controller.run())]
    path = "/api/v1/namespaces/default/secrets/s"
    try:
        secret = {"metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "bot"}},
                  "type": "kubernetes.io/service-account-token"}
        made = await api.ok("POST", path.rpartition("/")[0], secret)
        async with asyncio.timeout(60):
            while "token" not in made.get("data", {}):
                await asyncio.sleep(0.01)
                made = await api.ok("GET", path)
        assert made["metadata"]["annotations"]["kubernetes.io/service-account.uid"] == bot["metadata"]["uid"]
        data = {name: base64.b64decode(value).decode() for name, value in made["data"].items()}
        assert (data["namespace"], data["ca.crt"]) == ("default", "PEM")
        assert (await reviewed(api, data["token"]))["user"]["username"] == BOT
        await api.ok("PATCH", path, {"data": {"token": None}}, content_type="application/merge-patch+json")
        assert "error" in await reviewed(api, data["token"])
        async with asyncio.timeout(60):
            while not (made := await api.ok("GET", path))["data"].get("token"):  # another one is made
                await asyncio.sleep(0.01)
        fresh = base64.b64decode(made["data"]["token"]).decode()
        assert fresh != data["token"]
        assert (await reviewed(api, fresh))["authenticated"]
        await api.ok("DELETE", f"{ACCOUNTS}/bot")
        assert "error" in await reviewed(api, fresh)
        async with asyncio.timeout(60):
            while (await api.request("GET", path)).code != 404:
                await asyncio.sleep(0.01)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_aggregated_roles_are_filled(api: Running) -> None:
    clock = SystemClock()
    informers = InformerFactory(api.parts.client, clock)
    deps = Deps(api.parts.client, informers, clock, EventRecorder(api.parts.client, clock, "test"))
    running = [asyncio.create_task(RoleAggregationController(deps).run()), asyncio.create_task(informers.run())]
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    own = {"metadata": {"name": "widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
           "rules": [{"apiGroups": ["acme.com"], "resources": ["widgets"], "verbs": ["get"]}]}
    try:
        await api.ok("POST", roles, own)
        for name in ("view", "edit", "admin"):  # each is made of the one before
            async with asyncio.timeout(60):
                while own["rules"][0] not in (await api.ok("GET", f"{roles}/{name}"))["rules"]:
                    await asyncio.sleep(0.01)
        await api.ok("DELETE", f"{roles}/widgets")
        async with asyncio.timeout(60):
            while own["rules"][0] in (await api.ok("GET", f"{roles}/admin"))["rules"]:
                await asyncio.sleep(0.01)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
