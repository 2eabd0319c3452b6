"""What master and agents agree on about the cluster's DNS: which Service leads to it, and how that tells the domain."""

from __future__ import annotations

from sampan.api.types.core_v1 import Service

NAMESPACE, NAME = "kube-system", "kube-dns"
DOMAIN_ANNOTATION = "sampan.cluster-domain"
"""On the Service: the cluster's domain, so that one setting of the master's is enough for all nodes."""
DEFAULT_DOMAIN = "cluster.local"
PORT = 53


def cluster_ips(service: Service) -> list[str]:
    """A Service's own addresses; none for headless ones."""
    listed = service.spec.cluster_ips or [service.spec.cluster_ip or ""]
    return [address for address in listed if address not in ("", "None")]


def cluster_domain(service: Service | None) -> str:
    """The domain that the Service kube-dns tells, in lower case and without dots around it."""
    named = service.metadata.annotations.get(DOMAIN_ANNOTATION, "") if service else ""
    return named.strip(".").lower() or DEFAULT_DOMAIN
