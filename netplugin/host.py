"""The kernel's rules and connections of this process's network namespace, for who uses them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from netplugin.conntrack import Flow
from netplugin.kernel import conntrack, links
from netplugin.kernel.tables import HostTables

__all__ = ["HostFlows", "HostTables", "allow_local_node_ports"]


class HostFlows:
    """Implements Flows."""

    async def forget_udp(self, stale: Callable[[Flow], bool]) -> int:
        """See Flows. In a thread: the table may be long."""
        return await asyncio.to_thread(conntrack.forget, stale)


def allow_local_node_ports() -> None:
    """Let packets from 127.0.0.1 leave the node, so that node ports answer there (route_localnet)."""
    links.write_sysctl("net.ipv4.conf.all.route_localnet", "1", missing_ok=True)
