"""What the view says that names are made of, arranged for look-ups: kept up to date with every change."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from agent.link.protocol import ClusterView
from sampan.api import resources
from sampan.api.types.core_v1 import Node, Service
from sampan.api.types.discovery_v1 import EndpointSlice
from sampan.clusterdns import NAME, NAMESPACE, cluster_domain, cluster_ips

Key = tuple[str, str]
"""Namespace and name."""

SERVICE_LABEL = "kubernetes.io/service-name"
DNS_SERVICE = (NAMESPACE, NAME)


class Index:
    """Services, their EndpointSlices, who has an address, and which networks are the cluster's.

    `changed` is called after every change that may make an answer another one.
    """

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        self._slices: defaultdict[Key, dict[str, EndpointSlice]] = defaultdict(dict)
        self._by_address: dict[str, tuple[Key, ...]] = {}
        self._namespaces: Counter[str] = Counter()
        self._pod_networks: dict[str, tuple[IPv4Network | IPv6Network, ...]] = {}
        self.changed: Callable[[], None] = lambda: None
        self.domain = cluster_domain(self.service(*DNS_SERVICE))
        """The cluster's, in lower case and without the dot at its end."""
        view.subscribe(resources.SERVICES, self._service)
        view.subscribe(resources.ENDPOINTSLICES, self._slice)
        view.subscribe(resources.NODES, self._node)
        for service in view.list(resources.SERVICES):
            self._service(None, service)
        for item in view.list(resources.ENDPOINTSLICES):
            self._slice(None, item)
        for node in view.list(resources.NODES):
            self._node(None, node)

    def service(self, namespace: str, name: str) -> Service | None:
        """A Service by its names."""
        return self._view.get(resources.SERVICES, name, namespace)

    def slices(self, namespace: str, name: str) -> Iterable[EndpointSlice]:
        """The EndpointSlices of a Service."""
        return self._slices.get((namespace, name), {}).values()

    def has_namespace(self, namespace: str) -> bool:
        """Whether there is a Service in a namespace."""
        return namespace in self._namespaces

    def holders(self, address: str) -> Iterator[Service]:
        """The Services that have the address, or else those with an endpoint that has it."""
        keys = sorted(set(self._by_address.get(address, ())))
        found = [service for key in keys if (service := self.service(*key))]
        own = [service for service in found if address in cluster_ips(service)]
        yield from own or found

    def is_pod_address(self, address: str) -> bool:
        """Whether an address is of a node's pod network, so that nobody else can know a name for it."""
        ip = ip_address(address)
        return any(ip in network for networks in self._pod_networks.values() for network in networks)

    def _service(self, old: Service | None, new: Service | None) -> None:
        for service, step in ((old, -1), (new, 1)):
            if service is None:
                continue
            key = service.metadata.namespace, service.metadata.name
            self._namespaces[key[0]] += step
            if not self._namespaces[key[0]]:
                del self._namespaces[key[0]]
            for address in cluster_ips(service):
                self._hold(address, key, step)
            if key == DNS_SERVICE:
                self.domain = cluster_domain(new)
        self.changed()

    def _slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for item, step in ((old, -1), (new, 1)):
            name = item.metadata.labels.get(SERVICE_LABEL) if item else None
            if item is None or not name:
                continue
            key = item.metadata.namespace, name
            if step > 0:
                self._slices[key][item.metadata.name] = item
            else:
                self._slices[key].pop(item.metadata.name, None)
                if not self._slices[key]:
                    del self._slices[key]
            for endpoint in item.endpoints:
                for address in endpoint.addresses:
                    self._hold(address, key, step)
        self.changed()

    def _node(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        if node is None:
            return
        cidrs = (new.spec.pod_cidrs or [new.spec.pod_cidr or ""]) if new else []
        networks = tuple(ip_network(cidr, strict=False) for cidr in cidrs if cidr)
        if networks == self._pod_networks.get(node.metadata.name, ()):
            return
        self._pod_networks[node.metadata.name] = networks
        if not networks:
            del self._pod_networks[node.metadata.name]
        self.changed()

    def _hold(self, address: str, key: Key, step: int) -> None:
        """One more or one less has the address; tuples take a tenth of what counters would, and most have one entry."""
        held = list(self._by_address.get(address, ()))
        if step > 0:
            held.append(key)
        elif key in held:
            held.remove(key)
        if held:
            self._by_address[address] = tuple(held)
        else:
            self._by_address.pop(address, None)


def is_headless(service: Service) -> bool:
    """Whether the Service's name leads to its endpoints themselves."""
    return service.spec.cluster_ip == "None" and service.spec.type != "ExternalName"
