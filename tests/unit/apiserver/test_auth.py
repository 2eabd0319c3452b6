import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from master.apiserver import auth
from master.apiserver.auth import Authentication, BootstrapTokens, StaticTokens
from master.apiserver.strategy import User
from sampan.api.errors import ApiError


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


async def test_a_bootstrap_token_is_its_node() -> None:
    user = await tokens(secret(expiration="2026-01-01T00:00:01Z")).authenticate("abcdef.0123456789abcdef")
    assert user == User("system:bootstrap:abcdef", (auth.BOOTSTRAPPERS, "system:bootstrappers:x", auth.AUTHENTICATED))


@pytest.mark.parametrize("tree", [
    None, secret(**{"token-secret": "wrong"}), secret(expiration="2026-01-01T00:00:00Z"), secret(expiration="soon"),
    secret(**{"usage-bootstrap-authentication": "false"}), secret(**{"token-id": "ghijkl"}),
    {**secret(), "type": "Opaque"}, {**secret(), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
    {**secret(), "data": {"token-secret": "%"}},
])
async def test_other_tokens_are_nobody(tree: dict[str, Any] | None) -> None:
    assert await tokens(tree).authenticate("abcdef.0123456789abcdef") is None


async def test_what_is_no_bootstrap_token_is_not_looked_up() -> None:
    def look(*_: str) -> dict[str, Any] | None:
        raise AssertionError

    assert await BootstrapTokens(look, lambda: datetime.now(UTC)).authenticate("../../x.y") is None


async def test_static_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text('secret,alice,1,"a,b"\nother,bob,2\n\n')
    known = StaticTokens.load(file)
    assert await known.authenticate("secret") == User("alice", ("a", "b", auth.AUTHENTICATED), "1")
    assert await known.authenticate("other") == User("bob", (auth.AUTHENTICATED,), "2")
    assert await known.authenticate("no") is None


async def test_bearer_headers() -> None:
    known = Authentication([StaticTokens([["t", "alice", "1"]])])
    alice = await known.bearer("Bearer t")
    assert alice is not None
    assert alice.name == "alice"
    assert await known.bearer("Basic eDp5") is None
    with pytest.raises(ApiError) as refused:
        await known.bearer("bearer wrong")
    assert refused.value.code == 401


def test_certificates() -> None:
    peer = {"subject": ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "alice"),)),
            "serialNumber": "1F", "notBefore": "Jan  5 09:34:43 2018 GMT", "notAfter": "Jan  5 09:34:43 2019 GMT"}
    digest = "X509SHA256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc" (FIPS 180-4)
    alice = User("alice", ("a", "b", auth.AUTHENTICATED), extra=((
        "authentication.kubernetes.io/credential-id", (digest,)),))
    issued, expires = (datetime(year, 1, 5, 9, 34, 43, tzinfo=UTC) for year in (2018, 2019))
    assert auth.client_certificate(peer, b"abc") == auth.ClientCertificate(alice, 31, issued, expires)
    assert auth.client_certificate({}, b"abc") is None
    assert auth.client_certificate({**peer, "subject": ((("organizationName", "a"),),)}, b"abc") is None
