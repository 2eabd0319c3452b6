"""What a Service and its EndpointSlices say to a proxy, with upstream's defaults filled in; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sampan.api.types import discovery_v1
from sampan.api.types.core_v1 import Service
from sampan.api.types.discovery_v1 import EndpointSlice

SERVICE_NAME = "kubernetes.io/service-name"
HEADLESS = "service.kubernetes.io/headless"
"""The label by which a Service with a cluster IP, too, asks for no proxy at all."""
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
"""The label by which a Service asks for a proxy other than ours."""
ZONE = "topology.kubernetes.io/zone"
AFFINITY_SECONDS = 10800
_PROTOCOLS = ("TCP", "UDP", "SCTP")


class ServiceKey(NamedTuple):
    """A Service's namespace and name."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service, with what concerns it of the rest."""

    service: ServiceKey
    name: str
    protocol: str
    """tcp, udp or sctp."""
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_seconds: int = 0
    """For how long a client stays with its endpoint; 0: no affinity."""
    internal_local: bool = False
    external_local: bool = False
    health_check_port: int = 0

    def __str__(self) -> str:
        """As rules and logs name it: ns/service:port."""
        name = f"{self.service.namespace}/{self.service.name}"
        return f"{name}:{self.name}" if self.name else name

    @property
    def external(self) -> bool:
        """Whether it is reached by anything but its cluster IP."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)

    @property
    def uses_cluster(self) -> bool:
        """Whether any traffic goes to endpoints on all nodes.

        What comes from this node to an outer address does, whatever the external policy.
        """
        return not self.internal_local or self.external

    @property
    def uses_local(self) -> bool:
        """Whether any traffic goes to this node's endpoints only."""
        return self.internal_local or (self.external_local and self.external)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses but the nodes'."""
        return (self.cluster_ip, *self.external_ips, *self.load_balancer_ips)


class Endpoint(NamedTuple):
    """One address behind a Service's port."""

    ip: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    local: bool = False
    zones: frozenset[str] = frozenset()
    """The zones that are to use it (topology hints)."""

    def __str__(self) -> str:
        """As rules name it."""
        return f"{self.ip}:{self.port}"


def is_proxied(service: Service) -> bool:
    """Whether there is anything to do for the Service on nodes."""
    spec, labels = service.spec, service.metadata.labels
    return (spec.type != "ExternalName" and spec.cluster_ip not in (None, "", "None")
            and ":" not in (spec.cluster_ip or "") and PROXY_NAME not in labels and HEADLESS not in labels)


def service_ports(service: Service) -> list[ServicePort]:
    """The Service's ports; none for one that has no proxy."""
    if not is_proxied(service):
        return []
    spec, metadata = service.spec, service.metadata
    balanced = spec.type == "LoadBalancer"
    ingress = service.status.load_balancer.ingress if balanced and service.status.load_balancer else []
    reachable = spec.type in ("LoadBalancer", "NodePort") or bool(spec.external_ips)
    external_local = reachable and spec.external_traffic_policy == "Local"
    return [ServicePort(
        service=ServiceKey(metadata.namespace or "", metadata.name or ""),
        name=port.name or "",
        protocol=(port.protocol or "TCP").lower(),
        cluster_ip=spec.cluster_ip or "",
        port=port.port,
        node_port=port.node_port or 0,
        external_ips=_ipv4(spec.external_ips),
        load_balancer_ips=_ipv4(item.ip for item in ingress if item.ip and item.ip_mode in (None, "VIP")),
        source_ranges=_ipv4(spec.load_balancer_source_ranges) if balanced else (),
        affinity_seconds=_affinity(service),
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=external_local,
        health_check_port=(spec.health_check_node_port or 0) if balanced and external_local else 0,
    ) for port in spec.ports if (port.protocol or "TCP") in _PROTOCOLS]


def _affinity(service: Service) -> int:
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    return seconds or AFFINITY_SECONDS


def _ipv4(texts: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order, without IPv6."""
    return tuple(dict.fromkeys(text.strip() for text in texts if ":" not in text))


def concerns(slice_: EndpointSlice) -> ServiceKey | None:
    """The Service whose proxies want this slice; None for none."""
    metadata = slice_.metadata
    name = metadata.labels.get(SERVICE_NAME)
    if not name or slice_.address_type != "IPv4" or HEADLESS in metadata.labels or PROXY_NAME in metadata.labels:
        return None
    return ServiceKey(metadata.namespace or "", name)


def endpoints(slices: Iterable[EndpointSlice], port: ServicePort, node: str) -> list[Endpoint]:
    """What stands behind the port, each address once, in an order of its own."""
    found: dict[tuple[str, int], Endpoint] = {}
    for slice_ in slices:
        numbers = [item.port for item in slice_.ports
                   if (item.name or "") == port.name and (item.protocol or "TCP").lower() == port.protocol]
        for number in numbers:
            if number is None:
                continue
            for item in slice_.endpoints:
                if not item.addresses:
                    continue
                endpoint = _endpoint(item, number, node)
                other = found.get((endpoint.ip, number))
                # One that moves between slices may be in both: what the better news says counts, in any order.
                found[endpoint.ip, number] = max(other, endpoint, key=_state) if other else endpoint
    return [found[key] for key in sorted(found)]


def _endpoint(item: discovery_v1.Endpoint, number: int, node: str) -> Endpoint:
    conditions, hints = item.conditions, item.hints
    return Endpoint(
        item.addresses[0], number,
        ready=conditions is None or conditions.ready is not False,
        serving=conditions is None or conditions.serving is not False,
        terminating=conditions is not None and conditions.terminating is True,
        local=item.node_name == node,
        zones=frozenset(zone.name for zone in hints.for_zones) if hints else frozenset())


def _state(endpoint: Endpoint) -> tuple[bool, bool, bool, bool, list[str]]:
    return endpoint.ready, endpoint.serving, endpoint.terminating, endpoint.local, sorted(endpoint.zones)


class Choice(NamedTuple):
    """The endpoints that traffic may use."""

    cluster: Sequence[Endpoint]
    """On all nodes."""
    local: Sequence[Endpoint]
    """On this node."""
    anywhere: bool
    """Whether there are any at all, here or elsewhere."""

    @property
    def reachable(self) -> list[Endpoint]:
        """Either kind, each once."""
        return list(dict.fromkeys((*self.cluster, *self.local)))


def choose(port: ServicePort, found: Sequence[Endpoint], zone: str) -> Choice:
    """Ready endpoints; where there are none, those that still serve while they end (KEP-1669).

    Hints keep traffic in the node's zone if each ready endpoint has some, and one of them is for this zone (KEP-2433).
    """
    ready = [endpoint for endpoint in found if endpoint.ready]
    ending = [endpoint for endpoint in found if endpoint.serving and endpoint.terminating and not endpoint.ready]
    cluster: list[Endpoint] = []
    local: list[Endpoint] = []
    if port.uses_cluster:
        cluster = ready or ending
        near = [endpoint for endpoint in ready if zone in endpoint.zones]
        if zone and near and all(endpoint.zones for endpoint in ready):
            cluster = near
    if port.uses_local:
        local = ([endpoint for endpoint in ready if endpoint.local]
                 or [endpoint for endpoint in ending if endpoint.local])
    return Choice(cluster, local, bool(ready or ending))
