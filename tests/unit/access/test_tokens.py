"""A token's claims, its signature, and how long it is good."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from master.apiserver.accounts.claims import (
    EXTENDED,
    STANDARD,
    BadClaims,
    Claims,
    Ref,
    group_names,
    matching_audiences,
    read_claims,
    split_username,
    username,
)
from master.apiserver.accounts.requests import extended
from master.apiserver.accounts.signing import ISSUER, SigningKey, token_like
from master.apiserver.accounts.tokens import AccountTokens
from master.apiserver.entry import Entry
from master.apiserver.registry import Registry
from sampan.api.resources import Resource
from sampan.api.times import Time
from sampan.loop.clock import FakeClock
from sampan.pki.ca import CertificateError

ACCOUNT, POD, NODE = Ref("bot", "u1"), Ref("p", "u2"), Ref("n", "u3")
KEY = SigningKey.create()


def claims(**changes: Any) -> Claims:
    return Claims(**{"namespace": "ns", "account": ACCOUNT, "audiences": (ISSUER,), "issued": 100, "expires": 700,
                     "id": "j", **changes})


@pytest.mark.parametrize("given", [claims(), claims(pod=POD, node=NODE, warn_after=5), claims(secret=Ref("s", "u4")),
                                   claims(audiences=("a", "b"))])
def test_claims_survive_their_token(given: Claims) -> None:
    assert read_claims(KEY.verify(KEY.sign(given.tree(ISSUER))), ISSUER) == given


def test_a_legacy_token() -> None:
    found = read_claims(KEY.verify(KEY.legacy_token("ns", "bot", "u1", "s")), ISSUER)
    assert found == Claims("ns", ACCOUNT, secret=Ref("s", ""), legacy=True)
    assert matching_audiences((ISSUER,), found, (ISSUER,)) == (ISSUER,)
    assert matching_audiences(("vault",), found, (ISSUER,)) == ()


@pytest.mark.parametrize("change", [
    {"iss": "https://elsewhere"}, {"sub": "system:serviceaccount:ns:root"}, {"kubernetes.io": {}}, {"aud": None},
    {"exp": "never"}, {"kubernetes.io": "x"}])
def test_strange_claims(change: dict[str, Any]) -> None:
    with pytest.raises(BadClaims):
        read_claims({**claims().tree(ISSUER), **change}, ISSUER)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256", "RS256"])
def test_only_our_key_signs(algorithm: str) -> None:
    keys: dict[str, Callable[[], Any]] = {
        "none": lambda: None, "HS256": lambda: KEY.id * 2, "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "RS256": lambda: rsa.generate_private_key(65537, 2048)}
    token = jwt.encode(claims().tree(ISSUER), keys[algorithm](), algorithm=algorithm, headers={"kid": KEY.id})
    with pytest.raises(BadClaims):
        KEY.verify(token)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "eyJ.eyJ.", "eyJhbGciOiJub25lIn0.e30.", "é.é.é", "." * 50])
def test_nonsense(token: str) -> None:
    with pytest.raises(BadClaims):
        KEY.verify(token)


def test_what_may_be_a_token() -> None:
    assert token_like(KEY.sign(claims().tree(ISSUER)))
    assert not token_like("abcdef.0123456789abcdef")


def test_the_key_stays(tmp_path: Path) -> None:
    token = SigningKey.ensure(tmp_path / "pki").sign(claims().tree(ISSUER))
    assert SigningKey.ensure(tmp_path / "pki").verify(token)
    path = tmp_path / "pki/sa.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("damaged")
    with pytest.raises(CertificateError):
        SigningKey.ensure(tmp_path / "pki")


def test_names() -> None:
    assert split_username(username("ns", "bot")) == ("ns", "bot")
    assert [split_username(text) for text in ("joe", "system:serviceaccount:ns", "system:serviceaccount::x",
                                              "system:serviceaccount:a:b:c")] == [None] * 4
    assert group_names("ns") == ("system:serviceaccounts", "system:serviceaccounts:ns")
    assert dict(claims(pod=POD, node=NODE).user().extra) == {
        "authentication.kubernetes.io/credential-id": ("JTI=j",),
        "authentication.kubernetes.io/node-name": ("n",), "authentication.kubernetes.io/node-uid": ("u3",),
        "authentication.kubernetes.io/pod-name": ("p",), "authentication.kubernetes.io/pod-uid": ("u2",)}


@pytest.mark.parametrize(("given", "lasts", "warns"), [
    (claims(pod=POD, expires=100 + STANDARD), EXTENDED, 100 + STANDARD),
    (claims(expires=100 + STANDARD), STANDARD, 0),
    (claims(pod=POD, expires=100 + 3600), 3600, 0),
    (claims(pod=POD, expires=100 + STANDARD, audiences=("vault",)), STANDARD, 0)])
def test_which_tokens_last_longer(given: Claims, lasts: int, warns: int) -> None:
    found = extended(given)
    assert (found.expires - found.issued, found.warn_after) == (lasts, warns)


@dataclass
class Cluster:
    """A registry with the objects that tokens are bound to."""

    clock: FakeClock = field(default_factory=FakeClock)
    objects: dict[tuple[str, str], Entry] = field(default_factory=dict)

    def put(self, plural: str, ref: Ref, **fields: Any) -> None:
        meta = {"name": ref.name, "uid": ref.uid, **fields.pop("metadata", {})}
        self.objects[plural, ref.name] = Entry(msgspec.json.encode({"metadata": meta, **fields}), 1, "ns", ref.name)

    def of(self, resource: Resource[Any]) -> Any:
        @dataclass
        class Cache:
            def peek(_, namespace: str, name: str) -> Entry | None:  # noqa: N805 - self is the cluster's
                del namespace
                return self.objects.get((resource.plural, name))

            async def get(_, namespace: str, name: str) -> Entry | None:  # noqa: N805
                return _.peek(namespace, name)

        @dataclass
        class Served:
            cache: Cache

        return Served(Cache())

    def token(self, **changes: Any) -> str:
        now = int(self.clock.now().timestamp())
        return KEY.sign(claims(**{"issued": now, "expires": now + 600, **changes}).tree(ISSUER))


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    for plural, ref in (("serviceaccounts", ACCOUNT), ("pods", POD), ("nodes", NODE)):
        made.put(plural, ref)
    return made


def tokens(cluster: Cluster) -> AccountTokens:
    return AccountTokens(cast("Registry", cluster), KEY)


async def test_good_until_its_end(cluster: Cluster) -> None:
    known, token = tokens(cluster), cluster.token()
    for _ in range(2):  # the second time its signature is not looked at again
        user = await known.authenticate(token)
        assert user is not None
        assert user.name == "system:serviceaccount:ns:bot"
    await cluster.clock.advance(601)
    assert await known.authenticate(token) is None
    with pytest.raises(BadClaims, match="has expired"):
        await known.check(token)


async def test_not_from_the_future(cluster: Cluster) -> None:
    now = int(cluster.clock.now().timestamp())
    assert await tokens(cluster).authenticate(cluster.token(issued=now + 30)) is not None  # clocks differ a little
    with pytest.raises(BadClaims, match="not valid yet"):
        await tokens(cluster).check(cluster.token(issued=now + 90, expires=now + 600))


@pytest.mark.parametrize(("plural", "ref", "bound"), [
    ("serviceaccounts", ACCOUNT, {}), ("pods", POD, {"pod": POD, "node": NODE}), ("nodes", NODE, {"node": NODE})])
async def test_good_as_long_as_what_it_is_bound_to(cluster: Cluster, plural: str, ref: Ref, bound: dict[str, Ref],
                                                   ) -> None:
    known, token = tokens(cluster), cluster.token(**bound)
    assert await known.authenticate(token) is not None
    ends = Time.of(cluster.clock.now())
    cluster.put(plural, ref, metadata={"deletionTimestamp": str(ends)})
    assert await known.authenticate(token) is not None  # a pod that ends may still say so
    await cluster.clock.advance(61)
    assert await known.authenticate(token) is None
    cluster.put(plural, Ref(ref.name, "another"))
    assert await known.authenticate(token) is None
    del cluster.objects[plural, ref.name]
    assert await known.authenticate(token) is None


async def test_a_pod_outlives_its_node_object(cluster: Cluster) -> None:
    token = cluster.token(pod=POD, node=NODE)
    del cluster.objects["nodes", NODE.name]
    assert await tokens(cluster).authenticate(token) is not None


async def test_for_others(cluster: Cluster) -> None:
    known, token = tokens(cluster), cluster.token(audiences=("vault",))
    assert await known.authenticate(token) is None
    assert (await known.review(token, ["vault", "x"]))[1] == ("vault",)
    with pytest.raises(BadClaims, match="invalid for the target audiences"):
        await known.review(token, [])


async def test_a_secrets_token_is_revoked_with_it(cluster: Cluster) -> None:
    known, secret = tokens(cluster), Ref("s", "u5")
    token, other = (KEY.legacy_token("ns", "bot", "u1", "s") for _ in range(2))
    with pytest.raises(BadClaims):
        await known.check(token)
    cluster.put("secrets", secret, data={"token": base64.b64encode(token.encode()).decode()})
    assert await known.authenticate(token) is not None
    assert await known.authenticate(other) is None


async def test_not_every_token_is_kept(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("master.apiserver.accounts.tokens._REMEMBERED", 3)
    known = tokens(cluster)
    for number in range(5):
        assert await known.authenticate(cluster.token(id=str(number))) is not None
    assert len(known._verified) == 3
