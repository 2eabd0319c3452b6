"""What a ServiceAccount's token says. Pure.

Source: KEP-1205 (bound tokens), KEP-4193 (node and credential identifiers), pkg/serviceaccount/claims.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from master.apiserver.strategy import User

Tree = dict[str, Any]

PREFIX = "system:serviceaccount:"
ALL_ACCOUNTS = "system:serviceaccounts"
LEGACY_ISSUER = "kubernetes/serviceaccount"
PRIVATE = "kubernetes.io"
EXTENDED = 365 * 24 * 3600
"""Seconds that a pod's standard token really lasts: clients that never read it again go on working for a while.

Upstream's --service-account-extend-token-expiration, on by default: `warnafter` tells what was asked for.
"""
STANDARD = 3607
"""The lifetime by which a pod's standard token is known."""
_LEGACY = "kubernetes.io/serviceaccount/"


class BadClaims(Exception):
    """The token is not one of ours, or no longer good; the message says why."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An object by name and uid."""

    name: str
    uid: str

    def tree(self) -> dict[str, str]:
        """As claims hold it."""
        return {"name": self.name, "uid": self.uid}


@dataclass(frozen=True, slots=True)
class Claims:
    """A token's content. Times are seconds since 1970; `expires` 0 is never (legacy tokens only)."""

    namespace: str
    account: Ref
    audiences: tuple[str, ...] = ()
    issued: int = 0
    expires: int = 0
    warn_after: int = 0
    id: str = ""
    pod: Ref | None = None
    node: Ref | None = None
    secret: Ref | None = field(default=None)
    legacy: bool = False

    def tree(self, issuer: str) -> Tree:
        """As the token holds them."""
        own: Tree = {"namespace": self.namespace, "serviceaccount": self.account.tree()}
        own |= {key: ref.tree() for key, ref in (("node", self.node), ("pod", self.pod), ("secret", self.secret))
                if ref}
        if self.warn_after:
            own["warnafter"] = self.warn_after
        return {"aud": list(self.audiences), "exp": self.expires, "iat": self.issued, "iss": issuer, "jti": self.id,
                PRIVATE: own, "nbf": self.issued, "sub": username(self.namespace, self.account.name)}

    def legacy_tree(self) -> Tree:
        """As the token of a Secret holds them; it has neither audience nor end."""
        assert self.secret
        return {"iss": LEGACY_ISSUER, f"{_LEGACY}namespace": self.namespace, f"{_LEGACY}secret.name": self.secret.name,
                f"{_LEGACY}service-account.name": self.account.name,
                f"{_LEGACY}service-account.uid": self.account.uid,
                "sub": username(self.namespace, self.account.name)}

    def user(self) -> User:
        """Who shows the token."""
        extra = [("authentication.kubernetes.io/credential-id", f"JTI={self.id}")] if self.id else []
        for word, ref in (("node", self.node), ("pod", self.pod)):
            if ref:
                extra += [(f"authentication.kubernetes.io/{word}-name", ref.name),
                          (f"authentication.kubernetes.io/{word}-uid", ref.uid)]
        return account_user(self.namespace, self.account, tuple((key, (value,)) for key, value in extra))


def username(namespace: str, name: str) -> str:
    """The user that a ServiceAccount is."""
    return f"{PREFIX}{namespace}:{name}"


def split_username(user: str) -> tuple[str, str] | None:
    """A ServiceAccount's namespace and name; None for other users."""
    parts = user.removeprefix(PREFIX).split(":")
    return (parts[0], parts[1]) if user.startswith(PREFIX) and len(parts) == 2 and all(parts) else None


def group_names(namespace: str) -> tuple[str, str]:
    """The groups that each ServiceAccount of a namespace is in."""
    return ALL_ACCOUNTS, f"{ALL_ACCOUNTS}:{namespace}"


def account_user(namespace: str, account: Ref, extra: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> User:
    """A ServiceAccount as a user."""
    return User(username(namespace, account.name), (*group_names(namespace), "system:authenticated"), account.uid,
                extra)


def read_claims(tree: Mapping[str, Any], issuer: str) -> Claims:
    """From a token whose signature was checked; BadClaims for those of other issuers and for malformed ones."""
    try:
        if tree.get("iss") == LEGACY_ISSUER:
            claims = Claims(tree[f"{_LEGACY}namespace"],
                            Ref(tree[f"{_LEGACY}service-account.name"], tree[f"{_LEGACY}service-account.uid"]),
                            secret=Ref(tree[f"{_LEGACY}secret.name"], ""), legacy=True)
        elif tree.get("iss") == issuer:
            own = tree[PRIVATE]
            audience = tree["aud"]
            claims = Claims(own["namespace"], _ref(own["serviceaccount"]),
                            (audience,) if isinstance(audience, str) else tuple(audience), int(tree["iat"]),
                            int(tree["exp"]), int(own.get("warnafter") or 0), tree.get("jti") or "",
                            _maybe(own, "pod"), _maybe(own, "node"), _maybe(own, "secret"))
        else:
            raise BadClaims(f"unknown issuer {tree.get('iss')!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise BadClaims(f"malformed claims: {error}") from error
    if tree.get("sub") != username(claims.namespace, claims.account.name):
        raise BadClaims("the subject is another account than the claims name")
    return claims


def _ref(tree: Mapping[str, Any]) -> Ref:
    return Ref(str(tree["name"]), str(tree.get("uid") or ""))


def _maybe(own: Mapping[str, Any], key: str) -> Ref | None:
    return _ref(own[key]) if own.get(key) else None


def matching_audiences(wanted: Sequence[str], claims: Claims, own: Sequence[str]) -> tuple[str, ...]:
    """The wanted audiences that the token is for; a legacy token is for the API server."""
    having = own if claims.legacy else claims.audiences
    return tuple(audience for audience in wanted if audience in having)
