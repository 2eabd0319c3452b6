"""Acting as somebody else."""

from __future__ import annotations

from typing import cast

import pytest
from multidict import CIMultiDict

from master.apiserver.auth import AUTHENTICATED
from master.apiserver.authorization.attributes import Attributes, refusal
from master.apiserver.authorization.impersonation import Wish, impersonated
from master.apiserver.authorization.union import Access
from master.apiserver.strategy import User
from sampan.api.errors import ApiError

ALICE = User("alice", (AUTHENTICATED,))


class Allows:
    """An Access that allows what is listed: ``resource[/subresource][ namespace]:name``."""

    def __init__(self, *rights: str) -> None:
        self.rights = rights

    async def check(self, user: User, asked: Attributes) -> None:
        assert asked.verb == "impersonate"
        where = f" {asked.namespace}" if asked.namespace else ""
        group = f".{asked.group}" if asked.group else ""
        if f"{asked.resource}{group}{where}:{asked.name}" not in self.rights:
            raise refusal(user, asked)


async def become(headers: dict[str, str] | list[tuple[str, str]], *rights: str) -> User:
    return await impersonated(ALICE, CIMultiDict(headers), cast("Access", Allows(*rights)))


@pytest.mark.parametrize(("headers", "rights", "user"), [
    ([], (), ALICE),
    ([("Impersonate-User", "bob")], ("users:bob",), User("bob", (AUTHENTICATED,))),
    ([("impersonate-user", "bob"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b")],
     ("users:bob", "groups:a", "groups:b"), User("bob", ("a", "b", AUTHENTICATED))),
    ([("Impersonate-User", "bob"), ("Impersonate-Group", AUTHENTICATED)],
     ("users:bob", f"groups:{AUTHENTICATED}"), User("bob", (AUTHENTICATED,))),
    ([("Impersonate-User", "system:anonymous")], ("users:system:anonymous",),
     User("system:anonymous", ("system:unauthenticated",))),
    ([("Impersonate-User", "system:serviceaccount:ns:bot")], ("serviceaccounts ns:bot",),
     User("system:serviceaccount:ns:bot", ("system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED))),
    ([("Impersonate-User", "system:serviceaccount:ns:bot"), ("Impersonate-Group", "x")],
     ("serviceaccounts ns:bot", "groups:x"), User("system:serviceaccount:ns:bot", ("x", AUTHENTICATED))),
    ([("Impersonate-User", "bob"), ("Impersonate-Uid", "7"), ("Impersonate-Extra-Scope", "v"),
      ("Impersonate-Extra-acme.com%2Fproject", "p")],
     ("users:bob", "uids.authentication.k8s.io:7", "userextras/scope.authentication.k8s.io:v",
      "userextras/acme.com/project.authentication.k8s.io:p"),
     User("bob", (AUTHENTICATED,), "7", (("scope", ("v",)), ("acme.com/project", ("p",))))),
])
async def test_wishes_that_are_granted(headers: list[tuple[str, str]], rights: tuple[str, ...], user: User) -> None:
    assert await become(headers, *rights) == user


@pytest.mark.parametrize(("headers", "rights", "message"), [
    ([("Impersonate-User", "bob")], (),
     'users "bob" is forbidden: User "alice" cannot impersonate resource "users" in API group "" at the cluster scope'),
    ([("Impersonate-User", "bob"), ("Impersonate-Group", "system:masters")], ("users:bob",),
     ('groups "system:masters" is forbidden: User "alice" cannot impersonate resource "groups" in API group "" at the '
     "cluster scope")),
    ([("Impersonate-User", "system:serviceaccount:ns:bot")], ("users:system:serviceaccount:ns:bot",),
     ('serviceaccounts "bot" is forbidden: User "alice" cannot impersonate resource "serviceaccounts" in API group "" '
     'in the namespace "ns"')),
    ([("Impersonate-User", "bob"), ("Impersonate-Extra-scope", "v")], ("users:bob",),
     ('userextras.authentication.k8s.io "v" is forbidden: User "alice" cannot impersonate resource "userextras/scope" '
     'in API group "authentication.k8s.io" at the cluster scope')),
])
async def test_wishes_that_are_refused(headers: list[tuple[str, str]], rights: tuple[str, ...], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        await become(headers, *rights)
    assert (refused.value.code, refused.value.message) == (403, message)


@pytest.mark.parametrize("headers", [
    {"Impersonate-Group": "x"}, {"Impersonate-Uid": "1"}, {"Impersonate-Extra-a": "b"},
    {"Impersonate-User": "a\tb"}])
async def test_half_a_wish(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as refused:
        await become(headers, "users:a\tb")
    assert refused.value.code == 400


def test_no_wish_at_all() -> None:
    assert Wish.read([("Accept", "x")]) is None
