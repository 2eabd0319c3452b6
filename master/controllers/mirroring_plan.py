"""Endpoints that somebody wrote by hand, decided: the EndpointSlices that say the same.

Proxies and DNS read slices only. Source: KEP-752 and upstream's endpointslicemirroring controller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from master.controllers.endpoints_plan import MANAGED_BY, SERVICE_LABEL, TRIGGER_TIME, SlicePlan, family_of
from sampan.api.types.core_v1 import EndpointAddress, Endpoints, EndpointSubset, Service
from sampan.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MOST = 1000
"""Addresses of one subset that are mirrored, and endpoints of one slice."""

PortKey = tuple[tuple[str, int | None, str, str | None], ...]
Key = tuple[str, PortKey]
"""Address type and ports: what all endpoints of a slice have in common."""


def is_mirrored(endpoints: Endpoints | None, service: Service | None) -> bool:
    """Whether slices are made of them: a Service without selector, and nobody said that they are to be left alone.

    A leader election's lock that is kept in Endpoints is none of a Service's.
    """
    if endpoints is None or service is None or service.spec.selector:
        return False
    return endpoints.metadata.labels.get(SKIP) != "true" and LEADER not in endpoints.metadata.annotations


@dataclass(slots=True)
class Wanted:
    """What Endpoints amount to, and how many of their addresses do not count."""

    groups: dict[Key, list[Endpoint]] = field(default_factory=dict)
    invalid: int = 0
    skipped: int = 0


def read(endpoints: Endpoints) -> Wanted:
    """Group the addresses by family and ports."""
    wanted = Wanted()
    for subset in endpoints.subsets:
        added = 0
        entries = [(item, True) for item in subset.addresses]
        entries += [(item, False) for item in subset.not_ready_addresses]
        for number, (address, ready) in enumerate(entries):
            if added == MOST:
                wanted.skipped += len(entries) - number
                break
            family = family_of(address.ip)
            if not family:
                wanted.invalid += 1
                continue
            added += 1
            wanted.groups.setdefault((family, _ports(subset)), []).append(_endpoint(address, ready=ready))
    return wanted


def plan(endpoints: Endpoints, wanted: Wanted, slices: Sequence[EndpointSlice]) -> SlicePlan:
    """Compare the slices that there are with those that are wanted."""
    result = SlicePlan()
    present: dict[Key, list[EndpointSlice]] = {}
    for item in sorted(slices, key=lambda item: item.metadata.name):
        present.setdefault((item.address_type, _slice_ports(item)), []).append(item)
    meta = _meta(endpoints)
    for key, members in wanted.groups.items():
        there = present.pop(key, [])
        parts = [members[start:start + MOST] for start in range(0, len(members), MOST)]
        for index, part in enumerate(parts):
            if index >= len(there):
                result.create.append(EndpointSlice(
                    metadata=meta, address_type=key[0], endpoints=part,
                    ports=[EndpointPort(name=name, port=port, protocol=protocol, app_protocol=app)
                           for name, port, protocol, app in key[1]]))
                continue
            old = there[index]
            new = replace(old, endpoints=part, metadata=replace(
                old.metadata, labels=meta.labels, annotations=meta.annotations))
            if new != old:
                result.update.append(new)
        result.delete += there[len(parts):]
    for rest in present.values():
        result.delete += rest
    return result


def _endpoint(address: EndpointAddress, *, ready: bool) -> Endpoint:
    return Endpoint(addresses=[address.ip], conditions=EndpointConditions(ready=ready), node_name=address.node_name,
                    hostname=address.hostname or None, target_ref=address.target_ref)


def _ports(subset: EndpointSubset) -> PortKey:
    return tuple((port.name or "", port.port, port.protocol or "TCP", port.app_protocol) for port in subset.ports)


def _slice_ports(item: EndpointSlice) -> PortKey:
    return tuple((port.name or "", port.port, port.protocol or "TCP", port.app_protocol) for port in item.ports)


def _meta(endpoints: Endpoints) -> ObjectMeta:
    meta = endpoints.metadata
    owner = OwnerReference(api_version="v1", kind="Endpoints", name=meta.name, uid=meta.uid, controller=True,
                           block_owner_deletion=True)
    return ObjectMeta(
        generate_name=f"{meta.name}-", namespace=meta.namespace, owner_references=[owner],
        labels={**meta.labels, SERVICE_LABEL: meta.name, MANAGED_BY: MANAGER},
        annotations={name: value for name, value in meta.annotations.items()
                     if name not in (TRIGGER_TIME, LAST_APPLIED)})
