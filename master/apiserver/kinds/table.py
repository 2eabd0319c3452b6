"""Which strategy and which table printer belongs to which kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from master.apiserver.kinds.allocator import ClusterIPs, NodePorts
from master.apiserver.strategy import Column, Strategy, TablePrinter, Tree

Key = tuple[str, str]
"""Group and plural, as in `Resource.key`."""


class DefaultPrinter:
    """Name and time of creation: the columns of a kind without its own."""

    columns: Sequence[Column] = (Column("Name", format="name"), Column("Created At", type="date"))

    def cells(self, obj: Tree) -> list[Any]:
        """The two."""
        metadata = obj.get("metadata") or {}
        return [metadata.get("name", ""), metadata.get("creationTimestamp", "")]


DEFAULT_PRINTER: TablePrinter = DefaultPrinter()


def strategies(cluster_ips: ClusterIPs, node_ports: NodePorts) -> dict[Key, Strategy]:
    """The strategy of each kind; Services draw from the two pools."""
    return {}


def printers() -> dict[Key, TablePrinter]:
    """The table columns of each kind; `DEFAULT_PRINTER` serves the others."""
    return {}
