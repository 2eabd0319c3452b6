"""Whose ServiceAccount token it is: signature, audience, end, and whether what it is bound to is still there.

Source: pkg/serviceaccount/jwt.go and claims.go.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from master.apiserver.accounts.claims import BadClaims, Claims, Ref, matching_audiences, read_claims
from master.apiserver.accounts.signing import ISSUER, SigningKey, token_like
from master.apiserver.entry import Entry
from master.apiserver.registry import Registry
from master.apiserver.strategy import User
from sampan.api.codec import decode
from sampan.api.resources import NODES, PODS, SECRETS, SERVICEACCOUNTS, Resource
from sampan.api.times import Time

API_AUDIENCES = (ISSUER,)
LEEWAY = 60.0
"""Seconds for which a token outlives the object that it is bound to, once that was to be gone."""
_REMEMBERED = 2048


class _Meta(msgspec.Struct):
    uid: str = ""
    deletionTimestamp: Time | None = None  # noqa: N815 - the field's name in JSON


class _Object(msgspec.Struct):
    metadata: _Meta


class AccountTokens:
    """Knows the tokens of ServiceAccounts.

    A signature is checked once; that the account, the pod or the Secret is still there, each time.
    """

    def __init__(self, registry: Registry, key: SigningKey) -> None:
        self._registry = registry
        self._key = key
        self._verified: dict[str, Claims] = {}

    async def authenticate(self, token: str) -> User | None:
        """The ServiceAccount, None for any other token and for one that is no longer good."""
        if not token_like(token):
            return None
        try:
            claims = await self.check(token)
        except BadClaims:
            return None
        return claims.user() if matching_audiences(API_AUDIENCES, claims, API_AUDIENCES) else None

    async def review(self, token: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        """Whose it is, and for which of the audiences (none given: the API server's); BadClaims says why not."""
        claims = await self.check(token)
        wanted = tuple(audiences) or API_AUDIENCES
        found = matching_audiences(wanted, claims, API_AUDIENCES)
        if not found:
            raise BadClaims(f"token audiences {list(claims.audiences)!r} is invalid for the target audiences "
                            f"{list(wanted)!r}")
        return claims.user(), found

    async def check(self, token: str) -> Claims:
        """The claims of a token that is good now; BadClaims."""
        claims = self._verified.get(token)
        if claims is None:
            claims = read_claims(self._key.verify(token), ISSUER)
            while len(self._verified) >= _REMEMBERED:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = claims
        now = self._registry.clock.now().timestamp()
        if claims.expires and now > claims.expires:
            self._verified.pop(token, None)
            raise BadClaims("service account token has expired")
        if claims.issued > now + LEEWAY:
            raise BadClaims("service account token is not valid yet")
        await self._still(SERVICEACCOUNTS, claims.namespace, claims.account)
        if claims.pod:
            await self._still(PODS, claims.namespace, claims.pod)
        if claims.secret:
            entry = await self._still(SECRETS, claims.namespace, claims.secret)
            if claims.legacy and not _holds(entry, token):
                raise BadClaims("token does not match the one in its secret")
        if claims.node and not claims.pod:  # beside a pod the node is told, not bound to
            await self._still(NODES, "", claims.node)
        return claims

    async def _still(self, resource: Resource[Any], namespace: str, ref: Ref) -> Entry:
        """BadClaims where the object is gone, or another one has its name."""
        cache = self._registry.of(resource).cache
        entry = cache.peek(namespace, ref.name)
        if entry is None or not self._is(entry, ref):
            entry = await cache.get(namespace, ref.name)  # it may be too new for what we have looked at
        if entry is None or not self._is(entry, ref):
            raise BadClaims("service account token has been invalidated")
        return entry

    def _is(self, entry: Entry, ref: Ref) -> bool:
        meta = decode(_Object, entry.raw).metadata  # skips all else
        if ref.uid and meta.uid != ref.uid:
            return False
        gone = meta.deletionTimestamp
        return gone is None or gone.timestamp() + LEEWAY >= self._registry.clock.now().timestamp()


def _holds(secret: Entry, token: str) -> bool:
    """Whether it is the Secret's own token: whoever takes it out of the Secret revokes it."""
    try:
        own = base64.b64decode((secret.tree.get("data") or {}).get("token") or "")
    except ValueError:
        return False
    return hmac.compare_digest(own, token.encode("utf-8", "surrogateescape"))
