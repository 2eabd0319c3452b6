"""Which strategy and which table printer belongs to which kind."""

from __future__ import annotations

from master.apiserver.kinds.allocator import ClusterIPs, NodePorts
from master.apiserver.kinds.apps import ControllerRevisionStrategy, DeploymentStrategy, ReplicaSetStrategy
from master.apiserver.kinds.certificates import CertificateSigningRequestStrategy
from master.apiserver.kinds.coordination import LeaseStrategy
from master.apiserver.kinds.core_config import ConfigMapStrategy, SecretStrategy, ServiceAccountStrategy
from master.apiserver.kinds.core_event import EventStrategy
from master.apiserver.kinds.core_namespace import NamespaceStrategy
from master.apiserver.kinds.core_node import NodeStrategy
from master.apiserver.kinds.core_pod import PodStrategy
from master.apiserver.kinds.core_replication import ReplicationControllerStrategy
from master.apiserver.kinds.core_service import ServiceStrategy
from master.apiserver.kinds.endpoints import EndpointSliceStrategy, EndpointsStrategy
from master.apiserver.kinds.print_docs import Definitions, described
from master.apiserver.kinds.print_tables import DEFAULT_PRINTER, TABLES
from master.apiserver.kinds.rbac import BindingStrategy, RoleStrategy
from master.apiserver.strategy import Strategy, TablePrinter

__all__ = ["DEFAULT_PRINTER", "Key", "printers", "strategies"]

Key = tuple[str, str]
"""Group and plural, as in `Resource.key`."""


def strategies(cluster_ips: ClusterIPs, node_ports: NodePorts) -> dict[Key, Strategy]:
    """The strategy of each kind; Services draw from the two pools."""
    return {
        ("", "namespaces"): NamespaceStrategy(),
        ("", "nodes"): NodeStrategy(),
        ("", "pods"): PodStrategy(),
        ("", "services"): ServiceStrategy(cluster_ips, node_ports),
        ("", "replicationcontrollers"): ReplicationControllerStrategy(),
        ("", "endpoints"): EndpointsStrategy(),
        ("", "configmaps"): ConfigMapStrategy(),
        ("", "secrets"): SecretStrategy(),
        ("", "serviceaccounts"): ServiceAccountStrategy(),
        ("", "events"): EventStrategy(),
        ("coordination.k8s.io", "leases"): LeaseStrategy(),
        ("apps", "deployments"): DeploymentStrategy(),
        ("apps", "replicasets"): ReplicaSetStrategy(),
        ("apps", "controllerrevisions"): ControllerRevisionStrategy(),
        ("discovery.k8s.io", "endpointslices"): EndpointSliceStrategy(),
        ("certificates.k8s.io", "certificatesigningrequests"): CertificateSigningRequestStrategy(),
        ("rbac.authorization.k8s.io", "roles"): RoleStrategy(namespaced=True),
        ("rbac.authorization.k8s.io", "clusterroles"): RoleStrategy(namespaced=False),
        ("rbac.authorization.k8s.io", "rolebindings"): BindingStrategy(namespaced=True),
        ("rbac.authorization.k8s.io", "clusterrolebindings"): BindingStrategy(namespaced=False),
    }


def printers(definitions: Definitions | None = None) -> dict[Key, TablePrinter]:
    """The table columns of each kind; `DEFAULT_PRINTER` serves the others. `definitions` describe the columns."""
    return described(TABLES, definitions or {})
