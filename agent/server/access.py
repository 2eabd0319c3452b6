"""Who may read what of the node's port: upstream's delegated authentication and authorisation, by the master's word.

Verbs, subresources and texts are those of upstream's kubelet (pkg/kubelet/server/auth.go, v1.32).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from agent.link.authority import Action, AuthorityError, Caller, Verdict
from agent.server.http import Request, Response

log = logging.getLogger(__name__)

_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = (("/stats", "stats"), ("/metrics", "metrics"), ("/logs", "log"))


class Reviewer(Protocol):
    """The part of `agent.link.authority.Authority` that is needed here."""

    async def review(self, caller: Caller, action: Action) -> Verdict:
        """May they? AuthorityError where there is no answer."""


def certified(peer: Mapping[str, Any] | None) -> Caller:
    """Whom a verified client certificate names, as `SSLObject.getpeercert()` tells it; nobody without one."""
    name, groups = "", []
    for part in (peer or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return Caller(name=name, groups=tuple(groups)) if name else Caller()


def bearer(header: str) -> str:
    """The token of an Authorization header; "" for none."""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def action(method: str, path: str) -> Action:
    """What the request does, in terms of the Node's subresources: for everything without one of its own, proxy."""
    verb = _VERBS.get(method, "")
    for prefix, subresource in _SUBRESOURCES:
        if path == prefix or path.startswith(prefix + "/"):
            return Action(verb, subresource)
    return Action(verb, "proxy")


class Guard:
    """Asks the reviewer about each request. Who cannot be asked about is not let in."""

    def __init__(self, reviewer: Reviewer) -> None:
        self._reviewer = reviewer

    async def refusal(self, request: Request, peer: Caller) -> Response | None:
        """None where the request may go on. A certificate counts before a token, as upstream has it."""
        token = "" if peer.name else bearer(request.headers.get("authorization", ""))
        if not peer.name and not token:
            return Response.text(401, "Unauthorized")
        asked = action(request.method, request.path)
        try:
            verdict = await self._reviewer.review(Caller(token=token) if token else peer, asked)
        except AuthorityError as error:
            log.warning("%s %s: who may read it cannot be asked: %s", request.method, request.path, error)
            user = peer.name or "unknown"
            return Response.text(500, f"Authorization error (user={user}, verb={asked.verb}, resource=nodes, "
                                      f"subresource={asked.subresource})")
        if not verdict.authenticated:
            return Response.text(401, "Unauthorized")
        if not verdict.allowed:
            return Response.text(403, f"Forbidden (user={verdict.user}, verb={asked.verb}, resource=nodes, "
                                      f"subresource={asked.subresource})")
        return None
