"""The status of LoadBalancer Services, carried out."""

from __future__ import annotations

from msgspec.structs import replace

from master.controllers import load_balancer_plan as plans
from master.controllers.base import Controller, Deps, Key, ignore_missing
from master.controllers.endpoints_plan import SERVICE_LABEL
from sampan.api.resources import ENDPOINTSLICES, NODES, SERVICES
from sampan.api.types.core_v1 import LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceStatus
from sampan.api.types.discovery_v1 import EndpointSlice
from sampan.client.informer import key_of


class LoadBalancerController(Controller[Key]):
    """Writes at which addresses each LoadBalancer Service is reached."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("service-lb", deps, workers=1, component="service-controller")
        informers = deps.informers
        self._services, self._nodes = informers.get(SERVICES), informers.get(NODES)
        self._slices = informers.get(ENDPOINTSLICES)
        self._slices.add_indexer("of service", _service_of)
        self._services.add_handler(self._service_changed)
        self._nodes.add_handler(self._node_changed)
        self._slices.add_handler(self._slice_changed)

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        if not any(item is not None and plans.is_ours(item) for item in (old, new)):
            return
        if new is not None:
            self.queue.add(key_of(new))
        if old is None or new is None or old.spec != new.spec:
            self._add_all()  # ports may be taken or free now

    def _add_all(self) -> None:
        for service in self._services:
            if plans.is_ours(service):
                self.queue.add(key_of(service))

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if _counts(old) != _counts(new):
            self._add_all()

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for item in filter(None, (old, new)):  # somebody may have changed its label
            service = self._services.get(item.metadata.labels.get(SERVICE_LABEL, ""), item.metadata.namespace)
            if service is not None and plans.is_ours(service) and plans.is_local(service):
                self.queue.add(key_of(service))

    async def reconcile(self, key: Key) -> None:
        """Bring one Service's status up to date; somebody else's load balancer is left alone."""
        service = self._services.get(key[1], key[0])
        if service is None or (service.spec.type == "LoadBalancer" and not plans.is_ours(service)):
            return
        why = plans.taken(service, self._services) if plans.is_ours(service) else ""
        if why:
            self.deps.events.warning(service, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure "
                                     f"load balancer: {why}")
        wanted = [] if why else plans.ingress(service, self._nodes,
                                              self._slices.by_index("of service", "/".join(key)))
        balancer = service.status.load_balancer or LoadBalancerStatus()
        present = [replace(item, ports=[]) for item in balancer.ingress]
        if present == wanted:
            return
        status: ServiceStatus = replace(service.status, load_balancer=replace(balancer, ingress=wanted))
        written = self.deps.client.update(SERVICES, replace(service, status=status), subresource="status")
        if await ignore_missing(written) and plans.is_ours(service) and not why:
            self._tell(service, present, wanted)

    def _tell(self, service: Service, before: list[LoadBalancerIngress], after: list[LoadBalancerIngress]) -> None:
        events = self.deps.events
        if not after:
            events.warning(service, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
        elif before:
            events.normal(service, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
        else:
            events.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer")
            events.normal(service, "EnsuredLoadBalancer", "Ensured load balancer")


def _counts(node: Node | None) -> tuple[object, ...]:
    """What of a node matters here."""
    return () if node is None else (plans.carries(node), plans.node_addresses(node))


def _service_of(item: EndpointSlice) -> list[str]:
    name = item.metadata.labels.get(SERVICE_LABEL)
    return [f"{item.metadata.namespace}/{name}"] if name else []
