"""The cluster's DNS as a Service: kube-dns at a fixed address, and behind it every node's own agent.

Upstream's clusters have pods behind kube-dns; here each agent answers for its node, at the first address of the node's
pod network. `internalTrafficPolicy: Local` sends every pod to the agent beside it, whichever proxy carries that out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from msgspec.structs import replace

from master.controllers.base import Controller, Deps, Key, ignore_missing
from sampan.api.errors import ApiError
from sampan.api.resources import ENDPOINTSLICES, NODES, SERVICES
from sampan.api.types.core_v1 import Node, Service, ServicePort, ServiceSpec
from sampan.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.client.protocol import DeleteOptions
from sampan.clusterdns import DOMAIN_ANNOTATION, NAME, NAMESPACE, PORT, cluster_ips
from sampan.loop.reconcile import Retry

KEY = (NAMESPACE, NAME)
LABELS = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
"""As upstream's tools give them; clients find the cluster's DNS by the first."""
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "dns-controller.sampan"
ZONE = "topology.kubernetes.io/zone"
SLICE_PREFIX = f"{NAME}-nodes-"
SLICE_SIZE = 1000
"""Endpoints a slice may have at most."""
PORTS = (("dns", "UDP"), ("dns-tcp", "TCP"))
BLOCKED = 30.0
"""Seconds after which a Service that could not be made is tried again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DnsOptions:
    """The address of the cluster's DNS, and its domain."""

    address: str = "10.96.0.10"
    domain: str = "cluster.local"


@dataclass(slots=True)
class Plan:
    """What to write. `service` is to be created where there is none, else updated."""

    service: Service | None = None
    delete_service: bool = False
    create: list[EndpointSlice] = field(default_factory=list)
    update: list[EndpointSlice] = field(default_factory=list)
    delete: list[EndpointSlice] = field(default_factory=list)


def plan(service: Service | None, slices: Iterable[EndpointSlice], nodes: Iterable[Node], options: DnsOptions) -> Plan:
    """Bring the Service first, then its slices; a Service with a selector is somebody's own DNS, and left to them."""
    result = Plan()
    present = {item.metadata.name: item for item in slices}
    if service is not None and service.spec.selector:
        result.delete = list(present.values())
        return result
    if service is None:
        result.service = wanted_service(Service(metadata=ObjectMeta(name=NAME, namespace=NAMESPACE),
                                                spec=ServiceSpec()), options)
        return result
    if cluster_ips(service)[:1] not in ([], [options.address]):
        result.delete_service = True  # an address cannot be changed; the Service is made anew once it is gone
        return result
    wanted = wanted_service(service, options)
    if wanted != service:
        result.service = wanted
    for item in wanted_slices(service, nodes, options.address):
        old = present.pop(item.metadata.name, None)
        if old is None:
            result.create.append(item)
        elif not _same(old, item):
            result.update.append(replace(item, metadata=replace(
                old.metadata, labels=old.metadata.labels | item.metadata.labels,
                owner_references=item.metadata.owner_references)))
    result.delete = list(present.values())
    return result


def wanted_service(service: Service, options: DnsOptions) -> Service:
    """The Service with all that we say about it; what others added stays."""
    metadata = replace(service.metadata, labels=service.metadata.labels | LABELS,
                       annotations=service.metadata.annotations | {DOMAIN_ANNOTATION: options.domain})
    ports = [ServicePort(name=name, port=PORT, protocol=protocol, target_port=PORT, node_port=next(
        (port.node_port for port in service.spec.ports if port.name == name), None)) for name, protocol in PORTS]
    return replace(service, metadata=metadata, spec=replace(
        service.spec, type=service.spec.type or "ClusterIP", cluster_ip=options.address,
        cluster_ips=[options.address], internal_traffic_policy="Local", ports=ports))


def wanted_slices(service: Service, nodes: Iterable[Node], address: str) -> list[EndpointSlice]:
    """One endpoint a node: ready whatever the node's state is, since only its own pods are sent there."""
    endpoints = [made for node in sorted(nodes, key=lambda node: node.metadata.name)
                 if (made := endpoint(node)) is not None]
    owner = OwnerReference(api_version="v1", kind="Service", name=NAME, uid=service.metadata.uid, controller=True,
                           block_owner_deletion=True)
    labels = {SERVICE_LABEL: NAME, MANAGED_BY: MANAGER, **LABELS}
    family = f"IPv{ip_network(address).version}"
    return [EndpointSlice(
        address_type=family, endpoints=endpoints[start:start + SLICE_SIZE],
        metadata=ObjectMeta(name=f"{SLICE_PREFIX}{start // SLICE_SIZE}", namespace=NAMESPACE, labels=labels,
                            owner_references=[owner]),
        ports=[EndpointPort(name=name, port=PORT, protocol=protocol) for name, protocol in PORTS])
        for start in range(0, len(endpoints) or 1, SLICE_SIZE)]


def endpoint(node: Node) -> Endpoint | None:
    """The node's agent: at the first address of its pod network, once it has one."""
    cidr = node.spec.pod_cidr or next(iter(node.spec.pod_cidrs), "")
    if not cidr or node.metadata.deletion_timestamp is not None:
        return None
    return Endpoint(addresses=[str(ip_network(cidr, strict=False)[1])], node_name=node.metadata.name,
                    conditions=EndpointConditions(ready=True, serving=True, terminating=False),
                    zone=node.metadata.labels.get(ZONE))


class DnsController(Controller[Key]):
    """Keeps both as they have to be."""

    def __init__(self, deps: Deps, options: DnsOptions) -> None:
        super().__init__("dns", deps, workers=1)
        self._options = options
        informers = deps.informers
        self._services, self._slices = informers.get(SERVICES), informers.get(ENDPOINTSLICES)
        self._nodes = informers.get(NODES)
        self._services.add_handler(self._service_changed)
        self._slices.add_handler(self._slice_changed)
        self._nodes.add_handler(self._node_changed)

    async def run(self) -> None:
        """A cluster without nodes has the Service, too."""
        self.queue.add(KEY)
        await super().run()

    async def reconcile(self, key: Key) -> None:
        """Look at all of it; it is little."""
        service = self._services.get(NAME, NAMESPACE)
        if service is not None and service.metadata.deletion_timestamp is not None:
            return
        todo = plan(service, [item for item in self._slices if _ours(item)], self._nodes, self._options)
        client = self.deps.client
        if todo.delete_service and service is not None:
            log.warning("the Service %s has another address than %s: it is made anew", NAME, self._options.address)
            await ignore_missing(client.delete(SERVICES, NAME, NAMESPACE, DeleteOptions(uid=service.metadata.uid)))
        if todo.service is not None:
            await self._write_service(todo.service, service is None)
        for item in todo.create:
            await client.create(ENDPOINTSLICES, item)
        for item in todo.update:
            await client.update(ENDPOINTSLICES, item)
        for item in todo.delete:
            await ignore_missing(client.delete(ENDPOINTSLICES, item.metadata.name, NAMESPACE))

    async def _write_service(self, service: Service, new: bool) -> None:
        client = self.deps.client
        try:
            await (client.create(SERVICES, service) if new else client.update(SERVICES, service))
        except ApiError as error:
            if error.is_invalid:  # most likely another Service has the address
                log.warning("the Service %s cannot be written: %s", NAME, error)
                raise Retry(str(error), after=BLOCKED) from error
            if not error.is_already_exists:
                raise

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        if any(item is not None and (item.metadata.namespace, item.metadata.name) == KEY for item in (old, new)):
            self.queue.add(KEY)

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        if any(item is not None and _ours(item) for item in (old, new)):
            self.queue.add(KEY)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if [endpoint(node) for node in (old,) if node] != [endpoint(node) for node in (new,) if node]:
            self.queue.add(KEY)


def _ours(item: EndpointSlice) -> bool:
    """Also where somebody has taken the label away: its name is needed."""
    before, prefix, number = item.metadata.name.partition(SLICE_PREFIX)
    named = not before and prefix and number.isdecimal()
    return item.metadata.namespace == NAMESPACE and bool(named or item.metadata.labels.get(MANAGED_BY) == MANAGER)


def _same(have: EndpointSlice, wanted: EndpointSlice) -> bool:
    owned = [owner.uid for owner in have.metadata.owner_references]
    return (owned == [owner.uid for owner in wanted.metadata.owner_references]
            and wanted.metadata.labels.items() <= have.metadata.labels.items()
            and _endpoints(have.endpoints) == _endpoints(wanted.endpoints)
            and have.ports == wanted.ports)


def _endpoints(endpoints: Sequence[Endpoint]) -> list[tuple[object, ...]]:
    return [(item.addresses, item.node_name, item.conditions, item.zone) for item in endpoints]
