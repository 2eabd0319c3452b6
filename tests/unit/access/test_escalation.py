"""Nobody gives away what they do not have."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from master.apiserver.auth import AUTHENTICATED, MASTERS
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.escalation import Certificates, Escalation
from master.apiserver.authorization.rbac import Rbac
from master.apiserver.authorization.union import Access
from master.apiserver.registry import Served
from master.apiserver.strategy import Context, User
from sampan.api.errors import ApiError
from sampan.api.resources import (
    CERTIFICATESIGNINGREQUESTS,
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    PODS,
    ROLEBINDINGS,
    ROLES,
    Resource,
)
from sampan.pki import ca
from tests.support.access import binding, entry, role

Tree = dict[str, Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, ROOT = User("alice", ("staff", AUTHENTICATED)), User("root", (MASTERS,))


@dataclass
class JustRbac:
    """An Access that knows roles only."""

    rbac: Rbac

    def allows(self, user: User, asked: Attributes) -> bool:
        return MASTERS in user.groups or self.rbac.decide(user, asked).allowed

    async def catch_up(self) -> None: ...


@dataclass
class Kind:
    resource: Resource[Any]


def served(resource: Resource[Any]) -> Served:
    return cast("Served", Kind(resource))


def access(*extra: Tree) -> Access:
    """Alice may read pods everywhere, and everything with configmaps in ns; `extra` are rules of one role of hers."""
    rbac = Rbac()
    for tree in (role("pods", pods="get list"), role("configs", "ns", configmaps="*"), role("secrets", secrets="get"),
                 {"metadata": {"name": "more"}, "rules": list(extra)}):
        rbac._role_changed(None, entry(tree))
    for tree in (binding("a", "ClusterRole/pods", "User:alice"),
                 binding("b", "Role/configs", "User:alice", namespace="ns"),
                 binding("c", "ClusterRole/more", "Group:staff")):
        rbac._binding_changed(None, entry(tree))
    return cast("Access", JustRbac(rbac))


def may(verb: str, resource: str, *names: str) -> Tree:
    return {"apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource], "verbs": [verb],
            "resourceNames": list(names)}


async def attempt(known: Access, resource: Resource[Any], obj: Tree, user: User = ALICE) -> str:
    """The refusal's message, "" for none."""
    try:
        await Escalation(known).create(served(resource), obj, Context(user, NOW))
    except ApiError as error:
        return f"{error.code} {error.message}"
    return ""


GRANT = ('user "alice" (groups=["staff" "system:authenticated"]) is attempting to grant RBAC permissions not currently '
         "held:")


@pytest.mark.parametrize(("resource", "obj", "extra", "message"), [
    (CLUSTERROLES, role("r", pods="get"), [], ""),
    (CLUSTERROLES, role("r", pods="get delete", secrets="get"), [],
     (f'403 clusterroles.rbac.authorization.k8s.io "r" is forbidden: {GRANT}\n'
     '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}\n{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}')),
    (CLUSTERROLES, role("r", configmaps="get"), [],
     (f'403 clusterroles.rbac.authorization.k8s.io "r" is forbidden: {GRANT}\n'
     '{APIGroups:[""], Resources:["configmaps"], Verbs:["get"]}')),
    (ROLES, role("r", "ns", configmaps="get"), [], ""),
    (ROLES, role("r", "other", configmaps="get"), [],
     (f'403 roles.rbac.authorization.k8s.io "r" is forbidden: {GRANT}\n'
     '{APIGroups:[""], Resources:["configmaps"], Verbs:["get"]}')),
    (CLUSTERROLES, role("r", secrets="*"), [may("escalate", "clusterroles")], ""),
    (CLUSTERROLES, role("r", secrets="*"), [may("escalate", "clusterroles", "r")], ""),
    (CLUSTERROLES, {**role("r"), "aggregationRule": {"clusterRoleSelectors": [{}]}}, [],
     ('403 clusterroles.rbac.authorization.k8s.io "r" is forbidden: must have cluster-admin privileges to use the '
     "aggregationRule")),
    (CLUSTERROLES, {**role("r"), "aggregationRule": {"clusterRoleSelectors": [{}]}},
     [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}], ""),
    (CLUSTERROLES, {**role("r"), "aggregationRule": {"clusterRoleSelectors": []}}, [], ""),
    (CLUSTERROLEBINDINGS, binding("b", "ClusterRole/pods", "User:bob"), [], ""),
    (CLUSTERROLEBINDINGS, binding("b", "ClusterRole/secrets", "User:bob"), [],
     (f'403 clusterrolebindings.rbac.authorization.k8s.io "b" is forbidden: {GRANT}\n'
     '{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}')),
    (CLUSTERROLEBINDINGS, binding("b", "ClusterRole/secrets", "User:bob"),
     [may("bind", "clusterroles", "secrets")], ""),
    (ROLEBINDINGS, binding("b", "ClusterRole/secrets", "User:bob", namespace="ns"),
     [may("bind", "clusterroles", "secrets")], ""),
    (ROLEBINDINGS, binding("b", "Role/configs", "User:bob", namespace="ns"), [], ""),
    (ROLEBINDINGS, binding("b", "ClusterRole/none", "User:bob", namespace="ns"), [],
     '404 clusterrole.rbac.authorization.k8s.io "none" not found'),
    (PODS, {"metadata": {"name": "p", "namespace": "ns"}}, [], ""),
])
async def test_grants(resource: Resource[Any], obj: Tree, extra: list[Tree], message: str) -> None:
    assert await attempt(access(*extra), resource, obj) == message
    assert await attempt(access(), resource, obj, ROOT) == ""


@pytest.mark.parametrize(("before", "after", "allowed"), [
    (role("r", secrets="get"), {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, False),
    (role("r", secrets="get"), {"annotations": {"a": "b"}}, False),
    (role("r", secrets="get"), {"finalizers": ["example.com/f"], "ownerReferences": [], "resourceVersion": "2"}, True),
    (role("r", secrets="get"), {}, True),
    (role("r", pods="get"), {"labels": {"a": "b"}}, True),
])
async def test_a_label_too_may_give_a_role_away(before: Tree, after: Tree, allowed: bool) -> None:
    new = {**before, "metadata": {"name": "r", **after}}
    work = Escalation(access()).update(served(CLUSTERROLES), new, before, Context(ALICE, NOW))
    if allowed:
        await work
    else:
        with pytest.raises(ApiError, match="permissions not currently held"):
            await work


async def test_an_aggregated_role_is_not_cut_loose() -> None:
    old = {**role("r"), "aggregationRule": {"clusterRoleSelectors": [{}]}}
    with pytest.raises(ApiError, match="must have cluster-admin privileges to use the aggregationRule"):
        await Escalation(access()).update(served(CLUSTERROLES), role("r"), old, Context(ALICE, NOW))


async def test_rules_that_one_does_not_have_are_not_added() -> None:
    with pytest.raises(ApiError, match="permissions not currently held"):
        await Escalation(access()).update(served(CLUSTERROLES), role("r", secrets="get list"), role(
            "r", secrets="get"), Context(ALICE, NOW))


def request(*groups: str) -> str:
    return base64.b64encode(ca.make_request(ca.new_key(), ca.Identity("joe", groups))).decode()


def csr(signer: str, **status: Any) -> Tree:
    return {"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": request()}, "status": status}


async def test_no_administrators_by_certificate() -> None:
    plugin, kind = Certificates(access()), served(CERTIFICATESIGNINGREQUESTS)
    wish = csr("kubernetes.io/kube-apiserver-client")
    await plugin.create(kind, wish, Context(ALICE, NOW))
    wish["spec"]["request"] = request(MASTERS)
    with pytest.raises(ApiError, match="with system:masters group is not allowed"):
        await plugin.create(kind, wish, Context(ALICE, NOW))
    wish["spec"]["request"] = "nonsense"
    await plugin.create(kind, wish, Context(ALICE, NOW))  # validation refuses that


@pytest.mark.parametrize("status", [{"certificate": "x"}, {"conditions": [{"type": "Failed", "status": "True"}]}])
@pytest.mark.parametrize(("verb", "names", "subresource", "allowed"), [
    ("approve", ["example.com/a"], "approval", True), ("approve", ["example.com/*"], "approval", True),
    ("approve", [], "approval", True), ("approve", ["example.com/b"], "approval", False),
    ("sign", ["example.com/a"], "approval", False), ("sign", ["example.com/a"], "status", True),
    ("approve", ["example.com/a"], "status", False)])
async def test_who_decides_on_certificates(verb: str, names: list[str], subresource: str, allowed: bool,
                                           status: Tree) -> None:
    rule = {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": [verb], "resourceNames": names}
    plugin, old = Certificates(access(rule)), csr("example.com/a")
    new = {**old, "status": status}
    work = plugin.update(served(CERTIFICATESIGNINGREQUESTS), new, old, Context(ALICE, NOW, subresource=subresource))
    if allowed:
        await work
    else:
        with pytest.raises(ApiError, match=r'user not permitted to .* requests with signerName "example\.com/a"'):
            await work
