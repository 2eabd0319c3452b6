"""A node whose address has changed (by DHCP, or by hand) follows: the agent ends, and is started again with the new.

Nearly everything in the agent is made for one address: the VXLAN device, the rules, the certificate of its port, the
line to the master. A start builds all of that from what is there, and no pod notices one. (The kubelet takes the new
address at its next status sync; what else depends on it is left to the network plugin and the operator.)
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence

import psutil

from sampan.loop.clock import Clock

LOOK_SECONDS = 10.0

Interfaces = Mapping[str, Sequence[str]]
"""The host's interfaces and their IPv4 addresses, each one's first one first."""


class AddressChanged(Exception):
    """The node has another address than the agent was started with."""


def interfaces() -> Interfaces:
    """As they are now."""
    return {name: [item.address for item in found if item.family == socket.AF_INET]
            for name, found in psutil.net_if_addrs().items()}


def follow(address: str, interface: str, host: Interfaces) -> str:
    """The node's address. It stays while the host has it, on whichever interface; and while there is no other.

    So neither a second address (of a VPN, a virtual router) nor a cable that was pulled out moves a node.
    """
    if any(address in addresses for addresses in host.values()):
        return address
    usable = (found for found in host.get(interface, ()) if not ipaddress.IPv4Address(found).is_link_local)
    return next(usable, address)


def interface_of(address: str, host: Interfaces) -> str:
    """The interface that has the address, "" for none."""
    return next((name for name, addresses in host.items() if address in addresses), "")


class AddressWatch:
    """Looks every ten seconds. `interface`: where the node's next address will be."""

    def __init__(self, address: str, interface: str, clock: Clock, *,
                 look: Callable[[], Interfaces] = interfaces) -> None:
        self._address = address
        self._interface = interface
        self._clock = clock
        self._look = look

    async def run(self) -> None:
        """Until cancelled, or AddressChanged."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            now = follow(self._address, self._interface, self._look())
            if now != self._address:
                raise AddressChanged(f"this node's address has changed from {self._address} to {now}; starting again")
