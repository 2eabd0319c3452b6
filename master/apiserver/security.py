"""Everything about who asks and what they may, put together: what the server, its writers and its nodes share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from master.apiserver.accounts.pods import ServiceAccounts
from master.apiserver.accounts.requests import TokenRequests
from master.apiserver.accounts.signing import SigningKey
from master.apiserver.accounts.tokens import AccountTokens
from master.apiserver.admission import Plugin
from master.apiserver.auth import Authentication, Authenticator, BootstrapTokens, ClientCertificate, Lookup
from master.apiserver.authorization.escalation import Certificates, Escalation
from master.apiserver.authorization.nodes import node_of
from master.apiserver.authorization.restriction import NodeRestriction
from master.apiserver.authorization.union import Access
from master.apiserver.registry import Registry
from master.apiserver.strategy import User
from master.nodes import identity
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, NODES, SECRETS, Resource

Documents = dict[str, tuple[bytes, str]]


class Security:
    """Authentication, authorization and admission of one registry; made before its caches run."""

    def __init__(self, registry: Registry, *, key: SigningKey | None = None,
                 authenticators: Iterable[Authenticator] = ()) -> None:
        """Without a `key` there are no ServiceAccount tokens, and pods need no account: for tests."""
        self._registry = registry
        self._key = key
        self.access = Access(registry)
        self.restriction = NodeRestriction(registry)
        self.accounts = AccountTokens(registry, key) if key is not None else None
        own: list[Authenticator] = [] if self.accounts is None else [self.accounts]
        bootstrap = BootstrapTokens(_lookup(registry, SECRETS), registry.clock.now)
        self.authentication = Authentication([*authenticators, *own, bootstrap])
        self.tokens = TokenRequests(registry, key, self.restriction) if key is not None else None

    async def user_of(self, certificate: ClientCertificate) -> User:
        """Whom a certificate speaks for; ApiError 403.

        A node that was deleted or has joined anew is not spoken for by its old certificates: with one of them its old
        host could ask for a new one.
        """
        node, _ = node_of(certificate.user)
        if node:
            table = await self._registry.of(CONFIGMAPS).cache.get(identity.NAMESPACE, identity.NAME)
            line = (table.tree.get("data") or {}).get(node, "") if table is not None else ""
            exists = await self._registry.of(NODES).cache.get("", node) is not None
            who = identity.NodeIdentity(node, certificate.serial, certificate.issued)
            if why := identity.refusal(who, identity.Known.read(line), exists):
                raise ApiError(403, "Forbidden", why)
        return certificate.user

    def plugins(self, rng: random.Random | None = None) -> Sequence[Plugin]:
        """What the writer asks at every write."""
        accounts = () if self._key is None else (ServiceAccounts(self._registry, rng or self._registry.rng),)
        return (*accounts, self.restriction, Escalation(self.access), Certificates(self.access))

    def documents(self, address: str) -> Documents:
        """Where others learn how to check tokens (OpenID Connect discovery), by path."""
        if self._key is None:
            return {}
        return {"/.well-known/openid-configuration": (self._key.discovery(address), "application/json"),
                "/openid/v1/jwks": (self._key.jwks(), "application/jwk-set+json")}


def _lookup(registry: Registry, resource: Resource[Any]) -> Lookup:
    cache = registry.of(resource).cache

    def look(namespace: str, name: str) -> dict[str, Any] | None:
        entry = cache.peek(namespace, name)
        return entry.tree if entry is not None else None

    return look
