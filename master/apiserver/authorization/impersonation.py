"""Acting as somebody else, by the Impersonate headers: whoever does needs the verb ``impersonate`` on all of it.

Source: the "User impersonation" part of the authentication reference; k8s.io/apiserver/pkg/endpoints/filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from master.apiserver.accounts.claims import group_names, split_username
from master.apiserver.auth import ANONYMOUS, AUTHENTICATED
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.union import Access
from master.apiserver.strategy import User
from sampan.api.errors import ApiError

USER, GROUP, UID, EXTRA = "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-"
UNAUTHENTICATED = "system:unauthenticated"
_GROUP = "authentication.k8s.io"


@dataclass(frozen=True, slots=True)
class Wish:
    """As whom a request wants to be done."""

    name: str = ""
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def read(cls, headers: Iterable[tuple[str, str]]) -> Wish | None:
        """From a request's headers; None where there is no such wish, ApiError 400 for half of one."""
        name = uid = ""
        groups: list[str] = []
        extra: dict[str, list[str]] = {}
        found = False
        for key, value in headers:
            lower = key.lower()
            if not lower.startswith("impersonate-"):
                continue
            found = True
            if lower == USER.lower():
                name = name or value
            elif lower == GROUP.lower():
                groups.append(value)
            elif lower == UID.lower():
                uid = uid or value
            elif lower.startswith(EXTRA.lower()):
                extra.setdefault(unquote(lower[len(EXTRA):]), []).append(value)
        if not found:
            return None
        if not name:
            if groups or uid or extra:
                raise ApiError(400, "BadRequest", "requested impersonation without impersonating a user")
            return None
        texts = (name, uid, *groups, *extra, *(value for values in extra.values() for value in values))
        if any(not text.isprintable() for text in texts):
            raise ApiError(400, "BadRequest", "impersonation headers must be printable UTF-8")
        return cls(name, tuple(groups), uid, tuple((key, tuple(values)) for key, values in extra.items()))

    def asks(self) -> Iterator[Attributes]:
        """All that must be allowed."""
        account = split_username(self.name)
        if account:
            yield Attributes("impersonate", "", "serviceaccounts", "", *account)
        else:
            yield Attributes("impersonate", "", "users", name=self.name)
        for group in self.groups:
            yield Attributes("impersonate", "", "groups", name=group)
        for key, values in self.extra:
            for value in values:
                yield Attributes("impersonate", _GROUP, "userextras", key, name=value)
        if self.uid:
            yield Attributes("impersonate", _GROUP, "uids", name=self.uid)

    def user(self) -> User:
        """Who it is then, with the groups that go without saying."""
        groups: Sequence[str] = self.groups
        account = split_username(self.name)
        if account and not groups:
            groups = group_names(account[0])
        implied = UNAUTHENTICATED if self.name == ANONYMOUS.name else AUTHENTICATED
        if AUTHENTICATED not in groups and UNAUTHENTICATED not in groups:
            groups = (*groups, implied)
        return User(self.name, tuple(groups), self.uid, self.extra)


async def impersonated(user: User, headers: Mapping[str, str], access: Access) -> User:
    """The user that the caller wants to be, or the caller; ApiError 403 in upstream's words, or 400."""
    wish = Wish.read(headers.items())
    if wish is None:
        return user
    for asked in wish.asks():
        await access.check(user, asked)
    return wish.user()
