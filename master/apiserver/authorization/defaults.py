"""The roles and bindings that every cluster has from its first moment, as upstream 1.32 gives them.

Source: the "Default roles and role bindings" part of the RBAC reference. Roles of upstream's own controllers are left
out: ours work inside the API server's process and need none. `sampan:nodes-config` is ours (kubeadm's:
`kubeadm:nodes-kubeadm-config`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sampan import clusterconfig

Tree = dict[str, Any]

GROUP = "rbac.authorization.k8s.io"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
BOOTSTRAPPING = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"

_READ = "get list watch"
_WRITE = "create delete deletecollection patch update"
_ALL = f"{_READ} {_WRITE}"
_CERTIFICATES = "certificates.k8s.io"
_APPS_WRITTEN = ("daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale "
                 "statefulsets statefulsets/scale")
_APPS_READ = ("controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status "
              "replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status")
_EXTENSIONS = ("daemonsets deployments deployments/{} ingresses {}networkpolicies replicasets replicasets/scale {}"
               "replicationcontrollers/scale")


def _rule(verbs: str, groups: Iterable[str] | str, resources: str, *names: str) -> Tree:
    groups = [groups] if isinstance(groups, str) else list(groups)
    found: Tree = {"apiGroups": groups, "resources": resources.split(), "verbs": verbs.split()}
    return found | ({"resourceNames": list(names)} if names else {})


def _paths(*paths: str) -> Tree:
    return {"nonResourceURLs": list(paths), "verbs": ["get"]}


def _role(name: str, *rules: Tree, aggregate_to: str = "", aggregates: str = "") -> Tree:
    labels = BOOTSTRAPPING | ({_AGGREGATE + aggregate_to: "true"} if aggregate_to else {})
    tree: Tree = {"metadata": {"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}}}
    if aggregates:
        selector = {"matchLabels": {_AGGREGATE + aggregates: "true"}}
        return tree | {"aggregationRule": {"clusterRoleSelectors": [selector]}}
    return tree | {"rules": list(rules)}


def _binding(role: str, *subjects: tuple[str, str], name: str = "", kind: str = "ClusterRole") -> Tree:
    meta = {"name": name or role, "labels": dict(BOOTSTRAPPING), "annotations": {AUTOUPDATE: "true"}}
    ref = {"apiGroup": GROUP, "kind": kind, "name": role}
    return {"metadata": meta, "roleRef": ref} | (
        {"subjects": [_subject(kind, name) for kind, name in subjects]} if subjects else {})


def _subject(kind: str, name: str) -> Tree:
    if kind == "ServiceAccount":
        namespace, _, own = name.partition("/")
        return {"kind": kind, "name": own, "namespace": namespace}
    return {"apiGroup": GROUP, "kind": kind, "name": name}


_EVENTS = _rule("create patch update", ("", "events.k8s.io"), "events")
_TOKEN_REVIEW = _rule("create", "authentication.k8s.io", "tokenreviews")
_ACCESS_REVIEW = _rule("create", "authorization.k8s.io", "subjectaccessreviews")
_STORAGE = "storage.k8s.io"

NODE_RULES: list[Tree] = [
    _TOKEN_REVIEW,
    _rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    _rule(_READ, "", "services"),
    _rule("create get list watch", "", "nodes"),
    _rule("patch update", "", "nodes/status"),
    _rule("patch update", "", "nodes"),
    _rule("create patch update", "", "events"),
    _rule(_READ, "", "pods"),
    _rule("create delete", "", "pods"),
    _rule("patch update", "", "pods/status"),
    _rule("create", "", "pods/eviction"),
    _rule(_READ, "", "configmaps secrets"),
    _rule("get", "", "persistentvolumeclaims persistentvolumes"),
    _rule("get", "", "endpoints"),
    _rule("create get list watch", _CERTIFICATES, "certificatesigningrequests"),
    _rule("create delete get patch update", "coordination.k8s.io", "leases"),
    _rule("get", _STORAGE, "volumeattachments"),
    _rule("create", "", "serviceaccounts/token"),
    _rule("get patch update", "", "persistentvolumeclaims/status"),
    _rule(_READ, _STORAGE, "csidrivers"),
    _rule("create delete get patch update", _STORAGE, "csinodes"),
    _rule(_READ, "node.k8s.io", "runtimeclasses"),
]
"""What all nodes may do; the node authorizer says which of it concerns the node that asks."""


def cluster_roles() -> list[Tree]:
    """ClusterRoles, sorted by what they are for."""
    return [*_users(), *_everybody(), *_components(), *_certificates()]


def _users() -> list[Tree]:
    """For people: the four that are meant to be bound, and what they are made of."""
    return [
        _role("cluster-admin", _rule("*", "*", "*"), {"nonResourceURLs": ["*"], "verbs": ["*"]}),
        _role("admin", aggregates="admin"),
        _role("edit", aggregate_to="admin", aggregates="edit"),
        _role("view", aggregate_to="edit", aggregates="view"),
        _role("system:aggregate-to-admin", _rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
              _rule(_ALL, GROUP, "rolebindings roles"), aggregate_to="admin"),
        _role("system:aggregate-to-edit",
              _rule(_READ, "", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
              _rule("impersonate", "", "serviceaccounts"),
              _rule(_WRITE, "", "pods pods/attach pods/exec pods/portforward pods/proxy"),
              _rule("create", "", "pods/eviction"),
              _rule(_WRITE, "", "configmaps events persistentvolumeclaims replicationcontrollers "
                                "replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
              _rule("create", "", "serviceaccounts/token"),
              _rule(_WRITE, "apps", _APPS_WRITTEN),
              _rule(_WRITE, "autoscaling", "horizontalpodautoscalers"),
              _rule(_WRITE, "batch", "cronjobs jobs"),
              _rule(_WRITE, "extensions", _EXTENSIONS.format("rollback deployments/scale", "", "")),
              _rule(_WRITE, "policy", "poddisruptionbudgets"),
              _rule(_WRITE, "networking.k8s.io", "ingresses networkpolicies"),
              _rule(_ALL, "coordination.k8s.io", "leases"), aggregate_to="edit"),
        _role("system:aggregate-to-view",
              _rule(_READ, "", "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods "
                               "replicationcontrollers replicationcontrollers/scale serviceaccounts services "
                               "services/status"),
              _rule(_READ, "", "bindings events limitranges namespaces/status pods/log pods/status "
                               "replicationcontrollers/status resourcequotas resourcequotas/status"),
              _rule(_READ, "", "namespaces"),
              _rule(_READ, "discovery.k8s.io", "endpointslices"),
              _rule(_READ, "apps", _APPS_READ),
              _rule(_READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
              _rule(_READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
              _rule(_READ, "extensions", _EXTENSIONS.format(
                  "scale daemonsets/status deployments/status", "ingresses/status ", "replicasets/status ")),
              _rule(_READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
              _rule(_READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
              aggregate_to="view"),
    ]


def _everybody() -> list[Tree]:
    """For whoever has logged in, or has not."""
    return [
        _role("system:discovery", _paths("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi",
                                         "/openapi/*", "/readyz", "/version", "/version/")),
        _role("system:basic-user",
              _rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
              _rule("create", "authentication.k8s.io", "selfsubjectreviews")),
        _role("system:public-info-viewer", _paths("/healthz", "/livez", "/readyz", "/version", "/version/")),
        _role("system:monitoring", _paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis",
                                          "/readyz", "/readyz/*")),
        _role("system:service-account-issuer-discovery",
              _paths("/.well-known/openid-configuration", "/openid/v1/jwks")),
    ]


def _components() -> list[Tree]:
    """For the cluster's own parts, and for those that are commonly added to it."""
    return [
        _role("system:auth-delegator", _TOKEN_REVIEW, _ACCESS_REVIEW),
        _role("system:heapster", _rule(_READ, "", "events namespaces nodes pods"),
              _rule(_READ, "extensions", "deployments")),
        _role("system:kube-aggregator", _rule(_READ, "", "endpoints services")),
        _role("system:kube-controller-manager", _EVENTS,
              _rule("create", "coordination.k8s.io", "leases"),
              _rule("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
              _rule("create", "", "secrets serviceaccounts"), _rule("delete", "", "secrets"),
              _rule("get", "", "configmaps namespaces secrets serviceaccounts"),
              _rule("update", "", "secrets serviceaccounts"), _TOKEN_REVIEW, _ACCESS_REVIEW,
              _rule("list watch", "*", "*"), _rule("create", "", "serviceaccounts/token")),
        _role("system:kube-dns", _rule("list watch", "", "endpoints services")),
        _role("system:kube-scheduler", _EVENTS,
              _rule("create", "coordination.k8s.io", "leases"),
              _rule("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
              _rule(_READ, "", "nodes"), _rule(f"delete {_READ}", "", "pods"),
              _rule("create", "", "bindings pods/binding"), _rule("patch update", "", "pods/status"),
              _rule(_READ, "", "replicationcontrollers services"),
              _rule(_READ, ("apps", "extensions"), "replicasets"), _rule(_READ, "apps", "statefulsets"),
              _rule(_READ, "policy", "poddisruptionbudgets"),
              _rule(_READ, "", "persistentvolumeclaims persistentvolumes"), _TOKEN_REVIEW, _ACCESS_REVIEW,
              _rule(_READ, _STORAGE, "csinodes"), _rule(_READ, "", "namespaces"),
              _rule(_READ, _STORAGE, "csidrivers"), _rule(_READ, _STORAGE, "csistoragecapacities")),
        _role("system:kubelet-api-admin", _rule(_READ, "", "nodes"), _rule("proxy", "", "nodes"),
              _rule("*", "", "nodes/log nodes/metrics nodes/proxy nodes/stats")),
        _role("system:node", *NODE_RULES),
        _role("system:node-bootstrapper", _rule("create get list watch", _CERTIFICATES, "certificatesigningrequests")),
        _role("system:node-problem-detector", _rule("get", "", "nodes"), _rule("patch", "", "nodes/status"), _EVENTS),
        _role("system:node-proxier", _rule("list watch", "", "endpoints services"), _rule(_READ, "", "nodes"), _EVENTS,
              _rule("list watch", "discovery.k8s.io", "endpointslices")),
        _role("system:persistent-volume-provisioner", _rule(f"create delete {_READ}", "", "persistentvolumes"),
              _rule(f"{_READ} update", "", "persistentvolumeclaims"), _rule(_READ, _STORAGE, "storageclasses"),
              _rule("watch", "", "events"), _EVENTS),
        _role("system:volume-scheduler", _rule(f"{_READ} patch update", "", "persistentvolumes"),
              _rule(_READ, _STORAGE, "storageclasses"),
              _rule(f"{_READ} patch update", "", "persistentvolumeclaims")),
    ]


def _certificates() -> list[Tree]:
    """For those who approve certificate requests."""
    requests = "system:certificates.k8s.io:certificatesigningrequests"
    roles = [_role(f"{requests}:{kind}", _rule("create", _CERTIFICATES, f"certificatesigningrequests/{kind}"))
             for kind in ("nodeclient", "selfnodeclient")]
    for signer, role in (("kube-apiserver-client", "kube-apiserver-client-approver"),
                         ("kube-apiserver-client-kubelet", "kube-apiserver-client-kubelet-approver"),
                         ("kubelet-serving", "kubelet-serving-approver"),
                         ("legacy-unknown", "legacy-unknown-approver")):
        roles.append(_role(f"system:certificates.k8s.io:{role}",
                           _rule("approve", _CERTIFICATES, "signers", f"kubernetes.io/{signer}")))
    return roles


def cluster_role_bindings() -> list[Tree]:
    """ClusterRoleBindings."""
    known, unknown = ("Group", "system:authenticated"), ("Group", "system:unauthenticated")
    scheduler = ("User", "system:kube-scheduler")
    return [
        _binding("cluster-admin", ("Group", "system:masters")),
        _binding("system:monitoring", ("Group", "system:monitoring")),
        _binding("system:discovery", known),
        _binding("system:basic-user", known),
        _binding("system:public-info-viewer", known, unknown),
        _binding("system:node-proxier", ("User", "system:kube-proxy")),
        _binding("system:kube-controller-manager", ("User", "system:kube-controller-manager")),
        _binding("system:kube-dns", ("ServiceAccount", "kube-system/kube-dns")),
        _binding("system:kube-scheduler", scheduler),
        _binding("system:volume-scheduler", scheduler),
        _binding("system:node"),
        _binding("system:service-account-issuer-discovery", ("Group", "system:serviceaccounts")),
    ]


def roles() -> list[Tree]:
    """Roles; their metadata says where."""
    reader = _role("extension-apiserver-authentication-reader",
                   _rule(_READ, "", "configmaps", "extension-apiserver-authentication"))
    nodes = _role("sampan:nodes-config", _rule("get", "", "configmaps", clusterconfig.NAME))
    for role in (reader, nodes):
        role["metadata"]["namespace"] = "kube-system"
    return [reader, nodes]


def role_bindings() -> list[Tree]:
    """RoleBindings."""
    reader = _binding("extension-apiserver-authentication-reader", ("User", "system:kube-controller-manager"),
                      ("User", "system:kube-scheduler"), name="system::extension-apiserver-authentication-reader",
                      kind="Role")
    nodes = _binding("sampan:nodes-config", ("Group", "system:nodes"), kind="Role")
    for binding in (reader, nodes):
        binding["metadata"]["namespace"] = "kube-system"
    return [reader, nodes]
