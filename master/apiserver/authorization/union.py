"""The API server's authorizer: administrators, what everybody may, nodes, joining nodes, and then roles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from master.apiserver.auth import BOOTSTRAPPERS, MASTERS
from master.apiserver.authorization import defaults
from master.apiserver.authorization.attributes import (
    ALLOWED,
    NO_OPINION,
    Attributes,
    Authorizer,
    Decision,
    refusal,
)
from master.apiserver.authorization.nodes import NodeAuthorizer, NodePods
from master.apiserver.authorization.rbac import Rbac
from master.apiserver.registry import Registry
from master.apiserver.strategy import User
from sampan.api.resources import (
    CERTIFICATESIGNINGREQUESTS,
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    PODS,
    ROLEBINDINGS,
    ROLES,
)

Tree = dict[str, Any]
Lookup = Callable[[str, str], Tree | None]
"""An object by namespace and name, as the cache has it."""

ALWAYS_ALLOWED = frozenset(("/healthz", "/livez", "/readyz", "/cacerts"))
"""Upstream's --authorization-always-allow-paths, and the CA's certificate, which joining hosts read first."""


class JoiningNodes:
    """A joining node asks for its certificate and waits for it; it sees nobody else's.

    kubeadm binds system:node-bootstrapper to such nodes, by which each may read the requests of all.
    """

    def __init__(self, csr: Lookup) -> None:
        self._csr = csr

    def decide(self, user: User, asked: Attributes) -> Decision:
        """Allowed for the node's own request."""
        if BOOTSTRAPPERS not in user.groups or asked.subresource or (
                asked.group, asked.plural) != CERTIFICATESIGNINGREQUESTS.key:
            return NO_OPINION
        if asked.verb == "create":
            return ALLOWED
        if asked.verb not in ("get", "list", "watch") or not asked.name:
            return NO_OPINION
        csr = self._csr("", asked.name)
        own = csr is not None and (csr.get("spec") or {}).get("username") == user.name
        return ALLOWED if own else NO_OPINION


class Access:
    """Who may do what, of one registry."""

    def __init__(self, registry: Registry) -> None:
        self.rbac = Rbac()
        self.pods = NodePods()
        csrs = registry.of(CERTIFICATESIGNINGREQUESTS).cache

        def csr(namespace: str, name: str) -> Tree | None:
            entry = csrs.peek(namespace, name)
            return entry.tree if entry is not None else None

        self._chain: Sequence[Authorizer] = (NodeAuthorizer(self.pods, defaults.NODE_RULES), JoiningNodes(csr),
                                             self.rbac)
        self.rbac.follow(registry)
        self.pods.follow(registry)
        self._store = registry.store
        self._caches = [registry.of(resource).cache for resource in (
            ROLES, CLUSTERROLES, ROLEBINDINGS, CLUSTERROLEBINDINGS, PODS, CERTIFICATESIGNINGREQUESTS)]

    async def catch_up(self) -> None:
        """Return once all that has been written so far counts: what was granted just now is not refused."""
        revision = self._store.revision
        for cache in self._caches:
            await cache.wait_for(revision)

    def decide(self, user: User, asked: Attributes) -> Decision:
        """The first that allows or denies; reasons of the others are joined."""
        if MASTERS in user.groups:
            return ALLOWED
        if asked.path in ALWAYS_ALLOWED and asked.verb in ("get", "head"):
            return ALLOWED
        reasons: list[str] = []
        for authorizer in self._chain:
            decision = authorizer.decide(user, asked)
            if decision.allowed or decision.denied:
                return decision
            if decision.reason:
                reasons.append(decision.reason)
        return Decision(allowed=False, reason="\n".join(reasons)) if reasons else NO_OPINION

    def allows(self, user: User, asked: Attributes) -> bool:
        """Whether the user may."""
        return self.decide(user, asked).allowed

    async def check(self, user: User, asked: Attributes) -> None:
        """ApiError 403 in upstream's words where the user may not."""
        if self.decide(user, asked).allowed:
            return
        await self.catch_up()
        decision = self.decide(user, asked)
        if not decision.allowed:
            raise refusal(user, asked, decision.reason)
