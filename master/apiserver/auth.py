"""Who asks: a client certificate of the cluster's CA (CN is the user, O the groups), a bearer token, or nobody known.

Whether they may, `master.apiserver.authorization` decides.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from master.apiserver.strategy import User
from sampan.api.errors import unauthorized
from sampan.pki.tokens import NAMESPACE, SECRET_TYPE, BootstrapToken

Tree = dict[str, Any]
Lookup = Callable[[str, str], Tree | None]
"""An object by namespace and name, as the cache has it."""

AUTHENTICATED = "system:authenticated"
MASTERS = "system:masters"
BOOTSTRAPPERS = "system:bootstrappers"
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
"""Which certificate or token it was, in the user's extra."""
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
INTERNAL = User("system:apiserver", (MASTERS, AUTHENTICATED))
"""The master's own parts."""


class Authenticator(Protocol):
    """Knows some bearer tokens."""

    async def authenticate(self, token: str) -> User | None:
        """Whose token it is, None for a token of no one known here."""


class BootstrapTokens:
    """Tokens of new nodes, kept as Secrets in kube-system (upstream's bootstrap-tokens reference)."""

    def __init__(self, secret: Lookup, now: Callable[[], datetime]) -> None:
        self._secret = secret
        self._now = now

    async def authenticate(self, token: str) -> User | None:
        """The joining node, as long as its token lasts."""
        try:
            parsed = BootstrapToken.parse(token)
        except ValueError:
            return None
        tree = self._secret(NAMESPACE, f"bootstrap-token-{parsed.id}")
        if tree is None or tree.get("type") != SECRET_TYPE or (tree.get("metadata") or {}).get("deletionTimestamp"):
            return None
        data = _plain(tree.get("data") or {})
        genuine = hmac.compare_digest(data.get("token-secret", "").encode(), parsed.secret.encode())
        if not genuine or data.get("token-id") != parsed.id or data.get("usage-bootstrap-authentication") != "true":
            return None
        if self._expired(data.get("expiration", "")):
            return None
        extra = [group for group in data.get("auth-extra-groups", "").split(",")
                 if group.startswith(BOOTSTRAPPERS + ":")]
        return User(f"system:bootstrap:{parsed.id}", (BOOTSTRAPPERS, *extra, AUTHENTICATED))

    def _expired(self, text: str) -> bool:
        if not text:
            return False
        try:
            ends = datetime.fromisoformat(text)
        except ValueError:
            return True
        return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)) <= self._now()


def _plain(data: Mapping[str, str]) -> dict[str, str]:
    import base64  # noqa: PLC0415 - only joining nodes need it

    result = {}
    for key, value in data.items():
        try:
            result[key] = base64.b64decode(value, validate=True).decode()
        except ValueError:
            continue
    return result


class StaticTokens:
    """Tokens from a file of lines ``token,user,uid,"group1,group2"``, read once at start."""

    def __init__(self, rows: Iterable[list[str]]) -> None:
        self._users: dict[str, User] = {}
        for row in rows:
            if len(row) >= 3:
                groups = tuple(part for part in (row[3].split(",") if len(row) > 3 else ()) if part)
                self._users[row[0]] = User(row[1], (*groups, AUTHENTICATED), row[2])

    @classmethod
    def load(cls, path: Path) -> StaticTokens:
        """Read the file; OSError."""
        with path.open(newline="", encoding="utf-8") as file:
            return cls(csv.reader(file, skipinitialspace=True))

    async def authenticate(self, token: str) -> User | None:
        """The token's user; every token is compared, so that time tells nothing."""
        found = None
        for known, user in self._users.items():
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogateescape")):
                found = user
        return found


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Whom a verified client certificate speaks for, and what tells it from an older one of the same name."""

    user: User
    serial: int
    issued: datetime
    expires: datetime


def client_certificate(peer: Mapping[str, Any] | None, encoded: bytes | None) -> ClientCertificate | None:
    """From what `SSLObject.getpeercert()` tells, and its DER form; None without one, and for one without a name.

    Its digest goes with the user, so that a request can be traced to one certificate of several with that name.
    """
    if not peer:
        return None
    name, groups = "", []
    for part in peer.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    if not name:
        return None
    digest = hashlib.sha256(encoded or b"").hexdigest()
    user = User(name, (*groups, AUTHENTICATED), extra=((CREDENTIAL_ID, (f"X509SHA256={digest}",)),))
    issued, expires = (datetime.fromtimestamp(ssl.cert_time_to_seconds(peer[key]), UTC)
                       for key in ("notBefore", "notAfter"))
    return ClientCertificate(user, int(peer["serialNumber"], 16), issued, expires)


class Authentication:
    """Asks all who know tokens, in turn."""

    def __init__(self, authenticators: Iterable[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def token(self, token: str) -> User | None:
        """Whose bearer token it is, None for a token that nobody knows."""
        for authenticator in self._authenticators:
            user = await authenticator.authenticate(token)
            if user is not None:
                return user
        return None

    async def bearer(self, header: str) -> User | None:
        """Whose token an Authorization header carries, None for one without; ApiError 401 for an unknown token."""
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        user = await self.token(token)
        if user is None:
            raise unauthorized()
        return user
