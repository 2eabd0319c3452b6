"""Who asks, and whether they may.

Authentication: a client certificate of the cluster's CA (CN is the user, O the groups), else a bearer token, else
anonymous. Authorisation is fixed until roles come: members of system:masters may do everything, a joining node may ask
for its certificate, anyone authenticated may read discovery and ask about themselves, everyone may see the health.
"""

from __future__ import annotations

import csv
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from master.apiserver.request import RequestInfo
from master.apiserver.strategy import User
from sampan.api.errors import ApiError, forbidden_request, unauthorized
from sampan.api.resources import CERTIFICATESIGNINGREQUESTS
from sampan.pki.tokens import NAMESPACE, SECRET_TYPE, BootstrapToken

Tree = dict[str, Any]
Lookup = Callable[[str, str], Tree | None]
"""An object by namespace and name, as the cache has it."""

AUTHENTICATED = "system:authenticated"
MASTERS = "system:masters"
BOOTSTRAPPERS = "system:bootstrappers"
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
INTERNAL = User("system:apiserver", (MASTERS, AUTHENTICATED))
"""The master's own parts."""

PUBLIC_PATHS = frozenset(("/healthz", "/livez", "/readyz", "/version", "/version/", "/cacerts"))
_DISCOVERY = ("/api", "/apis", "/openapi", "/healthz", "/livez", "/readyz", "/version")
_SELF_REVIEWS = frozenset((("authentication.k8s.io", "selfsubjectreviews"),
                           ("authorization.k8s.io", "selfsubjectaccessreviews"),
                           ("authorization.k8s.io", "selfsubjectrulesreviews")))


class Authenticator(Protocol):
    """Knows some bearer tokens."""

    def authenticate(self, token: str) -> User | None:
        """Whose token it is, None for a token of no one known here."""


class BootstrapTokens:
    """Tokens of new nodes, kept as Secrets in kube-system (upstream's bootstrap-tokens reference)."""

    def __init__(self, secret: Lookup, now: Callable[[], datetime]) -> None:
        self._secret = secret
        self._now = now

    def authenticate(self, token: str) -> User | None:
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

    def authenticate(self, token: str) -> User | None:
        """The token's user; every token is compared, so that time tells nothing."""
        found = None
        for known, user in self._users.items():
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogateescape")):
                found = user
        return found


def certificate_user(peer: Mapping[str, Any] | None) -> User | None:
    """Whom a verified client certificate speaks for, as `SSLObject.getpeercert()` tells it."""
    if not peer:
        return None
    name, groups = "", []
    for part in peer.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return User(name, (*groups, AUTHENTICATED)) if name else None


def bearer_user(header: str, authenticators: Iterable[Authenticator]) -> User | None:
    """Whose bearer token the Authorization header carries, None without one; ApiError 401 for an unknown token."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return None
    for authenticator in authenticators:
        user = authenticator.authenticate(token)
        if user is not None:
            return user
    raise unauthorized()


def impersonate(user: User, name: str, groups: Iterable[str], uid: str) -> User:
    """The user that the caller wants to act as; only system:masters may. ApiError 403, or 400 for half a request."""
    groups = tuple(groups)
    if not name:
        if groups or uid:
            raise ApiError(400, "BadRequest", "requested impersonation without impersonating a user")
        return user
    if any(not part.isprintable() for part in (name, uid, *groups)):
        raise ApiError(400, "BadRequest", "impersonation headers must be printable UTF-8")
    if MASTERS not in user.groups:
        raise forbidden_request("", "users", name, f'User "{user.name}" cannot impersonate resource "users" in API '
                                'group "" at the cluster scope')
    extra: tuple[str, ...] = () if name == ANONYMOUS.name or AUTHENTICATED in groups else (AUTHENTICATED,)
    if name == ANONYMOUS.name and not groups:
        extra = ANONYMOUS.groups
    return User(name, (*groups, *extra), uid)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the authoriser is asked about: a verb on a resource, or on a path that is none."""

    verb: str
    group: str = ""
    plural: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @classmethod
    def of(cls, info: RequestInfo) -> Attributes:
        """Of a request."""
        if not info.is_resource:
            return cls(info.verb, path=info.path)
        return cls(info.verb, info.group, info.plural, info.subresource, info.namespace, info.name)


class Authorizer:
    """Decides who may do what. `requester` tells who made a certificate request (its spec.username)."""

    def __init__(self, csr: Lookup) -> None:
        self._csr = csr

    def allows(self, user: User, asked: Attributes) -> bool:
        """Whether the user may."""
        if MASTERS in user.groups:
            return True
        if asked.path:
            if asked.path in PUBLIC_PATHS and asked.verb in ("get", "head"):
                return True
            known = AUTHENTICATED in user.groups and asked.verb in ("get", "head")
            return known and (asked.path == "/" or any(
                asked.path == prefix or asked.path.startswith(prefix + "/") for prefix in _DISCOVERY))
        if (asked.group, asked.plural) in _SELF_REVIEWS:
            return AUTHENTICATED in user.groups and asked.verb == "create"
        return BOOTSTRAPPERS in user.groups and self._may_bootstrap(user, asked)

    def _may_bootstrap(self, user: User, asked: Attributes) -> bool:
        """A joining node asks for its certificate and waits for it; it sees nobody else's."""
        if (asked.group, asked.plural) != CERTIFICATESIGNINGREQUESTS.key or asked.subresource:
            return False
        if asked.verb == "create":
            return True
        if asked.verb not in ("get", "list", "watch") or not asked.name:
            return False
        csr = self._csr("", asked.name)
        return csr is not None and (csr.get("spec") or {}).get("username") == user.name

    def check(self, user: User, asked: Attributes) -> None:
        """ApiError 403 in upstream's words where the user may not."""
        if self.allows(user, asked):
            return
        if asked.path:
            raise ApiError(403, "Forbidden", f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"')
        resource = f"{asked.plural}/{asked.subresource}" if asked.subresource else asked.plural
        where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
        raise forbidden_request(asked.group, asked.plural, asked.name, f'User "{user.name}" cannot {asked.verb} '
                                f'resource "{resource}" in API group "{asked.group}" {where}')
