"""Where a request to a proxy subresource goes: which node makes it, to which address.

As upstream's ResourceLocation of pods, services and nodes has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from master.apiserver.connect import Asked
from sampan.api.errors import ApiError, bad_request
from sampan.api.types import core_v1

AGENT_PORT = 10250
"""Where a Node does not say which port its agent has."""

GetPod = Callable[[str, str], Awaitable[core_v1.Pod]]
"""A pod by name and namespace; ApiError 404."""


@dataclass(frozen=True, slots=True)
class Place:
    """The node that makes the request, and to whom: host:port, "" for the node's agent itself."""

    node: str
    address: str = ""
    tls: bool = False


def of_pod(asked: Asked, pod: core_v1.Pod) -> Place:
    """The pod's own address; without a port the first that one of its containers declares."""
    port = asked.port or next((str(container.ports[0].container_port) for container in pod.spec.containers
                               if container.ports), "")
    return _place(asked, pod.spec.node_name or "", pod.status.pod_ip or "", port)


def of_node(asked: Asked, node: core_v1.Node) -> Place:
    """The node's agent, or a port of its host."""
    name, daemons = node.metadata.name, node.status.daemon_endpoints
    own = daemons.kubelet_endpoint.port if daemons and daemons.kubelet_endpoint else AGENT_PORT
    if asked.port in ("", str(own)):
        return Place(name)
    ip = next((entry.address for entry in node.status.addresses if entry.type == "InternalIP"), "")
    return _place(asked, name, ip, asked.port)


async def of_service(asked: Asked, service: core_v1.Service, endpoints: core_v1.Endpoints, get_pod: GetPod,
                     rng: Random) -> Place:
    """One of the pods that are ready to serve the port, by chance. ApiError 503 where there is none.

    The port is the Service's, by number or name. An address that is no pod's is never asked: who may write Endpoints
    could name any other host.
    """
    name = _port_name(asked, service)
    subsets = [subset for subset in endpoints.subsets if subset.addresses]
    if not endpoints.subsets:
        raise _unavailable(f'no endpoints available for service "{asked.name}"')
    for subset in rng.sample(subsets, len(subsets)):
        port = next((entry.port for entry in subset.ports if (entry.name or "") == name), None)
        if port is None:
            continue
        for address in rng.sample(subset.addresses, len(subset.addresses)):
            pod = await _pod_at(address, service.metadata.namespace, get_pod)
            if pod is not None:
                return _place(asked, pod.spec.node_name or "", address.ip, str(port))
    raise _unavailable(f'no endpoints available for service "{asked.text}"')


def _port_name(asked: Asked, service: core_v1.Service) -> str:
    if not asked.port.isdecimal():
        return asked.port
    for port in service.spec.ports:
        if str(port.port) == asked.port:
            return port.name or ""
    raise _unavailable(f'no service port {asked.port} found for service "{asked.name}"')


async def _pod_at(address: core_v1.EndpointAddress, namespace: str, get_pod: GetPod) -> core_v1.Pod | None:
    target = address.target_ref
    if target is None or target.kind != "Pod" or not target.name:
        return None
    try:
        pod = await get_pod(target.name, namespace)
    except ApiError as error:
        if error.is_not_found:
            return None
        raise
    ips = {pod.status.pod_ip, *(entry.ip for entry in pod.status.pod_ips)}
    return pod if address.ip in ips else None


def _place(asked: Asked, node: str, ip: str, port: str) -> Place:
    tls = asked.scheme == "https"
    if not node or not _may_be_asked(ip):
        raise bad_request("address not allowed")
    return Place(node, f"{ip}:{port or (443 if tls else 80)}", tls)


def _may_be_asked(text: str) -> bool:
    """Whether it is one host's address within a network, and not the asking host's own."""
    try:
        ip = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    broadcast = int(ip) == (1 << 32) - 1
    return not (ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local or broadcast)


def _unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)
