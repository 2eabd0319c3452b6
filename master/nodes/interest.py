"""Which objects a node is sent: what its pods refer to, and nothing else of that kind.

A node may read only the ConfigMaps, Secrets and ServiceAccounts of its own pods (upstream's node authoriser has the
same rule): a stolen node gives away no more than what runs there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.api import resources
from sampan.api.references import references
from sampan.api.resources import Resource
from sampan.api.types import core_v1
from sampan.nodeline import Key

EVERYWHERE: tuple[Resource[Any], ...] = (resources.SERVICES, resources.ENDPOINTSLICES, resources.NODES)
"""What every node is sent in full, in this order."""
REFERENCED: tuple[Resource[Any], ...] = (resources.SERVICEACCOUNTS, resources.CONFIGMAPS, resources.SECRETS)
"""What a node is sent of only as far as its pods refer to it."""


def needs(pod: core_v1.Pod) -> frozenset[Key]:
    """The ConfigMaps, Secrets and ServiceAccount that running the pod needs."""
    return frozenset(Key(*resource, pod.metadata.namespace, name) for resource, name in references(pod))


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
