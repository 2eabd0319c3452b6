"""What the columns of tables mean, for clients that show it: mostly the description of the field behind a column.

Source: pkg/printers/internalversion upstream, which takes them from the fields' documentation too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from master.apiserver.kinds.print_common import Table
from master.apiserver.strategy import Column, TablePrinter

Key = tuple[str, str]
Definitions = Mapping[str, Mapping[str, Any]]

_CORE = "io.k8s.api.core.v1"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_CSR = "io.k8s.api.certificates.v1.CertificateSigningRequest"
_SLICE = "io.k8s.api.discovery.v1.EndpointSlice"
_RBAC = "io.k8s.api.rbac.v1"
_EVERYWHERE = {"Name": f"{_META}.name", "Age": f"{_META}.creationTimestamp", "Created At": f"{_META}.creationTimestamp"}
_TEMPLATE = {"Containers": "Names of each container in the template.",
             "Images": "Images referenced by each container in the template."}


def _bindings(kind: str) -> dict[str, str]:
    word = kind[0].lower() + kind[1:]
    return {"Role": f"{_RBAC}.{kind}.roleRef", **{who: f"{who} in the {word}" for who in (
        "Users", "Groups", "ServiceAccounts")}}


_DOCS: dict[Key, dict[str, str]] = {
    ("", "namespaces"): {"Status": "The status of the namespace"},
    ("", "nodes"): {
        "Status": "The status of the node", "Roles": "The roles of the node",
        "Version": f"{_CORE}.NodeSystemInfo.kubeletVersion", "Internal-IP": f"{_CORE}.NodeStatus.addresses",
        "External-IP": f"{_CORE}.NodeStatus.addresses", "OS-Image": f"{_CORE}.NodeSystemInfo.osImage",
        "Kernel-Version": f"{_CORE}.NodeSystemInfo.kernelVersion",
        "Container-Runtime": f"{_CORE}.NodeSystemInfo.containerRuntimeVersion"},
    ("", "pods"): {"IP": f"{_CORE}.PodStatus.podIP", "Node": f"{_CORE}.PodSpec.nodeName",
                   "Nominated Node": f"{_CORE}.PodStatus.nominatedNodeName",
                   "Readiness Gates": f"{_CORE}.PodSpec.readinessGates"},
    ("", "services"): {
        "Type": f"{_CORE}.ServiceSpec.type", "Cluster-IP": f"{_CORE}.ServiceSpec.clusterIP",
        "External-IP": f"{_CORE}.ServiceSpec.externalIPs", "Port(s)": f"{_CORE}.ServiceSpec.ports",
        "Selector": f"{_CORE}.ServiceSpec.selector"},
    ("", "replicationcontrollers"): {
        "Desired": f"{_CORE}.ReplicationControllerSpec.replicas",
        "Current": f"{_CORE}.ReplicationControllerStatus.replicas",
        "Ready": f"{_CORE}.ReplicationControllerStatus.readyReplicas",
        "Selector": f"{_CORE}.ReplicationControllerSpec.selector", **_TEMPLATE},
    ("", "endpoints"): {"Endpoints": f"{_CORE}.Endpoints.subsets"},
    ("", "configmaps"): {"Data": f"{_CORE}.ConfigMap.data"},
    ("", "secrets"): {"Type": f"{_CORE}.Secret.type", "Data": f"{_CORE}.Secret.data"},
    ("", "serviceaccounts"): {"Secrets": f"{_CORE}.ServiceAccount.secrets"},
    ("", "events"): {
        "Last Seen": f"{_CORE}.Event.lastTimestamp", "Type": f"{_CORE}.Event.type", "Reason": f"{_CORE}.Event.reason",
        "Object": f"{_CORE}.Event.involvedObject", "Subobject": f"{_CORE}.ObjectReference.fieldPath",
        "Source": f"{_CORE}.Event.source", "Message": f"{_CORE}.Event.message",
        "First Seen": f"{_CORE}.Event.firstTimestamp", "Count": f"{_CORE}.Event.count"},
    ("coordination.k8s.io", "leases"): {"Holder": "io.k8s.api.coordination.v1.LeaseSpec.holderIdentity"},
    ("apps", "deployments"): {
        "Ready": "Number of the pod with ready state",
        "Up-to-date": "io.k8s.api.apps.v1.DeploymentStatus.updatedReplicas",
        "Available": "io.k8s.api.apps.v1.DeploymentStatus.availableReplicas",
        "Selector": "io.k8s.api.apps.v1.DeploymentSpec.selector", **_TEMPLATE},
    ("apps", "replicasets"): {
        "Desired": "io.k8s.api.apps.v1.ReplicaSetSpec.replicas",
        "Current": "io.k8s.api.apps.v1.ReplicaSetStatus.replicas",
        "Ready": "io.k8s.api.apps.v1.ReplicaSetStatus.readyReplicas",
        "Selector": "io.k8s.api.apps.v1.ReplicaSetSpec.selector", **_TEMPLATE},
    ("apps", "controllerrevisions"): {"Controller": "Controller of the object",
                                      "Revision": "io.k8s.api.apps.v1.ControllerRevision.revision"},
    ("discovery.k8s.io", "endpointslices"): {"AddressType": f"{_SLICE}.addressType", "Ports": f"{_SLICE}.ports",
                                             "Endpoints": f"{_SLICE}.endpoints"},
    ("certificates.k8s.io", "certificatesigningrequests"): {
        "SignerName": f"{_CSR}Spec.signerName", "Requestor": f"{_CSR}Spec.request",
        "RequestedDuration": f"{_CSR}Spec.expirationSeconds", "Condition": f"{_CSR}Status.conditions"},
    ("rbac.authorization.k8s.io", "rolebindings"): _bindings("RoleBinding"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _bindings("ClusterRoleBinding"),
}
"""For each kind's column a text, or the field (definition and property) whose description it is."""


def described(tables: Mapping[Key, TablePrinter], definitions: Definitions) -> dict[Key, TablePrinter]:
    """The tables with their columns' descriptions filled in."""
    return {key: replace(table, columns=tuple(_described(column, _DOCS.get(key, {}), definitions)
                                              for column in table.columns)) if isinstance(table, Table) else table
            for key, table in tables.items()}


def _described(column: Column, docs: Mapping[str, str], definitions: Definitions) -> Column:
    source = docs.get(column.name) or _EVERYWHERE.get(column.name, "")
    definition, _, field = source.rpartition(".")
    if definition in definitions:
        source = definitions[definition]["properties"][field].get("description", "")
    return replace(column, description=source or column.description)
