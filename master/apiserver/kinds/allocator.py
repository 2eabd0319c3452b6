"""The pools that Services draw from: ClusterIPs and node ports, in memory, rebuilt at start from the Services."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from master.apiserver.strategy import Tree

DEFAULT_SERVICE_CIDR = "10.96.0.0/12"
DEFAULT_NODE_PORTS = (30000, 32767)


class ClusterIPs:
    """The addresses of one service network (a CIDR). The first is kept for the Service `kubernetes`."""

    def __init__(self, cidr: str = DEFAULT_SERVICE_CIDR, rng: Random | None = None) -> None: ...

    def repair(self, services: Iterable[Tree]) -> None:
        """Forget everything and take what the Services hold: at start, and whenever in doubt."""


class NodePorts:
    """The ports that every node offers Services (both bounds belong to the range)."""

    def __init__(self, ports: tuple[int, int] = DEFAULT_NODE_PORTS, rng: Random | None = None) -> None: ...

    def repair(self, services: Iterable[Tree]) -> None:
        """Forget everything and take what the Services hold."""
