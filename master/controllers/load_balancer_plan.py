"""Services of type LoadBalancer, decided: without a cloud the nodes themselves are the load balancer.

As k3s' ServiceLB has it: a Service is reached at the address of every ready node, and the nodes' proxies do the rest;
with externalTrafficPolicy Local only at nodes that have an endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from master.controllers.endpoints_plan import family_of
from master.controllers.pods import is_true
from sampan.api.types.core_v1 import LoadBalancerIngress, Node, Service
from sampan.api.types.discovery_v1 import EndpointSlice

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


def is_ours(service: Service) -> bool:
    """Whether no other implementation was asked for (spec.loadBalancerClass)."""
    return service.spec.type == "LoadBalancer" and not service.spec.load_balancer_class


def is_local(service: Service) -> bool:
    """Whether traffic must stay on the node where it arrives."""
    return service.spec.external_traffic_policy == "Local"


def serving_nodes(slices: Iterable[EndpointSlice]) -> set[str]:
    """The nodes with an endpoint that takes new connections."""
    return {item.node_name for one in slices for item in one.endpoints
            if item.node_name and (item.conditions is None or item.conditions.ready is not False)}


def node_addresses(node: Node) -> list[str]:
    """Where other hosts reach the node."""
    return [item.address for item in node.status.addresses if item.type == "InternalIP"]


def carries(node: Node) -> bool:
    """Whether traffic may be sent to the node."""
    return (is_true(node.status.conditions, "Ready") and node.metadata.deletion_timestamp is None
            and EXCLUDED not in node.metadata.labels)


def taken(service: Service, others: Iterable[Service]) -> str:
    """Why the Service cannot have its ports at the nodes' addresses: an older one has them. "" where it can."""
    mine = _ports(service)
    for other in others:
        older = is_ours(other) and other.metadata.deletion_timestamp is None and _age(other) < _age(service)
        if older and (shared := mine & _ports(other)):
            protocol, port = min(shared)
            return f"port {port}/{protocol} is used by service {other.metadata.namespace}/{other.metadata.name}"
    return ""


def _ports(service: Service) -> set[tuple[str, int]]:
    return {(port.protocol or "TCP", port.port) for port in service.spec.ports}


def _age(service: Service) -> tuple[str, str, str]:
    """The older one comes first; of two from the same second the one whose name does."""
    meta = service.metadata
    return str(meta.creation_timestamp or ""), meta.namespace, meta.name


def ingress(service: Service, nodes: Iterable[Node], slices: Iterable[EndpointSlice]) -> list[LoadBalancerIngress]:
    """What status.loadBalancer.ingress has to be."""
    if not is_ours(service) or service.metadata.deletion_timestamp is not None:
        return []
    chosen = [node for node in nodes if carries(node)]
    if is_local(service):
        serving = serving_nodes(slices)
        chosen = [node for node in chosen if node.metadata.name in serving]
    families = service.spec.ip_families or ["IPv4"]
    found = {address for node in chosen for address in node_addresses(node)
             if family_of(address) in families}
    return [LoadBalancerIngress(ip=address, ip_mode="VIP")
            for address in sorted(found, key=lambda text: (ip_address(text).version, ip_address(text).packed))]
