"""EndpointSlices and Endpoints of Services that select pods, carried out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from master.controllers import endpoints_plan as plans
from master.controllers.base import Controller, Deps, Key, ignore_missing, namespace_terminating
from master.controllers.expectations import Expectations
from master.controllers.pods import ready_condition
from sampan.api.errors import ApiError
from sampan.api.resources import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES
from sampan.api.times import Time
from sampan.api.types.core_v1 import Endpoints, Node, Pod, Service
from sampan.api.types.discovery_v1 import EndpointSlice
from sampan.client.informer import either, key_of
from sampan.client.protocol import DeleteOptions
from sampan.loop.reconcile import Retry


class TriggerTimes:
    """When what a Service's endpoints show had changed, for measuring how long it takes to be programmed.

    The annotation that carries it holds the earliest change that is new since the last look.
    """

    def __init__(self) -> None:
        self._pods: dict[Key, dict[str, datetime]] = {}

    def newest(self, service: Service, pods: Iterable[Pod]) -> str:
        """The annotation's value for this look, "" where nothing has changed."""
        key = key_of(service)
        first = key not in self._pods
        before = self._pods.get(key, {})
        after: dict[str, datetime] = {}
        changed: list[datetime] = []
        for pod in pods:
            condition = ready_condition(pod)
            time = condition.last_transition_time if condition is not None else None
            if time is not None:
                after[pod.metadata.name] = time
                if time > before.get(pod.metadata.name, datetime.min.replace(tzinfo=time.tzinfo)):
                    changed.append(time)
        self._pods[key] = after
        if first and service.metadata.creation_timestamp is not None:
            changed.append(service.metadata.creation_timestamp)
        return str(Time.of(min(changed))) if changed else ""

    def forget(self, key: Key) -> None:
        """The Service is gone."""
        self._pods.pop(key, None)


class EndpointsController(Controller[Key]):
    """Keeps both forms of a Service's endpoints."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("endpoints", deps, workers=5, component="endpoint-slice-controller")
        informers = deps.informers
        self._services, self._pods = informers.get(SERVICES), informers.get(PODS)
        self._slices, self._endpoints = informers.get(ENDPOINTSLICES), informers.get(ENDPOINTS)
        self._nodes = informers.get(NODES)
        self._pods.add_indexer("label", _labels_of)
        self._pods.add_indexer("node", lambda pod: [pod.spec.node_name] if pod.spec.node_name else [])
        self._services.add_indexer("selector", _selector_of)
        self._slices.add_indexer("service", _service_of)
        self._written: Expectations[Key] = Expectations(self._slices, deps.clock)
        self._published: Expectations[Key] = Expectations(self._endpoints, deps.clock)
        self._times = TriggerTimes()
        self._services.add_handler(lambda old, new: self.queue.add(key_of(either(old, new))))
        self._pods.add_handler(self._pod_changed)
        self._slices.add_handler(self._slice_changed)
        self._endpoints.add_handler(self._endpoints_changed)
        self._nodes.add_handler(self._node_changed)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and _shown(old) == _shown(new):
            return
        for pod in filter(None, (old, new)):
            self._add_services_of(pod)

    def _add_services_of(self, pod: Pod) -> None:
        labels = pod.metadata.labels.items()
        for label in _labels_of(pod):
            for service in self._services.by_index("selector", label):
                if service.spec.selector.items() <= labels:
                    self.queue.add(key_of(service))

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        """A node that comes, goes or moves to another zone changes what slices say of its pods."""
        if old is None or new is None or old.metadata.labels.get(plans.ZONE) != new.metadata.labels.get(plans.ZONE):
            for pod in self._pods.by_index("node", either(old, new).metadata.name):
                self._add_services_of(pod)

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for item in filter(None, (old, new)):  # somebody may have taken its label away
            for name in _service_of(item):
                self.queue.add((item.metadata.namespace, name.partition("/")[2]))

    def _endpoints_changed(self, old: Endpoints | None, new: Endpoints | None) -> None:
        key = key_of(either(old, new))
        # New ones are ours; those without a Service are of somebody who will make it next.
        if old is not None and self._services.get(key[1], key[0]) is not None:
            self.queue.add(key)

    async def run(self) -> None:
        """Begin with the Endpoints whose Services vanished while nobody watched."""
        for item in self._endpoints:
            self.queue.add(key_of(item))
        await super().run()

    async def reconcile(self, key: Key) -> None:
        """Bring both forms up to date."""
        namespace, name = key
        service = self._services.get(name, namespace)
        if service is None or service.metadata.deletion_timestamp is not None or not plans.is_selecting(service):
            await self._forget(key, service)
            return
        if self._written.pending(key) or self._published.pending(key):
            raise Retry("its slices are not up to date yet", after=1.0)
        selector = service.spec.selector.items()
        pods = [pod for label in _selector_of(service) for pod in self._pods.by_index("label", label)
                if selector <= pod.metadata.labels.items()]
        time = self._times.newest(service, pods)
        try:
            await self._write_slices(key, service, pods, time)
            await self._write_endpoints(key, service, pods, time)
        except ApiError as error:
            if not namespace_terminating(error):
                raise

    async def _write_slices(self, key: Key, service: Service, pods: list[Pod], time: str) -> None:
        present = [item for item in self._slices.by_index("service", "/".join(key))
                   if item.metadata.deletion_timestamp is None]
        shown = pods if service.spec.publish_not_ready_addresses else [pod for pod in pods if self._has_node(pod)]
        plan = plans.plan_slices(service, shown, present, self._zone_of, time)
        client = self.deps.client
        for item in plan.create:
            created = await client.create(ENDPOINTSLICES, item)
            self._written.wrote(key, created)
        for item in plan.update:
            updated = await client.update(ENDPOINTSLICES, item)
            self._written.wrote(key, updated)
        for item in plan.delete:
            await ignore_missing(client.delete(ENDPOINTSLICES, item.metadata.name, key[0]))
            self._written.deleted(key, item)

    async def _write_endpoints(self, key: Key, service: Service, pods: list[Pod], time: str) -> None:
        present = self._endpoints.get(key[1], key[0])
        wanted = plans.endpoints_object(service, pods, time, present)
        if present is None:
            written = await self.deps.client.create(ENDPOINTS, wanted)
        elif not plans.same_endpoints(present, wanted):
            written = await self.deps.client.update(ENDPOINTS, wanted)
        else:
            return
        self._published.wrote(key, written)

    async def _forget(self, key: Key, service: Service | None) -> None:
        """A Service that is gone takes its Endpoints along; its slices are left to the garbage collector."""
        self._times.forget(key)
        self._written.forget(key)
        self._published.forget(key)
        if service is None:
            await ignore_missing(self._delete_endpoints(key))

    async def _delete_endpoints(self, key: Key) -> None:
        """The informer may not show them yet, and nobody comes back for them."""
        present = await self.deps.client.get(ENDPOINTS, key[1], key[0])
        if _ours(present):
            await self.deps.client.delete(ENDPOINTS, key[1], key[0], DeleteOptions(uid=present.metadata.uid))

    def _has_node(self, pod: Pod) -> bool:
        """A pod whose node is gone runs nowhere, whatever its status says until it is collected."""
        return self._nodes.get(pod.spec.node_name or "") is not None

    def _zone_of(self, node: str) -> str | None:
        found = self._nodes.get(node)
        return found.metadata.labels.get(plans.ZONE) if found is not None else None


def _labels_of(pod: Pod) -> list[str]:
    """What finds the pod for a Service that selects one of its labels."""
    return [f"{pod.metadata.namespace}/{name}={value}" for name, value in pod.metadata.labels.items()]


def _selector_of(service: Service) -> list[str]:
    """One of the selector's labels finds all candidates; with thousands of Services nobody can look at all pods."""
    first = min(service.spec.selector.items(), default=None)
    return [f"{service.metadata.namespace}/{first[0]}={first[1]}"] if first is not None else []


def _service_of(item: EndpointSlice) -> list[str]:
    labels = item.metadata.labels
    if labels.get(plans.MANAGED_BY) != plans.MANAGER or plans.SERVICE_LABEL not in labels:
        return []
    return [f"{item.metadata.namespace}/{labels[plans.SERVICE_LABEL]}"]


def _ours(item: Endpoints) -> bool:
    """Upstream deletes the Endpoints of any Service that is gone, but a leader's lock kept in one is none of those."""
    return "control-plane.alpha.kubernetes.io/leader" not in item.metadata.annotations


def _shown(pod: Pod) -> tuple[object, ...]:
    """What of a pod appears in endpoints."""
    condition = ready_condition(pod)
    return (pod.metadata.labels, pod.metadata.deletion_timestamp, pod.status.phase, pod.status.pod_ip,
            pod.status.pod_ips, pod.spec.node_name, condition)
