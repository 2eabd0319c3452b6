"""The index of roles and bindings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.apiserver.accounts.claims import Ref, account_user
from master.apiserver.auth import AUTHENTICATED, MASTERS
from master.apiserver.authorization import defaults
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.rbac import Rbac
from master.apiserver.request import parse
from master.apiserver.strategy import User
from sampan.api.errors import ApiError
from tests.support.access import binding, entry, role

Tree = dict[str, Any]
ALICE = User("alice", ("staff", AUTHENTICATED))
BOT = account_user("shop", Ref("bot", "u"))


def index(roles: list[Tree], bindings: list[Tree]) -> Rbac:
    made = Rbac()
    for tree in roles:
        made._role_changed(None, entry(tree))
    for tree in bindings:
        made._binding_changed(None, entry(tree))
    return made


def ask(rbac: Rbac, user: User, verb: str, namespace: str = "ns", plural: str = "pods") -> bool:
    return rbac.decide(user, Attributes(verb, "", plural, "", namespace)).allowed


@pytest.mark.parametrize(("bound", "user", "here", "elsewhere", "cluster"), [
    (binding("b", "ClusterRole/read", "User:alice"), ALICE, True, True, True),
    (binding("b", "ClusterRole/read", "User:alice", namespace="ns"), ALICE, True, False, False),
    (binding("b", "Role/read", "User:alice", namespace="ns"), ALICE, True, False, False),
    (binding("b", "Role/read", "User:alice"), ALICE, False, False, False),
    (binding("b", "ClusterRole/read", "User:bob"), ALICE, False, False, False),
    (binding("b", "ClusterRole/read", "User:bob", "Group:staff"), ALICE, True, True, True),
    (binding("b", "ClusterRole/read", "Group:alice", "User:staff"), ALICE, False, False, False),
    (binding("b", "ClusterRole/read", "ServiceAccount:shop/bot"), BOT, True, True, True),
    (binding("b", "ClusterRole/read", "ServiceAccount:bot"), BOT, False, False, False),
    (binding("b", "Role/read", "ServiceAccount:bot", namespace="ns"), BOT, False, False, False),
    (binding("b", "Role/read", "ServiceAccount:shop/bot", namespace="ns"), BOT, True, False, False),
    (binding("b", "ClusterRole/read", "User:system:serviceaccount:shop:bot"), BOT, True, True, True),
    (binding("b", "ClusterRole/read", "Group:system:serviceaccounts:shop"), BOT, True, True, True),
    (binding("b", "ClusterRole/read", "Group:system:serviceaccounts:ns"), BOT, False, False, False),
    (binding("b", "ClusterRole/read", "Machine:alice"), ALICE, False, False, False),
])
def test_who_is_bound(bound: Tree, user: User, here: bool, elsewhere: bool, cluster: bool) -> None:
    rbac = index([role("read", pods="get"), role("read", "ns", pods="get")], [bound])
    found = [ask(rbac, user, "get", place) for place in ("ns", "other", "")]
    assert found == [here, elsewhere, cluster]
    assert not ask(rbac, user, "delete")
    assert not ask(rbac, user, "get", plural="secrets")


def test_reasons_are_upstreams() -> None:
    rbac = index([role("read", pods="get")], [
        binding("b", "ClusterRole/read", "ServiceAccount:shop/bot"),
        binding("c", "ClusterRole/read", "Group:staff", namespace="ns"), binding("d", "ClusterRole/none", "User:eve"),
        binding("e", "Role/none", "User:eve", namespace="ns")])
    asked = Attributes("get", "", "pods", "", "ns")
    assert rbac.decide(BOT, asked).reason == (
        'RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "read" to ServiceAccount "bot/shop"')
    assert rbac.decide(ALICE, asked).reason == (
        'RBAC: allowed by RoleBinding "c/ns" of ClusterRole "read" to Group "staff"')
    assert rbac.decide(User("eve"), Attributes("get", "", "pods")).reason == (
        'RBAC: clusterrole.rbac.authorization.k8s.io "none" not found')
    assert rbac.decide(User("eve"), asked).reason == (
        'RBAC: [clusterrole.rbac.authorization.k8s.io "none" not found, role.rbac.authorization.k8s.io "none" not '
        "found]")
    assert rbac.decide(User("joe"), asked).reason == ""


def test_changes_are_seen_at_once() -> None:
    rbac = index([role("read", pods="get")], [binding("b", "ClusterRole/read", "User:alice")])
    assert ask(rbac, ALICE, "get")
    old, new = entry(role("read", pods="get")), entry(role("read", pods="list"))
    rbac._role_changed(old, new)
    assert (ask(rbac, ALICE, "get"), ask(rbac, ALICE, "list")) == (False, True)
    before, after = (entry(binding("b", "ClusterRole/read", f"User:{name}")) for name in ("alice", "bob"))
    rbac._binding_changed(before, after)
    assert (ask(rbac, ALICE, "list"), ask(rbac, User("bob"), "list")) == (False, True)
    rbac._binding_changed(after, None)
    assert not ask(rbac, User("bob"), "list")
    rbac._binding_changed(None, before)
    rbac._role_changed(new, None)
    assert not ask(rbac, ALICE, "list")


def test_a_role_that_is_not_there() -> None:
    with pytest.raises(ApiError) as refused:
        Rbac().role("Role", "x", "ns")
    assert (refused.value.code, refused.value.message) == (404, 'role.rbac.authorization.k8s.io "x" not found')


NAMES, PLACES = ("a", "b"), ("", "n1", "n2")
some_roles = st.builds(lambda name, place, verb: role(name, place, pods=verb), st.sampled_from(NAMES),
                       st.sampled_from(PLACES), st.sampled_from(("get", "list", "*")))
some_bindings = st.builds(
    lambda name, place, kind, ref, who: binding(name, f"{kind}/{ref}", *who, namespace=place), st.sampled_from(NAMES),
    st.sampled_from(PLACES), st.sampled_from(("Role", "ClusterRole")), st.sampled_from(NAMES),
    st.lists(st.sampled_from(("User:alice", "Group:staff", "ServiceAccount:shop/bot", "ServiceAccount:bot")),
             max_size=3))
changes = st.lists(st.tuples(st.sampled_from(("put", "drop")), st.one_of(some_roles, some_bindings)), max_size=12)


@settings(max_examples=60)
@given(changes)
def test_however_it_came_about_the_index_answers_like_a_look_at_everything(steps: list[tuple[str, Tree]]) -> None:
    rbac, present = Rbac(), {}
    for verb, tree in steps:
        bound = "roleRef" in tree
        key = (bound, tree["metadata"].get("namespace", ""), tree["metadata"]["name"])
        old, new = present.get(key), tree if verb == "put" else None
        change = rbac._binding_changed if bound else rbac._role_changed
        if old or new:
            change(entry(old) if old else None, entry(new) if new else None)
        present.pop(key, None)
        if new:
            present[key] = new
    fresh = index([tree for (bound, *_), tree in present.items() if not bound],
                  [tree for (bound, *_), tree in present.items() if bound])
    for user in (ALICE, BOT, account_user("n1", Ref("bot", ""))):
        for place in PLACES:
            for verb in ("get", "list"):
                assert ask(rbac, user, verb, place) == ask(fresh, user, verb, place)
    if not present:
        assert not rbac._cluster
        assert not rbac._within


@pytest.fixture(scope="module")
def standard() -> Rbac:
    """The default roles, with admin, edit and view filled as the aggregation controller fills them, and bound."""
    roles = {tree["metadata"]["name"]: tree for tree in defaults.cluster_roles()}

    def rules(name: str) -> list[Tree]:
        tree = roles[name]
        if "aggregationRule" not in tree:
            return list(tree["rules"])
        (label,) = tree["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"]
        return [rule for other, found in roles.items() if label in found["metadata"]["labels"] for rule in rules(other)]

    full = [{**tree, "rules": rules(name)} for name, tree in roles.items()]
    people = [binding(name, f"ClusterRole/{name}", f"User:{name}", namespace="ns")
              for name in ("admin", "edit", "view")]
    prom = binding("prom", "ClusterRole/system:monitoring", "User:prom")
    return index([*full, *defaults.roles()],
                 [*defaults.cluster_role_bindings(), *defaults.role_bindings(), *people, prom])


def user(name: str) -> User:
    return User(name, (AUTHENTICATED,))


@pytest.mark.parametrize(("who", "method", "path", "allowed"), [
    (User("root", (MASTERS,)), "DELETE", "/apis/apps/v1/deployments", True),
    (User("root", (MASTERS,)), "GET", "/metrics", True),
    (user("joe"), "GET", "/api/v1/namespaces/ns/pods", False),
    (user("joe"), "GET", "/api", True),
    (user("joe"), "GET", "/apis/apps/v1", True),
    (user("joe"), "GET", "/openapi/v3/apis/apps/v1", True),
    (user("joe"), "GET", "/version", True),
    (user("joe"), "GET", "/metrics", False),
    (user("joe"), "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", True),
    (user("joe"), "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", True),
    (user("joe"), "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", False),
    (User("system:anonymous", ("system:unauthenticated",)), "GET", "/version", True),
    (User("system:anonymous", ("system:unauthenticated",)), "GET", "/api", False),
    (User("system:anonymous", ("system:unauthenticated",)), "GET", "/openid/v1/jwks", False),
    (BOT, "GET", "/openid/v1/jwks", True),
    (BOT, "GET", "/.well-known/openid-configuration", True),
    (user("prom"), "GET", "/metrics", True),
    (user("view"), "GET", "/api/v1/namespaces/ns/pods", True),
    (user("view"), "GET", "/api/v1/namespaces/other/pods", False),
    (user("view"), "GET", "/api/v1/pods", False),
    (user("view"), "GET", "/api/v1/namespaces/ns/pods/x/log", True),
    (user("view"), "GET", "/api/v1/namespaces/ns/pods/x/exec", False),
    (user("view"), "GET", "/api/v1/namespaces/ns/secrets/x", False),
    (user("view"), "DELETE", "/api/v1/namespaces/ns/pods/x", False),
    (user("view"), "GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/ns/roles", False),
    (user("view"), "GET", "/api/v1/namespaces/ns", True),
    (user("edit"), "DELETE", "/api/v1/namespaces/ns/pods/x", True),
    (user("edit"), "GET", "/api/v1/namespaces/ns/secrets/x", True),
    (user("edit"), "POST", "/api/v1/namespaces/ns/pods/x/exec", True),
    (user("edit"), "PATCH", "/apis/apps/v1/namespaces/ns/deployments/x/scale", True),
    (user("edit"), "POST", "/api/v1/namespaces/ns/serviceaccounts/x/token", True),
    (user("edit"), "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/ns/roles", False),
    (user("edit"), "PUT", "/api/v1/namespaces/ns/endpoints/x", False),
    (user("admin"), "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/ns/roles", True),
    (user("admin"), "POST", "/apis/authorization.k8s.io/v1/namespaces/ns/localsubjectaccessreviews", True),
    (user("admin"), "DELETE", "/api/v1/namespaces/ns", False),
    (user("admin"), "GET", "/api/v1/nodes", False),
    (User("system:kube-proxy", (AUTHENTICATED,)), "GET", "/api/v1/services", True),
    (User("system:kube-scheduler", (AUTHENTICATED,)), "POST", "/api/v1/namespaces/ns/pods/x/binding", True),
    (User("system:kube-scheduler", (AUTHENTICATED,)), "GET",
     "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", True),
    (User("system:node:n", ("system:nodes", AUTHENTICATED)), "GET", "/api/v1/namespaces/ns/secrets/x", False),
])
def test_the_default_roles(standard: Rbac, who: User, method: str, path: str, allowed: bool) -> None:
    assert standard.decide(who, Attributes.of(parse(method, path))).allowed is allowed
