"""What only the master can say: who may use the agent's own port, and tokens for ServiceAccounts of pods here.

Upstream's kubelet asks the API server by TokenReview, SubjectAccessReview and TokenRequest; here these are two calls
on the line that is open anyway, so that neither costs the agent an HTTP client.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from sampan.loop.clock import Clock
from sampan.pb import node_pb2, node_pb2_grpc

R = TypeVar("R")

TIMEOUT = 10.0
"""Seconds for one question."""
REMEMBERED = 512
"""Verdicts kept at most: callers of a node's port are few."""
LONGEST_PATH = 500
"""Characters up to which a path is kept: callers choose it."""
_ENDED = "the connection to the master has just ended"


class AuthorityError(Exception):
    """No answer now; worth another try. The message says why."""


class AuthorityRefused(AuthorityError):
    """The master's answer is no, in its own words."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls the agent's port: a bearer token, else the user that a verified client certificate names, else nobody.

    The agent checks that a certificate comes from the cluster's CA; `name` is its common name, `groups` its
    organisations.
    """

    token: str = ""
    name: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """What a caller wants: `verb` (get, create, …) on a `subresource` of this Node, else on a `path`.

    The subresource is upstream's for the URL: metrics, stats, log, healthz, configz, pods, and proxy for all else.
    """

    verb: str
    subresource: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a caller may. Not `authenticated` is a 401, not `allowed` a 403 with `reason` as its text."""

    authenticated: bool
    allowed: bool
    user: str = ""
    groups: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """A token for a pod on this node, to last `seconds`; no audiences means that of the API server."""

    namespace: str
    pod: str
    uid: str
    service_account: str
    audiences: tuple[str, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token, and from when to when it is good (UTC)."""

    token: str
    issued: datetime
    expires: datetime


class Authority(Protocol):
    """Asks the master. Every call raises AuthorityError within some seconds where there is no answer."""

    async def review(self, caller: Caller, action: Action) -> Verdict:
        """May they? Answers are remembered as long as the master allows."""

    async def issue_token(self, order: TokenOrder) -> IssuedToken:
        """A new token; AuthorityRefused where the pod or its ServiceAccount is not (or no longer) there."""


class LinkAuthority:
    """Asks over the line; `stub` gives the present connection's, None while there is none."""

    def __init__(self, stub: Callable[[], node_pb2_grpc.NodeServiceStub | None], clock: Clock) -> None:
        self._stub = stub
        self._clock = clock
        self._verdicts: dict[tuple[bytes, Caller, Action], tuple[float, Verdict]] = {}

    async def review(self, caller: Caller, action: Action) -> Verdict:
        """See Authority."""
        # A token is remembered by its hash only, so that it is not lying around in memory.
        digest = hashlib.sha256(caller.token.encode("utf-8", "surrogateescape")).digest() if caller.token else b""
        key = (digest, Caller("", caller.name, caller.groups), action)
        known = self._verdicts.get(key)
        if known and known[0] > self._clock.monotonic():
            return known[1]
        request = node_pb2.ReviewRequest(verb=action.verb, subresource=action.subresource, path=action.path)
        if caller.token:
            request.token = caller.token
        elif caller.name:
            request.certificate.CopyFrom(node_pb2.CertifiedUser(name=caller.name, groups=caller.groups))
        reply = await self._ask("Review", request, node_pb2.ReviewReply)
        verdict = Verdict(reply.authenticated, reply.allowed, reply.user, tuple(reply.groups), reply.reason)
        if len(action.path) > LONGEST_PATH:
            return verdict
        self._verdicts.pop(key, None)  # so that the newest is last
        self._verdicts[key] = self._clock.monotonic() + reply.cache_seconds, verdict
        while len(self._verdicts) > REMEMBERED:
            del self._verdicts[next(iter(self._verdicts))]
        return verdict

    async def issue_token(self, order: TokenOrder) -> IssuedToken:
        """See Authority."""
        request = node_pb2.IssueTokenRequest(
            pod=node_pb2.PodRef(namespace=order.namespace, name=order.pod, uid=order.uid),
            service_account=order.service_account, audiences=order.audiences, expiration_seconds=order.seconds)
        reply = await self._ask("IssueToken", request, node_pb2.IssueTokenReply)
        return IssuedToken(reply.token, datetime.fromtimestamp(reply.issued, UTC),
                           datetime.fromtimestamp(reply.expires, UTC))

    async def serving_certificate(self, request: bytes) -> bytes:
        """The certificate of this node's port for a request, PEM; AuthorityRefused where it asks for too much."""
        reply = await self._ask("Renew", node_pb2.RenewRequest(request=request, serving=True), node_pb2.RenewReply)
        return bytes(reply.certificate)

    async def _ask(self, method: str, request: Any, kind: type[R]) -> R:
        stub = self._stub()
        if stub is None:
            raise AuthorityError("there is no connection to the master")
        try:
            reply = await getattr(stub, method)(request, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            words = error.details() or error.code().name
            if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION,
                                grpc.StatusCode.NOT_FOUND):
                raise AuthorityRefused(words) from error
            raise AuthorityError(words) from error
        except grpc.aio.UsageError as error:  # the connection was closed between our look and the call
            raise AuthorityError(_ENDED) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise AuthorityError(_ENDED) from error  # it was closed meanwhile, which cancels its calls, not us
        assert isinstance(reply, kind)
        return reply
