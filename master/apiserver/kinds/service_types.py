"""What each type of Service has: an address, node ports, a health check."""

from __future__ import annotations

from master.apiserver.kinds.common import Tree, items


def needs_cluster_ip(spec: Tree) -> bool:
    """All but ExternalName, which is only an alias in DNS."""
    return spec.get("type") in ("ClusterIP", "NodePort", "LoadBalancer")


def needs_node_ports(spec: Tree) -> bool:
    """Types that every node answers for."""
    return spec.get("type") in ("NodePort", "LoadBalancer")


def is_headless(spec: Tree) -> bool:
    """Whether DNS gives the pods' addresses instead of one of the Service."""
    addresses = cluster_ips(spec)
    return len(addresses) == 1 and addresses[0] == "None"


def cluster_ips(spec: Tree) -> list[str]:
    """The addresses, "None" for a headless Service."""
    addresses = items(spec, "clusterIPs")
    if addresses:
        return addresses
    return [spec["clusterIP"]] if spec.get("clusterIP") else []


def is_external(spec: Tree) -> bool:
    """Whether traffic comes from outside the cluster."""
    return needs_node_ports(spec) or (spec.get("type") == "ClusterIP" and bool(items(spec, "externalIPs")))


def needs_health_check(spec: Tree) -> bool:
    """Whether a load balancer asks each node if it has an endpoint."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
