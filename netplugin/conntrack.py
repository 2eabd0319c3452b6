"""Connections that the kernel remembers, for those who change where they lead: the public face."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Flow(NamedTuple):
    """A UDP flow as its sender sees it, and where the answers come from: the endpoint that it was sent to."""

    destination: str
    port: int
    answered_by: str


class Flows(Protocol):
    """The kernel's connection tracking. Failures are NetworkErrors."""

    async def forget_udp(self, stale: Callable[[Flow], bool]) -> int:
        """Forget the UDP flows that `stale` chooses, so that their next packets are led anew; how many."""
