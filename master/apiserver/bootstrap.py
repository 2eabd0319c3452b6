"""What every cluster has from its first moment: system namespaces, the Service `kubernetes` that leads here, and what
nodes must know of the cluster.

Source: kube-apiserver's system namespaces and kubernetesservice controllers.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from master.apiserver.auth import INTERNAL
from master.apiserver.decode import Body
from master.apiserver.registry import Registry
from master.apiserver.write import Target, Writer
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, ENDPOINTS, ENDPOINTSLICES, NAMESPACES, SERVICES, Resource
from sampan.clusterconfig import NAME as CONFIG
from sampan.clusterconfig import NAMESPACE as CONFIG_NAMESPACE
from sampan.loop.backoff import Backoff

Tree = dict[str, Any]
log = logging.getLogger(__name__)

NAMESPACES_AT_START = ("kube-system", "kube-public", "kube-node-lease", "default")
INTERVAL = 10.0  # seconds between two looks, as upstream's controller has it
NAME = "kubernetes"
_SERVICE_LABELS = {"component": "apiserver", "provider": "kubernetes"}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Where the API server is reached: `address` and `port` by pods and nodes, `service_cidr` for the ClusterIP.

    `for_nodes`: what hosts that join are told (`sampan.clusterconfig`); none where it is empty.
    """

    address: str
    port: int
    service_cidr: str
    for_nodes: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster_ip(self) -> str:
        """The first address of the service network."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    def wanted(self) -> list[tuple[Resource[Any], str, Tree]]:
        """The objects with their namespaces, in the order in which they need each other."""
        family = "IPv6" if ":" in self.address else "IPv4"
        labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
        objects: list[tuple[Resource[Any], str, Tree]] = [
            (NAMESPACES, "", {"metadata": {"name": name}}) for name in NAMESPACES_AT_START]
        if self.for_nodes:
            objects.append((CONFIGMAPS, CONFIG_NAMESPACE, {
                "metadata": {"name": CONFIG, "namespace": CONFIG_NAMESPACE}, "data": dict(self.for_nodes)}))
        objects.append((SERVICES, "default", {
            "metadata": {"name": NAME, "namespace": "default", "labels": dict(_SERVICE_LABELS)},
            "spec": {"type": "ClusterIP", "clusterIP": self.cluster_ip, "sessionAffinity": "None",
                     "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": self.port}]}}))
        if ipaddress.ip_address(self.address).is_loopback:
            return objects  # nobody but this host could use it, and endpoints on loopback are not valid
        objects.append((ENDPOINTS, "default", {
            "metadata": {"name": NAME, "namespace": "default", "labels": labels},
            "subsets": [{"addresses": [{"ip": self.address}],
                         "ports": [{"name": "https", "port": self.port, "protocol": "TCP"}]}]}))
        objects.append((ENDPOINTSLICES, "default", {
            "metadata": {"name": NAME, "namespace": "default", "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": family,
            "endpoints": [{"addresses": [self.address], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": self.port, "protocol": "TCP"}]}))
        return objects


class Bootstrapper:
    """Makes these objects, and keeps them as they have to be."""

    def __init__(self, registry: Registry, writer: Writer, plan: Bootstrap) -> None:
        self._registry = registry
        self._writer = writer
        self._plan = plan

    async def run(self) -> None:
        """Look every few seconds until cancelled; a cluster whose default Service was deleted gets it back."""
        backoff, failures = Backoff(initial=0.2, maximum=INTERVAL), 0
        while True:
            failures = 0 if await self.ensure() else failures + 1
            await self._registry.clock.sleep(backoff.delay(failures) if failures else INTERVAL)

    async def ensure(self) -> bool:
        """Create what is missing, put right what differs; tells whether all is as it has to be."""
        try:
            await self._ensure()
        except ApiError as error:
            log.warning("the cluster's first objects: %s", error)
            return False
        return True

    async def _ensure(self) -> None:
        for resource, namespace, tree in self._plan.wanted():
            served = self._registry.of(resource)
            name = tree["metadata"]["name"]
            target = Target(served, INTERNAL, namespace, name)
            entry = await served.cache.get(namespace, name)
            try:
                if entry is None:
                    await self._writer.create(target, Body(tree=_copy(tree)))
                elif not _contains(entry.tree, tree) and resource is not NAMESPACES:
                    merged = entry.decode()
                    _merge(merged, tree)
                    await self._writer.update(target, Body(tree=merged))
            except ApiError as error:
                if not (error.is_already_exists or error.is_conflict):  # the next look will see what is there
                    raise


def _copy(tree: Tree) -> Tree:
    return msgspec.json.decode(msgspec.json.encode(tree), type=dict)


def _contains(have: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is there; lists must be of the same length."""
    if isinstance(wanted, dict):
        return isinstance(have, dict) and all(_contains(have.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (isinstance(have, list) and len(have) == len(wanted)
                and all(map(_contains, have, wanted)))
    return bool(have == wanted)


def _merge(have: Tree, wanted: Tree) -> None:
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(have.get(key), dict):
            _merge(have[key], value)
        else:
            have[key] = value
