"""The columns of `kubectl get` for each kind, as upstream has them (pkg/printers/internalversion)."""

from __future__ import annotations

from typing import Any

from master.apiserver.duration import human
from master.apiserver.kinds.apps import selector_text
from master.apiserver.kinds.common import Tree, items, labels, metadata, part, spec, status
from master.apiserver.kinds.print_common import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    Table,
    age,
    name,
    pairs,
    shortened,
    wide,
)
from master.apiserver.kinds.print_pod import PODS
from master.apiserver.kinds.service_types import cluster_ips
from master.apiserver.strategy import Age, Column, TablePrinter

ROLE_PREFIX = "node-role.kubernetes.io/"
ROLE_LABEL = "kubernetes.io/role"


def _default(obj: Tree) -> list[Any]:
    return [name(obj), metadata(obj).get("creationTimestamp") or ""]


DEFAULT_PRINTER: TablePrinter = Table((NAME, Column("Created At", "date", description=AGE.description)), _default)
"""The columns of a kind without its own."""


def _namespace(obj: Tree) -> list[Any]:
    return [name(obj), status(obj).get("phase") or "", age(obj)]


def _node(obj: Tree) -> list[Any]:
    info = part(status(obj), "nodeInfo")
    ready = [entry for entry in items(status(obj), "conditions") if entry.get("type") == "Ready"]
    states = ["Ready" if entry.get("status") == "True" else "NotReady" for entry in ready[-1:]] or ["Unknown"]
    if spec(obj).get("unschedulable"):
        states.append("SchedulingDisabled")
    roles = {key[len(ROLE_PREFIX):] for key in labels(obj) if key.startswith(ROLE_PREFIX)}
    roles = {role for role in (*roles, labels(obj).get(ROLE_LABEL) or "") if role}
    addresses = {kind: next((entry.get("address") for entry in items(status(obj), "addresses")
                             if entry.get("type") == kind), None) for kind in ("InternalIP", "ExternalIP")}
    return [name(obj), ",".join(states), ",".join(sorted(roles)) or NONE, age(obj), info.get("kubeletVersion") or "",
            addresses["InternalIP"] or NONE, addresses["ExternalIP"] or NONE,
            *(info.get(key) or UNKNOWN for key in ("osImage", "kernelVersion", "containerRuntimeVersion"))]


def _service(obj: Tree) -> list[Any]:
    tree = spec(obj)
    addresses = cluster_ips(tree)
    ports = [f"{port.get('port')}" + (f":{port['nodePort']}" if port.get("nodePort") else "")
             + f"/{port.get('protocol') or 'TCP'}" for port in items(tree, "ports")]
    return [name(obj), tree.get("type") or "", addresses[0] if addresses else NONE, _external(obj),
            ",".join(ports) or NONE, age(obj), pairs(part(tree, "selector"))]


def _external(obj: Tree) -> str:
    """How the Service is reached from outside."""
    tree = spec(obj)
    if tree.get("type") == "ExternalName":
        return tree.get("externalName") or ""
    outside = list(items(tree, "externalIPs"))
    if tree.get("type") == "LoadBalancer":
        ingress = items(part(status(obj), "loadBalancer"), "ingress")
        given = sorted({entry.get("ip") or entry.get("hostname") or "" for entry in ingress} - {""})
        return ",".join((*given, *outside)) or "<pending>"
    return ",".join(outside) or NONE


def _endpoints(obj: Tree) -> list[Any]:
    found = []
    for subset in items(obj, "subsets"):
        addresses = [address.get("ip") or "" for address in items(subset, "addresses")]
        ports = items(subset, "ports")
        found += [f"{_bracketed(address)}:{port.get('port')}" for port in ports for address in addresses]
        found += [] if ports else addresses
    return [name(obj), shortened(found, NONE if not items(obj, "subsets") else ""), age(obj)]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _slice(obj: Tree) -> list[Any]:
    ports = [str(port.get("port") or port.get("name") or "*") for port in items(obj, "ports")]
    addresses = [address for endpoint in items(obj, "endpoints") for address in items(endpoint, "addresses")]
    return [name(obj), obj.get("addressType") or "", shortened(ports, "<unset>"), shortened(addresses, "<unset>"),
            age(obj)]


def _config_map(obj: Tree) -> list[Any]:
    return [name(obj), len(part(obj, "data")) + len(part(obj, "binaryData")), age(obj)]


def _secret(obj: Tree) -> list[Any]:
    return [name(obj), obj.get("type") or "", len(part(obj, "data")), age(obj)]


def _account(obj: Tree) -> list[Any]:
    return [name(obj), len(items(obj, "secrets")), age(obj)]


def _event(obj: Tree) -> list[Any]:
    involved, source, series = part(obj, "involvedObject"), part(obj, "source"), obj.get("series")
    first = obj.get("firstTimestamp") or obj.get("eventTime") or ""
    last = obj.get("lastTimestamp") or first
    count = obj.get("count") or 1
    if series is not None:
        last, count = series.get("lastObservedTime") or "", series.get("count") or 0
    target = (involved.get("kind") or "").lower()
    if involved.get("name"):
        target += f"/{involved['name']}"
    component = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or obj.get("reportingInstance") or ""
    return [Age(last), obj.get("type") or "", obj.get("reason") or "", target, involved.get("fieldPath") or "",
            f"{component}, {host}" if host else component, (obj.get("message") or "").strip(),
            Age(first), count, name(obj)]


def _lease(obj: Tree) -> list[Any]:
    return [name(obj), spec(obj).get("holderIdentity") or "", age(obj)]


def _containers(tree: Tree) -> list[str]:
    """Names and images of a workload's containers."""
    containers = items(part(part(tree, "template"), "spec"), "containers")
    return [",".join(container.get(key) or "" for container in containers) for key in ("name", "image")]


def _selector(tree: Tree) -> str:
    return selector_text(tree.get("selector")) or NONE


def _deployment(obj: Tree) -> list[Any]:
    tree, state = spec(obj), status(obj)
    return [name(obj), f"{state.get('readyReplicas') or 0}/{tree.get('replicas', 1)}",
            state.get("updatedReplicas") or 0, state.get("availableReplicas") or 0, age(obj), *_containers(tree),
            _selector(tree)]


def _replicated(obj: Tree) -> list[Any]:
    tree, state = spec(obj), status(obj)
    return [name(obj), tree.get("replicas", 1), state.get("replicas") or 0, state.get("readyReplicas") or 0, age(obj),
            *_containers(tree)]


def _replica_set(obj: Tree) -> list[Any]:
    return [*_replicated(obj), _selector(spec(obj))]


def _replication_controller(obj: Tree) -> list[Any]:
    return [*_replicated(obj), pairs(part(spec(obj), "selector"))]


def _scale(obj: Tree) -> list[Any]:
    return [name(obj), spec(obj).get("replicas") or 0, status(obj).get("replicas") or 0, age(obj)]


def _revision(obj: Tree) -> list[Any]:
    owner = next((entry for entry in items(metadata(obj), "ownerReferences") if entry.get("controller")), None)
    controller = NONE
    if owner is not None:
        group = (owner.get("apiVersion") or "").rpartition("/")[0]
        kind = (owner.get("kind") or "").lower()
        controller = f"{kind}.{group}/{owner.get('name')}" if group else f"{kind}/{owner.get('name')}"
    return [name(obj), controller, obj.get("revision") or 0, age(obj)]


def _csr(obj: Tree) -> list[Any]:
    tree, state = spec(obj), status(obj)
    kinds = {condition.get("type") for condition in items(state, "conditions")}
    condition = "Denied" if "Denied" in kinds else "Approved" if "Approved" in kinds else "Pending"
    condition += (",Failed" if "Failed" in kinds else "") + (",Issued" if state.get("certificate") else "")
    seconds = tree.get("expirationSeconds")
    return [name(obj), age(obj), tree.get("signerName") or NONE, tree.get("username") or "",
            NONE if seconds is None else human(seconds), condition]


def _role_binding(obj: Tree) -> list[Any]:
    ref = part(obj, "roleRef")
    users, groups, accounts = ([subject for subject in items(obj, "subjects") if subject.get("kind") == kind]
                               for kind in ("User", "Group", "ServiceAccount"))
    return [name(obj), f"{ref.get('kind')}/{ref.get('name')}", age(obj),
            ", ".join(subject.get("name") or "" for subject in users),
            ", ".join(subject.get("name") or "" for subject in groups),
            ", ".join(f"{subject.get('namespace') or ''}/{subject.get('name')}" for subject in accounts)]


def _int(title: str) -> Column:
    return Column(title, "integer")


_ROLE_BINDING: TablePrinter = Table((NAME, Column("Role"), AGE, wide("Users"), wide("Groups"),
                                     wide("ServiceAccounts")), _role_binding)
_WORKLOAD = (wide("Containers"), wide("Images"), wide("Selector"))

SCALE_TABLE: TablePrinter = Table((NAME, _int("Desired"), _int("Available"), AGE), _scale)
"""The columns of the subresource `scale`."""

TABLES: dict[tuple[str, str], TablePrinter] = {
    ("", "namespaces"): Table((NAME, Column("Status"), AGE), _namespace),
    ("", "nodes"): Table((NAME, Column("Status"), Column("Roles"), AGE, Column("Version"), wide("Internal-IP"),
                          wide("External-IP"), wide("OS-Image"), wide("Kernel-Version"), wide("Container-Runtime")),
                         _node),
    ("", "pods"): PODS,
    ("", "services"): Table((NAME, Column("Type"), Column("Cluster-IP"), Column("External-IP"), Column("Port(s)"), AGE,
                             wide("Selector")), _service),
    ("", "replicationcontrollers"): Table((NAME, _int("Desired"), _int("Current"), _int("Ready"), AGE, *_WORKLOAD),
                                          _replication_controller),
    ("", "endpoints"): Table((NAME, Column("Endpoints"), AGE), _endpoints),
    ("", "configmaps"): Table((NAME, Column("Data"), AGE), _config_map),
    ("", "secrets"): Table((NAME, Column("Type"), Column("Data"), AGE), _secret),
    ("", "serviceaccounts"): Table((NAME, Column("Secrets"), AGE), _account),
    ("", "events"): Table((Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"), wide("Subobject"),
                           wide("Source"), Column("Message"), wide("First Seen"), wide("Count"),
                           Column("Name", format="name", priority=1)), _event),
    ("coordination.k8s.io", "leases"): Table((NAME, Column("Holder"), AGE), _lease),
    ("apps", "deployments"): Table((NAME, Column("Ready"), Column("Up-to-date"), Column("Available"), AGE, *_WORKLOAD),
                                   _deployment),
    ("apps", "replicasets"): Table((NAME, _int("Desired"), _int("Current"), _int("Ready"), AGE, *_WORKLOAD),
                                   _replica_set),
    ("apps", "controllerrevisions"): Table((NAME, Column("Controller"), Column("Revision"), AGE), _revision),
    ("discovery.k8s.io", "endpointslices"): Table((NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"),
                                                   AGE), _slice),
    ("certificates.k8s.io", "certificatesigningrequests"): Table(
        (NAME, AGE, Column("SignerName"), Column("Requestor"), Column("RequestedDuration"), Column("Condition")), _csr),
    ("rbac.authorization.k8s.io", "roles"): DEFAULT_PRINTER,
    ("rbac.authorization.k8s.io", "clusterroles"): DEFAULT_PRINTER,
    ("rbac.authorization.k8s.io", "rolebindings"): _ROLE_BINDING,
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _ROLE_BINDING,
}
