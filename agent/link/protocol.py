"""What the rest of the agent sees of the master."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from sampan.api.resources import Object, Resource
from sampan.api.types import coordination_v1, core_v1

T = TypeVar("T", bound=Object)


class JoinError(Exception):
    """The node cannot join; the message says why and what to do."""


class ClusterView(Protocol):
    """The objects that the master sent to this node: its pods, what they refer to, Services, the node map.

    What a pod refers to (ConfigMaps, Secrets, ServiceAccounts) arrives before the pod does, so that an object that
    is not here when its pod is here does not exist. The view is loaded from the checkpoint at start, so that a node
    without its master goes on.
    """

    @property
    def authoritative(self) -> bool:
        """Whether the master has confirmed the whole view since this process began (else: from the checkpoint)."""

    async def loaded(self) -> None:
        """Returns when there is something to go by: the checkpoint was read, or the first sync came."""

    async def synced(self) -> None:
        """Returns when the view is authoritative."""

    def get(self, resource: Resource[T], name: str, namespace: str = "") -> T | None:
        """One object, None where there is none."""

    def list(self, resource: Resource[T]) -> Sequence[T]:
        """All objects of a resource."""

    def subscribe(self, resource: Resource[T], handler: Callable[[T | None, T | None], None]) -> None:
        """Have `handler(old, new)` called at every change from now on; None for not there."""


class Reports(Protocol):
    """What the agent says to the master. Nothing here raises: reports wait for the connection, the latest wins."""

    def pod_status(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None:
        """The pod's newest status."""

    def pod_terminated(self, pod: core_v1.Pod, status: core_v1.PodStatus) -> None:
        """Nothing of a deleted pod is left on the node: its object may go."""

    def node(self, node: core_v1.Node) -> None:
        """The node's newest labels, capacity, addresses and conditions; creates the Node where there is none."""

    def lease(self, lease: coordination_v1.Lease) -> None:
        """The node's heartbeat."""

    def event(self, event: core_v1.Event) -> None:
        """An event; dropped after a while without a connection."""


class PodLookup(Protocol):
    """What exec, attach, logs and port-forward need to know of the pods on this node."""

    def pod(self, namespace: str, name: str, uid: str) -> core_v1.Pod | None:
        """The pod with its newest status as this node knows it; None where no such pod runs here.

        Its container statuses must carry `container_id` as `docker://<id>`, also in `last_state.terminated` as long
        as that container is still there: logs and exec go by them. An empty `uid` means whichever pod has the name.
        """

    async def network_pid(self, uid: str) -> int:
        """A process in the pod's network namespace (its infra container's, or that of the host); 0 for none."""


class Connector(Protocol):
    """Connects to a pod from within its network namespace."""

    async def connect(self, pid: int, port: int) -> socket.socket:
        """A connected, non-blocking TCP socket to localhost:`port` as process `pid` sees it; OSError if refused."""
