"""What people may do, over HTTPS with their certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sampan.loop.clock import FakeClock
from tests.support.apiserver import Running

RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEW = "/apis/authorization.k8s.io/v1"
POD_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


def role(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "rules": list(rules), "kind": "ClusterRole",
            "apiVersion": "rbac.authorization.k8s.io/v1"}


def binding(name: str, to: str, *users: str, kind: str = "ClusterRole") -> dict[str, Any]:
    return {"metadata": {"name": name}, "roleRef": {"kind": kind, "name": to},
            "subjects": [{"kind": "User", "name": user} for user in users]}


async def test_rights_come_and_go_with_bindings(api: Running) -> None:
    pods = "/api/v1/namespaces/default/pods"
    async with api.client_session("mary", ["staff"]) as mary:
        status = await api.refused(403, "GET", pods, session=mary)
        assert status["message"] == ('pods is forbidden: User "mary" cannot list resource "pods" in API group "" in '
                                     'the namespace "default"')
        assert status["details"] == {"kind": "pods"}
        await api.ok("POST", f"{RBAC}/clusterroles", role("reader", POD_RULE))
        made = await api.ok("POST", f"{RBAC}/namespaces/default/rolebindings", binding("b", "reader", "mary"))
        assert made["roleRef"]["apiGroup"] == made["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
        assert (await api.ok("GET", pods, session=mary))["items"] == []
        await api.refused(403, "GET", "/api/v1/pods", session=mary)
        await api.refused(403, "DELETE", pods + "/x", session=mary)
        await api.refused(404, "GET", pods + "/x", session=mary)
        await api.ok("DELETE", f"{RBAC}/namespaces/default/rolebindings/b")
        await api.refused(403, "GET", pods, session=mary)
        await api.refused(403, "GET", "/metrics", session=mary)
        urls = {"nonResourceURLs": ["/metrics*"], "verbs": ["get"]}
        await api.ok("PUT", f"{RBAC}/clusterroles/urls", role("urls", urls))
        await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("c", "urls", "mary"))
        assert (await api.request("GET", "/metrics", session=mary)).code == 200


async def test_a_binding_to_nothing_says_so(api: Running) -> None:
    await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("b", "none", "mary"))
    async with api.client_session("mary") as mary:
        status = await api.refused(403, "GET", "/api/v1/nodes", session=mary)
        assert status["message"] == (
            'nodes is forbidden: User "mary" cannot list resource "nodes" in API group "" at the cluster scope: RBAC: '
            'clusterrole.rbac.authorization.k8s.io "none" not found')


async def test_nobody_gives_away_more_than_they_have(api: Running) -> None:
    writes = {"apiGroups": ["rbac.authorization.k8s.io"], "verbs": ["create", "update", "patch", "get"],
              "resources": ["clusterroles", "clusterrolebindings"]}
    await api.ok("POST", f"{RBAC}/clusterroles", role("grants", writes, POD_RULE))
    await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("mary", "grants", "mary"))
    async with api.client_session("mary") as mary:
        await api.ok("POST", f"{RBAC}/clusterroles", role("fine", POD_RULE), session=mary)
        status = await api.refused(403, "POST", f"{RBAC}/clusterroles", role("more", {**POD_RULE, "verbs": ["*"]}),
                                   session=mary)
        assert status["message"] == (
            'clusterroles.rbac.authorization.k8s.io "more" is forbidden: user "mary" (groups=["system:authenticated"]) '
            'is attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["pods"], '
            'Verbs:["*"]}')
        patch = {"rules": [{**POD_RULE, "resources": ["secrets"]}]}
        await api.refused(403, "PATCH", f"{RBAC}/clusterroles/fine", patch, session=mary,
                          content_type="application/merge-patch+json")
        await api.refused(403, "POST", f"{RBAC}/clusterrolebindings", binding("b", "cluster-admin", "mary"),
                          session=mary)
        await api.refused(404, "POST", f"{RBAC}/clusterrolebindings", binding("b", "none", "mary"), session=mary)
        await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("b", "fine", "joe"), session=mary)


async def test_who_owns_one_namespace_owns_no_other(api: Running) -> None:
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    for name in ("own", "other"):
        await api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    await api.ok("POST", f"{RBAC}/namespaces/own/roles", {"metadata": {"name": "owner"}, "rules": [everything]})
    await api.ok("POST", f"{RBAC}/namespaces/own/rolebindings", binding("owner", "owner", "ann", kind="Role"))
    status = {"metadata": {"name": "other"}}
    async with api.client_session("ann") as ann:
        await api.ok("GET", "/api/v1/namespaces/own", session=ann)
        await api.ok("GET", "/api/v1/namespaces/own/status", session=ann)
        for path, code in (("/api/v1/namespaces", 403), ("/api/v1/namespaces/own/namespaces", 404)):
            await api.refused(code, "GET", path, session=ann)
            await api.refused(code, "POST", path, {"metadata": {"name": "new"}}, session=ann)
            for method, below, body in (("GET", "", None), ("DELETE", "", None), ("PUT", "/finalize", status),
                                        ("PUT", "/status", status)):
                await api.refused(code, method, f"{path}/other{below}", body, session=ann)
        await api.refused(404, "GET", "/api/v1/watch/namespaces/own/namespaces", session=ann)
        await api.refused(404, "GET", "/api/v1/namespaces/own/nodes", session=ann)
        await api.ok("DELETE", "/api/v1/namespaces/own", session=ann)
    assert (await api.ok("GET", "/api/v1/namespaces/other"))["status"]["phase"] == "Active"


async def test_a_connection_outlives_no_certificate(api: Running) -> None:
    async with api.client_session("mary") as mary:
        await api.ok("GET", "/api", session=mary)
        api.parts.registry.clock = FakeClock(datetime.now(UTC) + timedelta(days=366))
        status = await api.refused(401, "GET", "/api", session=mary)
        assert status["reason"] == "Unauthorized"


async def test_a_put_that_creates_takes_the_right_to_create(api: Running) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "mary"}}

    def rule(verbs: str) -> dict[str, Any]:
        return {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs.split()}

    await api.ok("POST", f"{RBAC}/clusterroles", role("leases", rule("update")))
    await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("b", "leases", "mary"))
    async with api.client_session("mary") as mary:
        status = await api.refused(403, "PUT", f"{leases}/l", lease, session=mary)
        assert status["message"] == ('leases.coordination.k8s.io "l" is forbidden: User "mary" cannot create resource '
                                     '"leases" in API group "coordination.k8s.io" in the namespace "default"')
        await api.refused(404, "GET", f"{leases}/l")
        made = await api.ok("POST", leases, lease)
        await api.ok("PUT", f"{leases}/l", made, session=mary)
        await api.ok("PUT", f"{RBAC}/clusterroles/leases", role("leases", rule("update create")))
        await api.ok("PUT", f"{leases}/m", {"metadata": {"name": "m"}}, session=mary)


async def test_a_role_of_a_binding_never_changes(api: Running) -> None:
    await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("b", "view", "mary"))
    status = await api.refused(422, "PUT", f"{RBAC}/clusterrolebindings/b", binding("b", "admin", "mary"))
    assert status["message"] == (
        'ClusterRoleBinding.rbac.authorization.k8s.io "b" is invalid: roleRef: Invalid value: '
        'rbac.RoleRef{APIGroup:"rbac.authorization.k8s.io", Kind:"ClusterRole", Name:"admin"}: cannot change roleRef')


async def test_roles_and_bindings_are_checked(api: Running) -> None:
    roles = f"{RBAC}/namespaces/default/roles"
    rules = [{"verbs": [], "apiGroups": [""], "resources": ["pods"]}, {"verbs": ["get"]},
             {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]
    status = await api.refused(422, "POST", roles, {"metadata": {"name": "r"}, "rules": rules})
    assert [(cause["field"], cause["message"]) for cause in status["details"]["causes"]] == [
        ("rules[0].verbs", "Required value: verbs must contain at least one value"),
        ("rules[1].apiGroups", "Required value: resource rules must supply at least one api group"),
        ("rules[1].resources", "Required value: resource rules must supply at least one resource"),
        ("rules[2].nonResourceURLs",
         'Invalid value: []string{"/x"}: namespaced rules cannot apply to non-resource URLs'),
        ("rules[2].nonResourceURLs",
         'Invalid value: []string{"/x"}: rules cannot apply to both regular resources and non-resource URLs')]
    bad = {"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": ""}, "subjects": [
        {"kind": "Machine", "name": "x"}, {"kind": "ServiceAccount", "name": "y", "apiGroup": "apps"}]}
    status = await api.refused(422, "POST", f"{RBAC}/clusterrolebindings", bad)
    assert [cause["field"] for cause in status["details"]["causes"]] == [
        "roleRef.kind", "roleRef.name", "subjects[0].kind", "subjects[1].apiGroup", "subjects[1].namespace"]


async def test_reviews_of_others(api: Running) -> None:
    await api.ok("POST", f"{RBAC}/namespaces/default/rolebindings", binding("b", "system:node-proxier", "mary"))
    asked = {"namespace": "default", "verb": "list", "resource": "services"}
    allowed = await api.ok("POST", f"{REVIEW}/subjectaccessreviews",
                           {"spec": {"user": "mary", "resourceAttributes": asked}})
    assert allowed["status"] == {"allowed": True, "reason": (
        'RBAC: allowed by RoleBinding "b/default" of ClusterRole "system:node-proxier" to User "mary"')}
    local = f"{REVIEW}/namespaces/default/localsubjectaccessreviews"
    for resource, answer in (("services", True), ("secrets", False)):
        review = {"spec": {"user": "mary", "resourceAttributes": {**asked, "resource": resource}}}
        assert (await api.ok("POST", local, review))["status"]["allowed"] is answer
    await api.refused(422, "POST", local, {"spec": {"user": "mary", "resourceAttributes": {**asked, "namespace": "x"}}})
    await api.refused(422, "POST", f"{REVIEW}/subjectaccessreviews", {"spec": {"resourceAttributes": asked}})
    await api.refused(404, "POST", f"{REVIEW}/localsubjectaccessreviews", {})
    async with api.client_session("mary") as mary:
        await api.refused(403, "POST", local, {}, session=mary)
        spec = {"namespace": "default"}
        rules = await api.ok("POST", f"{REVIEW}/selfsubjectrulesreviews", {"spec": spec}, session=mary)
        found = [rule for rule in rules["status"]["resourceRules"] if "services" in rule["resources"]]
        assert found == [{"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["endpoints", "services"]}]
        assert {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"]
                } in rules["status"]["nonResourceRules"]
        await api.refused(400, "POST", f"{REVIEW}/selfsubjectrulesreviews", {"spec": {}}, session=mary)
    node = {"user": "system:node:n", "groups": ["system:nodes"]}
    verdict = await api.ok("POST", f"{REVIEW}/subjectaccessreviews",
                           {"spec": {**node, "resourceAttributes": {"verb": "get", "resource": "nodes", "name": "m"}}})
    assert verdict["status"] == {"allowed": False,
                                 "reason": "node 'n' cannot read 'm', only its own Node object"}


async def test_impersonation_takes_a_right(api: Running) -> None:
    rule = {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["joe"]}
    await api.ok("POST", f"{RBAC}/clusterroles", role("be-joe", rule))
    await api.ok("POST", f"{RBAC}/clusterrolebindings", binding("b", "be-joe", "mary"))
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    async with api.client_session("mary") as mary:
        info = await api.ok("POST", path, body, session=mary, headers={"Impersonate-User": "joe"})
        assert info["status"]["userInfo"] == {"username": "joe", "groups": ["system:authenticated"]}
        status = await api.refused(403, "POST", path, body, session=mary, headers={"Impersonate-User": "root"})
        assert status["message"] == ('users "root" is forbidden: User "mary" cannot impersonate resource "users" in '
                                     'API group "" at the cluster scope')
        await api.refused(403, "POST", path, body, session=mary,
                          headers={"Impersonate-User": "joe", "Impersonate-Group": "system:masters"})
