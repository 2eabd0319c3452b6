"""Settings that must be the same on every node: the master has them, and tells them to hosts that join.

They are a ConfigMap that nodes may read, as kubeadm's clusters keep theirs in ``kube-system/kubeadm-config``. What is
not in it needs no telling: VNI and port of VXLAN are fixed, the cluster's DNS and domain come with the Service
kube-dns, and Services bring their addresses along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMESPACE, NAME = "kube-system", "sampan-config"
POD_CIDR, NETWORK_BACKEND, NODE_PORT = "pod-cidr", "network-backend", "node-port-grpc"
"""Keys of the ConfigMap, and of the master's settings."""
FOR_NODES = (POD_CIDR, NETWORK_BACKEND)
"""Those that are settings of the agent, too."""
BACKENDS = ("vxlan", "host-gw")
"""The first is the default."""


class Contradiction(Exception):
    """A host has another value than the cluster; the message names the key."""


def adopt(own: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, str]:
    """What the agent's settings `own` lack of what the cluster has told; Contradiction."""
    for key in FOR_NODES:
        here = str(own.get(key) or "")
        if here and told.get(key) and here != told[key]:
            raise Contradiction(f"{key}: {here} on this host, {told[key]} in the cluster")
    return {key: told[key] for key in FOR_NODES if told.get(key) and not own.get(key)}
