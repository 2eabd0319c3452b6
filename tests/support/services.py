"""Services and EndpointSlices as masters send them, and a view that holds them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from agent.link.view import View
from sampan.api import codec
from sampan.api.resources import ENDPOINTSLICES, NODES, SERVICES, Resource
from sampan.api.types.core_v1 import (
    ClientIPConfig,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Node,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
    SessionAffinityConfig,
)
from sampan.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForZone,
)
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.nodeline import Key

NODE = "node-1"
_revisions = itertools.count(1)


def service(name: str, ip: str, *ports: ServicePort, namespace: str = "default", ingress: Sequence[str] = (),
            affinity: int = 0, labels: dict[str, str] | None = None, **spec: Any) -> Service:
    """A Service with a cluster IP; without ports it has port 80, TCP, named http."""
    if affinity:
        spec |= {"session_affinity": "ClientIP", "session_affinity_config":
                 SessionAffinityConfig(client_ip=ClientIPConfig(timeout_seconds=affinity))}
    balancer = LoadBalancerStatus(ingress=[LoadBalancerIngress(ip=item) for item in ingress])
    return Service(metadata=ObjectMeta(name=name, namespace=namespace, labels=labels or {}),
                   spec=ServiceSpec(cluster_ip=ip, ports=list(ports) or [port("http", 80)], **spec),
                   status=ServiceStatus(load_balancer=balancer))


def port(name: str, number: int, protocol: str = "TCP", node_port: int = 0) -> ServicePort:
    """A port of a Service."""
    return ServicePort(name=name, port=number, protocol=protocol, node_port=node_port or None)


def endpoint(ip: str, *, node: str = "", ready: bool | None = True, serving: bool | None = None,
             terminating: bool | None = None, zones: Sequence[str] = ()) -> Endpoint:
    """One endpoint; what it does not say is as upstream's default."""
    return Endpoint(addresses=[ip], node_name=node or None,
                    hints=EndpointHints(for_zones=[ForZone(name=zone) for zone in zones]) if zones else None,
                    conditions=EndpointConditions(ready=ready, serving=ready if serving is None else serving,
                                                  terminating=terminating))


def slice_of(name: str, *members: Endpoint | str, number: int = 8080, ports: Sequence[EndpointPort] = (),
             namespace: str = "default", suffix: str = "a", annotations: dict[str, str] | None = None,
             labels: dict[str, str] | None = None) -> EndpointSlice:
    """A slice of the Service; without ports it has `number`, TCP, named http."""
    metadata = ObjectMeta(name=f"{name}-{suffix}", namespace=namespace, annotations=annotations or {},
                          labels={"kubernetes.io/service-name": name, **(labels or {})})
    return EndpointSlice(metadata=metadata, address_type="IPv4",
                         endpoints=[endpoint(item) if isinstance(item, str) else item for item in members],
                         ports=list(ports) or [EndpointPort(name="http", port=number, protocol="TCP")])


_KINDS: tuple[tuple[type[Any], Resource[Any]], ...] = ((Service, SERVICES), (EndpointSlice, ENDPOINTSLICES),
                                                       (Node, NODES))


def put(view: View, *objects: Any) -> None:
    """The master says that the objects are so."""
    for item in objects:
        key = _key(item)
        view.put(key, f"uid-{key.name}", str(next(_revisions)), codec.encode(item))


def delete(view: View, *objects: Any) -> None:
    """The master says that they are gone."""
    for item in objects:
        view.delete(_key(item))


def _key(item: Any) -> Key:
    resource = next(resource for kind, resource in _KINDS if isinstance(item, kind))
    return Key(*resource.key, item.metadata.namespace or "", item.metadata.name or "")
