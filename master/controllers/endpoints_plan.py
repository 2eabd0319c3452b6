"""Endpoints, decided: which pods stand behind a Service, and how they are cut into EndpointSlices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from msgspec.structs import replace

from master.controllers.owners import controller_reference
from master.controllers.pods import is_ready, is_terminal
from sampan.api.types import core_v1
from sampan.api.types.core_v1 import Endpoints, EndpointSubset, ObjectReference, Pod, Service, ServicePort
from sampan.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForZone,
)
from sampan.api.types.meta_v1 import ObjectMeta

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
ZONE = "topology.kubernetes.io/zone"
SLICE_SIZE = 100
ENDPOINTS_SIZE = 1000
Ports = tuple[tuple[str, int | None, str, str | None], ...]
"""Name, number, protocol and application protocol of each port."""


def is_headless(service: Service) -> bool:
    """Whether the Service has no address of its own."""
    return service.spec.cluster_ip == "None"


def is_selecting(service: Service) -> bool:
    """Whether this controller writes the Service's endpoints."""
    return bool(service.spec.selector) and service.spec.type != "ExternalName"


def pod_addresses(pod: Pod) -> list[str]:
    """Its addresses, the primary one first."""
    several = [item.ip for item in pod.status.pod_ips if item.ip]
    return several or ([pod.status.pod_ip] if pod.status.pod_ip else [])


def is_behind(pod: Pod) -> bool:
    """Whether a pod can be an endpoint at all."""
    return not is_terminal(pod) and bool(pod_addresses(pod))


def find_port(pod: Pod, port: ServicePort) -> int | None:
    """The number of the pod's port that a Service's port leads to; None where the pod has none of that name."""
    if not isinstance(port.target_port, str):
        return port.target_port or port.port
    side = [item for item in pod.spec.init_containers if item.restart_policy == "Always"]
    for container in [*pod.spec.containers, *side]:
        for item in container.ports:
            if item.name == port.target_port and (item.protocol or "TCP") == (port.protocol or "TCP"):
                return item.container_port
    return None


def ports_of(service: Service, pod: Pod) -> Ports:
    """The Service's ports as this pod offers them."""
    found = []
    for port in service.spec.ports:
        number = find_port(pod, port)
        if number is not None:
            found.append((port.name or "", number, port.protocol or "TCP", port.app_protocol))
    return tuple(found)


def families(service: Service) -> list[str]:
    """The address types that the Service's slices have."""
    named = {"IPv4": "IPv4", "IPv6": "IPv6"}
    return [named[item] for item in service.spec.ip_families if item in named] or ["IPv4"]


def family_of(address: str) -> str:
    """``IPv4`` or ``IPv6``, "" for what is no address."""
    try:
        return f"IPv{ip_address(address).version}"
    except ValueError:
        return ""


def target(pod: Pod) -> ObjectReference:
    """How an endpoint names its pod."""
    return ObjectReference(kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name,
                           uid=pod.metadata.uid)


def _hostname(service: Service, pod: Pod) -> str | None:
    named = pod.spec.hostname and pod.spec.subdomain == service.metadata.name
    return pod.spec.hostname if named else None


def endpoint(service: Service, pod: Pod, address: str, zone: str | None) -> Endpoint:
    """One pod as a slice lists it (KEP-1672 for the conditions, KEP-4444 for the hint to its own zone)."""
    close = zone is not None and service.spec.traffic_distribution == "PreferClose"
    serving, terminating = is_ready(pod), pod.metadata.deletion_timestamp is not None
    ready = bool(service.spec.publish_not_ready_addresses) or (serving and not terminating)
    return Endpoint(addresses=[address], node_name=pod.spec.node_name or None, target_ref=target(pod), zone=zone,
                    hostname=_hostname(service, pod),
                    hints=EndpointHints(for_zones=[ForZone(name=zone or "")]) if close else None,
                    conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating))


@dataclass(slots=True)
class SlicePlan:
    """What to do with a Service's slices."""

    create: list[EndpointSlice] = field(default_factory=list)
    update: list[EndpointSlice] = field(default_factory=list)
    delete: list[EndpointSlice] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether all is as it should be."""
        return not (self.create or self.update or self.delete)


def plan_slices(service: Service, pods: Iterable[Pod], slices: Sequence[EndpointSlice],
                zone_of: Callable[[str], str | None] = lambda _: None, trigger_time: str = "") -> SlicePlan:
    """Compare the slices that there are with the pods.

    Endpoints stay in the slice in which they are, so that few slices change; new ones fill slices that change
    anyway, then the fullest with room, then new slices. Every address family keeps at least one slice, if empty.
    """
    plan = SlicePlan()
    wanted: dict[tuple[str, Ports], list[Endpoint]] = defaultdict(list)
    for family in families(service):
        placeholder = True
        for pod in pods:
            address = next((item for item in pod_addresses(pod) if family_of(item) == family), None)
            if address is not None and is_behind(pod):
                zone = zone_of(pod.spec.node_name or "")
                wanted[family, ports_of(service, pod)].append(endpoint(service, pod, address, zone))
                placeholder = False
        if placeholder:
            wanted[family, ()] = []
    present: dict[tuple[str, Ports], list[EndpointSlice]] = defaultdict(list)
    for item in slices:
        if any(owner.uid == service.metadata.uid for owner in item.metadata.owner_references):
            present[item.address_type, _ports_in(item)].append(item)
        else:  # of an earlier Service of that name: the garbage collector takes it away, whatever it shows
            plan.delete.append(item)
    for key in present.keys() - wanted.keys():
        plan.delete += present[key]
    for (family, ports), endpoints in wanted.items():
        _fill(service, family, ports, endpoints, present[family, ports], plan)
    plan.create = [_stamped(item, trigger_time) for item in plan.create]
    plan.update = [_stamped(item, trigger_time) for item in plan.update]
    return plan


def _fill(service: Service, family: str, ports: Ports, endpoints: Sequence[Endpoint], slices: list[EndpointSlice],
          plan: SlicePlan) -> None:
    missing = {_identity(item): item for item in endpoints}
    kept: list[tuple[EndpointSlice, list[Endpoint]]] = []
    for item in sorted(slices, key=lambda item: item.metadata.name):
        found = [missing.pop(_identity(old)) for old in item.endpoints if _identity(old) in missing]
        kept.append((item, found))
    waiting = list(missing.values())
    # First those that change anyway, then the fullest: few slices change, and they fill up.
    for pair in sorted(kept, key=lambda pair: (pair[1] == pair[0].endpoints, -len(pair[1]))):
        room = SLICE_SIZE - len(pair[1])
        pair[1].extend(waiting[:room])
        waiting = waiting[room:]
    spare = not endpoints
    meta = slice_meta(service)
    for item, found in kept:
        if not found and not spare:
            plan.delete.append(item)
            continue
        if not found:
            spare = False
        new = replace(item, endpoints=found, metadata=replace(item.metadata, labels=meta.labels))
        if new != item:
            plan.update.append(new)
    while waiting or spare:
        spare = False
        plan.create.append(EndpointSlice(
            metadata=meta, address_type=family, endpoints=waiting[:SLICE_SIZE],
            ports=[EndpointPort(name=name, port=port, protocol=protocol, app_protocol=app)
                   for name, port, protocol, app in ports]))
        waiting = waiting[SLICE_SIZE:]


def slice_meta(service: Service) -> ObjectMeta:
    """A new slice's metadata; the Service's own labels go along."""
    labels = {name: value for name, value in service.metadata.labels.items()
              if name not in (SERVICE_LABEL, MANAGED_BY, HEADLESS)}
    labels |= {SERVICE_LABEL: service.metadata.name, MANAGED_BY: MANAGER}
    labels |= {HEADLESS: ""} if is_headless(service) else {}
    return ObjectMeta(generate_name=f"{service.metadata.name}-", namespace=service.metadata.namespace, labels=labels,
                      owner_references=[controller_reference(service)])


def _stamped(item: EndpointSlice, trigger_time: str) -> EndpointSlice:
    """With the time of this change, and without that of an earlier one."""
    annotations = {name: value for name, value in item.metadata.annotations.items() if name != TRIGGER_TIME}
    annotations |= {TRIGGER_TIME: trigger_time} if trigger_time else {}
    return replace(item, metadata=replace(item.metadata, annotations=annotations))


def _identity(item: Endpoint) -> tuple[str, tuple[str, ...]]:
    return (item.target_ref.uid or "") if item.target_ref else "", tuple(item.addresses)


def _ports_in(item: EndpointSlice) -> Ports:
    return tuple((port.name or "", port.port, port.protocol or "TCP", port.app_protocol) for port in item.ports)


def endpoints_object(service: Service, pods: Iterable[Pod], trigger_time: str = "",
                     present: Endpoints | None = None) -> Endpoints:
    """The older form of the same: one Endpoints object, without the pods that are terminating.

    A Service that publishes what is not ready keeps those, too, until they have ended.
    """
    groups: dict[Ports, tuple[list[core_v1.EndpointAddress], list[core_v1.EndpointAddress]]] = {}
    family = families(service)[0]
    publish = bool(service.spec.publish_not_ready_addresses)
    found: list[tuple[bool, Pod, core_v1.EndpointAddress, Ports]] = []
    for pod in pods:
        address = next((item for item in pod_addresses(pod) if family_of(item) == family), None)
        terminating = pod.metadata.deletion_timestamp is not None
        if not is_behind(pod) or address is None or (terminating and not publish):
            continue
        ports = ports_of(service, pod)
        if service.spec.ports and not ports:
            continue  # none of the Service's ports leads to this pod
        entry = core_v1.EndpointAddress(ip=address, node_name=pod.spec.node_name or None, target_ref=target(pod),
                                        hostname=_hostname(service, pod))
        found.append((publish or is_ready(pod), pod, entry, ports))
    # Where there are too many, those that are not ready are left out first.
    found.sort(key=lambda item: (not item[0], item[1].metadata.name))
    for good, _, entry, ports in found[:ENDPOINTS_SIZE]:
        ready, unready = groups.setdefault(ports, ([], []))
        (ready if good else unready).append(entry)
    subsets = [EndpointSubset(addresses=_by_ip(ready), not_ready_addresses=_by_ip(unready), ports=[
        core_v1.EndpointPort(name=name or None, port=port or 0, protocol=protocol, app_protocol=app)
        for name, port, protocol, app in ports]) for ports, (ready, unready) in sorted(groups.items(), key=str)]
    labels = service.metadata.labels | ({HEADLESS: ""} if is_headless(service) else {})
    annotations = {name: value for name, value in (present.metadata.annotations if present else {}).items()
                   if name not in (OVER_CAPACITY, TRIGGER_TIME)}
    annotations |= {TRIGGER_TIME: trigger_time} if trigger_time else {}
    annotations |= {OVER_CAPACITY: "truncated"} if len(found) > ENDPOINTS_SIZE else {}
    meta = present.metadata if present else ObjectMeta(name=service.metadata.name,
                                                       namespace=service.metadata.namespace)
    return Endpoints(metadata=replace(meta, labels=labels, annotations=annotations), subsets=subsets)


def _by_ip(entries: list[core_v1.EndpointAddress]) -> list[core_v1.EndpointAddress]:
    return sorted(entries, key=lambda entry: entry.ip)


def same_endpoints(a: Endpoints, b: Endpoints) -> bool:
    """Whether two differ at most in the time of their last change."""
    def rest(item: Endpoints) -> dict[str, str]:
        return {name: value for name, value in item.metadata.annotations.items() if name != TRIGGER_TIME}

    return a.subsets == b.subsets and a.metadata.labels == b.metadata.labels and rest(a) == rest(b)
