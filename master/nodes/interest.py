"""Which objects a node is sent: what its pods refer to, and nothing else of that kind.

A node may read only the ConfigMaps, Secrets and ServiceAccounts of its own pods (upstream's node authoriser has the
same rule): a stolen node gives away no more than what runs there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from sampan.api import resources
from sampan.api.resources import Resource
from sampan.api.types import core_v1
from sampan.nodeline import Key

EVERYWHERE: tuple[Resource[Any], ...] = (resources.SERVICES, resources.ENDPOINTSLICES, resources.NODES)
"""What every node is sent in full, in this order."""
REFERENCED: tuple[Resource[Any], ...] = (resources.SERVICEACCOUNTS, resources.CONFIGMAPS, resources.SECRETS)
"""What a node is sent of only as far as its pods refer to it."""


def references(pod: core_v1.Pod) -> frozenset[Key]:
    """The ConfigMaps, Secrets and ServiceAccount that running the pod needs."""
    return frozenset(
        Key(*resource.key, pod.metadata.namespace, name)
        for resource, name in (*_of_pod(pod.spec), *_of_containers(pod.spec), *_of_volumes(pod.spec)) if name)


Found = Iterator[tuple[Resource[core_v1.ConfigMap] | Resource[core_v1.Secret] | Resource[core_v1.ServiceAccount],
                       str | None]]


def _of_pod(spec: core_v1.PodSpec) -> Found:
    yield resources.SERVICEACCOUNTS, spec.service_account_name or spec.service_account
    for reference in spec.image_pull_secrets:
        yield resources.SECRETS, reference.name


def _of_containers(spec: core_v1.PodSpec) -> Found:
    containers: list[core_v1.Container | core_v1.EphemeralContainer] = [
        *spec.init_containers, *spec.containers, *spec.ephemeral_containers]
    for container in containers:
        for source in container.env_from:
            if source.config_map_ref:
                yield resources.CONFIGMAPS, source.config_map_ref.name
            if source.secret_ref:
                yield resources.SECRETS, source.secret_ref.name
        for variable in container.env:
            value = variable.value_from
            if value and value.config_map_key_ref:
                yield resources.CONFIGMAPS, value.config_map_key_ref.name
            if value and value.secret_key_ref:
                yield resources.SECRETS, value.secret_key_ref.name


def _of_volumes(spec: core_v1.PodSpec) -> Found:
    for volume in spec.volumes:
        if volume.config_map:
            yield resources.CONFIGMAPS, volume.config_map.name
        if volume.secret:
            yield resources.SECRETS, volume.secret.secret_name
        for source in volume.projected.sources if volume.projected else ():
            if source.config_map:
                yield resources.CONFIGMAPS, source.config_map.name
            if source.secret:
                yield resources.SECRETS, source.secret.name


def map_entry(node: core_v1.Node) -> core_v1.Node:
    """A Node as other nodes see it: where it is and which pod addresses it has, without what changes all the time.

    So a node's heartbeat is not sent to all the others.
    """
    status = core_v1.NodeStatus(addresses=node.status.addresses)
    metadata = msgspec.structs.replace(node.metadata, managed_fields=[])
    spec = core_v1.NodeSpec(pod_cidr=node.spec.pod_cidr, pod_cidrs=node.spec.pod_cidrs,
                            taints=node.spec.taints, unschedulable=node.spec.unschedulable)
    return core_v1.Node(metadata=metadata, spec=spec, status=status)


def same_entry(one: core_v1.Node, other: core_v1.Node) -> bool:
    """Whether two map entries say the same; the revision does not count."""
    plain = msgspec.structs.replace(one.metadata, resource_version=other.metadata.resource_version)
    return plain == other.metadata and one.spec == other.spec and one.status == other.status
