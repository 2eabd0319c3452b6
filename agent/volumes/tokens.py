"""Tokens of the ServiceAccounts that pods run as: asked of the master once, kept with the pod, renewed in time.

The files in pods' volumes are the only store: an agent that restarts, without its master too, goes on with what it
finds there. Source: KEP-1205; pkg/kubelet/token for when a token is renewed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from agent.link.authority import Authority, AuthorityError, TokenOrder
from sampan.api.types import core_v1

DEFAULT_SECONDS = 3600
LONGEST = timedelta(hours=24)
"""A token is renewed after 80 % of its life, and after a day at the latest."""
RETRY = timedelta(minutes=1)

Key = tuple[str, str]
"""A volume's name, and a token's path in it."""


class TokenError(Exception):
    """There is no token, and none to be had now; the message says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """A token, and the times that count for it: `until` is what was asked for, `ends` when it is really over."""

    token: str
    issued: datetime
    until: datetime
    ends: datetime

    def due(self) -> datetime:
        """When to get the next one."""
        return self.issued + min((self.until - self.issued) * 0.8, LONGEST)


class _Payload(msgspec.Struct):
    iat: float = 0.0
    exp: float = 0.0


def read_held(token: bytes, seconds: int) -> Held | None:
    """What a token file holds, None where that is no token. Only the times are read, nothing is checked."""
    parts = token.decode(errors="replace").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Payload)
        issued, ends = datetime.fromtimestamp(claims.iat, UTC), datetime.fromtimestamp(claims.exp, UTC)
    except (binascii.Error, ValueError, OverflowError, msgspec.DecodeError):
        return None
    return Held(".".join(parts), issued, issued + timedelta(seconds=seconds), ends)


class PodTokens:
    """The tokens of this node's pods."""

    def __init__(self, authority: Authority, now: Callable[[], datetime]) -> None:
        self._authority = authority
        self._now = now
        self._held: dict[str, dict[Key, Held]] = {}
        self._failed: dict[str, datetime] = {}

    async def get(self, pod: core_v1.Pod, key: Key, source: core_v1.ServiceAccountTokenProjection,
                  read: Callable[[], Awaitable[bytes]]) -> str:
        """The token for a file; `read` tells what it holds now (b"" for nothing). TokenError.

        One that should be renewed and cannot be is given as long as it lasts.
        """
        uid, seconds = pod.metadata.uid, source.expiration_seconds or DEFAULT_SECONDS
        tokens = self._held.setdefault(uid, {})
        held = tokens.get(key) or read_held(await read(), seconds)
        now = self._now()
        if held and now < held.due():
            tokens[key] = held
            return held.token
        order = TokenOrder(pod.metadata.namespace, pod.metadata.name, uid, pod.spec.service_account_name or "default",
                           (source.audience,) if source.audience else (), seconds)
        try:
            issued = await self._authority.issue_token(order)
        except AuthorityError as error:
            self._failed[uid] = now
            if held and now < held.ends:
                tokens[key] = held
                return held.token
            raise TokenError(f"failed to fetch token: {error}") from error
        self._failed.pop(uid, None)
        tokens[key] = Held(issued.token, issued.issued, issued.expires, issued.expires)
        return issued.token

    def due(self, uid: str) -> bool:
        """Whether one of the pod's tokens should be renewed now."""
        now, failed = self._now(), self._failed.get(uid)
        if failed and timedelta() <= now - failed < RETRY:
            return False
        return any(now >= held.due() for held in self._held.get(uid, {}).values())

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._held.pop(uid, None)
        self._failed.pop(uid, None)
