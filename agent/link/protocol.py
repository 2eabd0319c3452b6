"""What the rest of the agent sees of the master."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from sampan.api.resources import Object, Resource
from sampan.api.types import coordination_v1, core_v1

T = TypeVar("T", bound=Object)


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
