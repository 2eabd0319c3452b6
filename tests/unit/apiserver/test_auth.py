import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from master.apiserver import auth
from master.apiserver.auth import ANONYMOUS, Attributes, Authorizer, BootstrapTokens, StaticTokens
from master.apiserver.request import parse
from master.apiserver.strategy import User
from sampan.api.errors import ApiError

ADMIN = User("admin", (auth.MASTERS, auth.AUTHENTICATED))
NODE = User("system:node:n1", ("system:nodes", auth.AUTHENTICATED))
JOINING = User("system:bootstrap:abcdef", (auth.BOOTSTRAPPERS, auth.AUTHENTICATED))
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def authorizer() -> Authorizer:
    requests = {"mine": {"spec": {"username": JOINING.name}}, "other": {"spec": {"username": "somebody"}}}
    return Authorizer(lambda _, name: requests.get(name))


@pytest.mark.parametrize(("user", "method", "path", "allowed"), [
    (ADMIN, "DELETE", "/api/v1/namespaces/a/pods/b", True),
    (ADMIN, "GET", "/metrics", True),
    (NODE, "GET", "/api/v1/pods", False),
    (NODE, "GET", "/api", True),
    (NODE, "GET", "/openapi/v3", True),
    (NODE, "GET", "/metrics", False),
    (NODE, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", True),
    (JOINING, "POST", CSRS, True),
    (JOINING, "GET", CSRS + "/mine", True),
    (JOINING, "GET", CSRS + "/other", False),
    (JOINING, "GET", CSRS + "/missing", False),
    (JOINING, "GET", CSRS, False),
    (JOINING, "DELETE", CSRS + "/mine", False),
    (JOINING, "PUT", CSRS + "/mine/approval", False),
    (JOINING, "GET", "/api/v1/namespaces/kube-system/secrets", False),
    (ANONYMOUS, "GET", "/healthz", True),
    (ANONYMOUS, "GET", "/livez", True),
    (ANONYMOUS, "GET", "/readyz", True),
    (ANONYMOUS, "GET", "/version", True),
    (ANONYMOUS, "GET", "/cacerts", True),
    (ANONYMOUS, "GET", "/api", False),
    (ANONYMOUS, "GET", "/", False),
    (ANONYMOUS, "GET", "/openapi/v2", False),
    (ANONYMOUS, "POST", "/healthz", False),
    (ANONYMOUS, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", False),
    (ANONYMOUS, "GET", "/api/v1/pods", False),
])
def test_who_may_do_what(user: User, method: str, path: str, allowed: bool) -> None:
    assert authorizer().allows(user, Attributes.of(parse(method, path))) is allowed


@pytest.mark.parametrize(("path", "message"), [
    ("/api/v1/namespaces/y/pods",
     'pods is forbidden: User "joe" cannot list resource "pods" in API group "" in the namespace "y"'),
    ("/apis/apps/v1/deployments",
     ('deployments.apps is forbidden: User "joe" cannot list resource "deployments" in API group "apps" at the cluster '
      "scope")),
    ("/api/v1/namespaces/y/pods/x/log",
     'pods "x" is forbidden: User "joe" cannot get resource "pods/log" in API group "" in the namespace "y"'),
    ("/metrics", 'forbidden: User "joe" cannot get path "/metrics"'),
])
def test_refusals_read_as_upstream_writes_them(path: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        authorizer().check(User("joe"), Attributes.of(parse("GET", path)))
    assert (refused.value.code, refused.value.message) == (403, message)


def secret(**data: str) -> dict[str, Any]:
    fields = {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
              "auth-extra-groups": "system:bootstrappers:x,other", **data}
    return {"metadata": {}, "type": "bootstrap.kubernetes.io/token",
            "data": {key: base64.b64encode(value.encode()).decode()
                     for key, value in fields.items()}}


def tokens(tree: dict[str, Any] | None) -> BootstrapTokens:
    def look(namespace: str, name: str) -> dict[str, Any] | None:
        assert (namespace, name) == ("kube-system", "bootstrap-token-abcdef")
        return tree

    return BootstrapTokens(look, lambda: datetime(2026, 1, 1, tzinfo=UTC))


def test_a_bootstrap_token_is_its_node() -> None:
    user = tokens(secret(expiration="2026-01-01T00:00:01Z")).authenticate("abcdef.0123456789abcdef")
    assert user == User("system:bootstrap:abcdef", (auth.BOOTSTRAPPERS, "system:bootstrappers:x", auth.AUTHENTICATED))


@pytest.mark.parametrize("tree", [
    None, secret(**{"token-secret": "wrong"}), secret(expiration="2026-01-01T00:00:00Z"), secret(expiration="soon"),
    secret(**{"usage-bootstrap-authentication": "false"}), secret(**{"token-id": "ghijkl"}),
    {**secret(), "type": "Opaque"}, {**secret(), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
    {**secret(), "data": {"token-secret": "%"}},
])
def test_other_tokens_are_nobody(tree: dict[str, Any] | None) -> None:
    assert tokens(tree).authenticate("abcdef.0123456789abcdef") is None


def test_what_is_no_bootstrap_token_is_not_looked_up() -> None:
    def look(*_: str) -> dict[str, Any] | None:
        raise AssertionError

    assert BootstrapTokens(look, lambda: datetime.now(UTC)).authenticate("../../x.y") is None


def test_static_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text('secret,alice,1,"a,b"\nother,bob,2\n\n')
    known = StaticTokens.load(file)
    assert known.authenticate("secret") == User("alice", ("a", "b", auth.AUTHENTICATED), "1")
    assert known.authenticate("other") == User("bob", (auth.AUTHENTICATED,), "2")
    assert known.authenticate("no") is None


def test_bearer_headers() -> None:
    known = StaticTokens([["t", "alice", "1"]])
    alice = auth.bearer_user("Bearer t", [known])
    assert alice is not None
    assert alice.name == "alice"
    assert auth.bearer_user("Basic eDp5", [known]) is None
    with pytest.raises(ApiError) as refused:
        auth.bearer_user("bearer wrong", [known])
    assert refused.value.code == 401


def test_certificates() -> None:
    peer = {"subject": ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "alice"),))}
    assert auth.certificate_user(peer) == User("alice", ("a", "b", auth.AUTHENTICATED))
    assert auth.certificate_user({}) is None
    assert auth.certificate_user({"subject": ((("organizationName", "a"),),)}) is None


def test_impersonation() -> None:
    assert auth.impersonate(ADMIN, "bob", ["x"], "u") == User("bob", ("x", auth.AUTHENTICATED), "u")
    assert auth.impersonate(ADMIN, "system:anonymous", [], "").groups == ("system:unauthenticated",)
    assert auth.impersonate(NODE, "", [], "") is NODE
    with pytest.raises(ApiError) as refused:
        auth.impersonate(NODE, "bob", [], "")
    assert refused.value.code == 403
    with pytest.raises(ApiError) as refused:
        auth.impersonate(ADMIN, "", ["x"], "")
    assert refused.value.code == 400
