"""The pools that Services draw from: ClusterIPs and node ports, in memory, rebuilt at start from the Services.

Both pools have a lower band that is given out only on request or when the rest is full, so that users who ask for
fixed values seldom meet a random one (KEP-3070, KEP-3668).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random, SystemRandom

from master.apiserver.kinds.common import Tree, items, spec
from master.apiserver.kinds.service_types import cluster_ips, needs_cluster_ip

DEFAULT_SERVICE_CIDR = "10.96.0.0/12"
DEFAULT_NODE_PORTS = (30000, 32767)
KUBERNETES = "default/kubernetes"
"""The Service through which pods reach the API; it has the network's first address."""


LOOKS_AT_LEAKS = 3
"""How many looks in a row must find a number taken that no Service holds, before it counts as lost: until then it may
belong to a Service that is just being written."""


class PoolError(Exception):
    """The pool does not give what was asked for; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with what a Service holds: the event that tells of it, as upstream's repair controllers do."""

    service: Tree
    reason: str
    message: str


class Pool:
    """Numbers 0 to `size` - 1, of which each can be taken once."""

    def __init__(self, size: int, band: int, rng: Random) -> None:
        self._size = size
        self._band = band
        self._rng = rng
        self._taken: set[int] = set()
        self._suspects: dict[int, int] = {}

    def take(self, number: int, *, reserve: bool = True) -> bool:
        """Take a certain number; False where somebody has it."""
        if number in self._taken:
            return False
        if reserve:
            self._taken.add(number)
        return True

    def take_any(self, *, reserve: bool = True) -> int | None:
        """Take a random free number, above the lower band if there is one; None when all are taken."""
        for low, high in ((self._band, self._size), (0, self._band)):
            count = high - low
            if count <= 0:
                continue
            start = self._rng.randrange(count)
            for step in range(count):
                number = low + (start + step) % count
                if self.take(number, reserve=reserve):
                    return number
        return None

    def release(self, number: int) -> None:
        """Give a number back; nothing happens if nobody has it."""
        self._taken.discard(number)

    def replace(self, held: Iterable[int]) -> None:
        """Forget everything and take just these."""
        self._taken = set(held)
        self._suspects.clear()

    def reconcile(self, held: set[int]) -> set[int]:
        """Take what is held and was free: that is returned. What nobody holds for some looks in a row is given back."""
        missing = held - self._taken
        self._taken |= held
        self._suspects = {number: self._suspects.get(number, 0) + 1 for number in self._taken - held}
        for number, looks in list(self._suspects.items()):
            if looks >= LOOKS_AT_LEAKS:
                self._taken.discard(number)
                del self._suspects[number]
        return missing

    def __len__(self) -> int:
        return len(self._taken)


class ClusterIPs:
    """The addresses of one service network (an IPv4 CIDR). The first is kept for the Service `kubernetes`."""

    def __init__(self, cidr: str = DEFAULT_SERVICE_CIDR, rng: Random | None = None) -> None:
        self._network = ipaddress.IPv4Network(cidr)
        self._base = int(self._network.network_address) + 1
        size = max(self._network.num_addresses - 2, 0)  # neither the network's own nor the broadcast address
        band = 0 if size < 16 else min(max(16, size // 16), 256)
        self._pool = Pool(size, band, rng or SystemRandom())
        self._size = size
        self._pool.take(0)

    @property
    def first(self) -> str:
        """The address of the Service `kubernetes`."""
        return str(ipaddress.IPv4Address(self._base))

    @property
    def free(self) -> int:
        """How many addresses nobody has."""
        return self._size - len(self._pool)

    def take(self, address: str = "", owner: str = "", *, reserve: bool = True) -> str:
        """Take an address, any one if none is asked for. `owner` is the Service's namespace/name; PoolError."""
        if not address:
            number = self._pool.take_any(reserve=reserve)
            if number is None:
                raise PoolError("range is full")
            return self._address(number)
        number = self._number(address)
        if number is None:
            raise PoolError(f"the provided IP ({address}) is not in the valid range. The range of valid IPs is "
                            f"{self._network}")
        if number == 0 and owner == KUBERNETES:
            return address
        if not self._pool.take(number, reserve=reserve):
            raise PoolError("provided IP is already allocated")
        return address

    def release(self, address: str) -> None:
        """Give an address back; "None" and foreign ones are nothing to us."""
        number = self._number(address)
        if number:  # the first is never given back
            self._pool.release(number)

    def repair(self, services: Iterable[Tree]) -> list[Fault]:
        """Forget everything and take what the Services hold, at start; tells what cannot be right."""
        held, faults = self._held(services)
        self._pool.replace({0, *held})
        return faults

    def check(self, services: Iterable[Tree]) -> list[Fault]:
        """Compare with what the Services hold, now and then: take what is missing, free what was lost."""
        held, faults = self._held(services)
        missing = self._pool.reconcile({0, *held})
        return faults + [Fault(held[number], "ClusterIPNotAllocated",
                               f"Cluster IP [IPv4]:{self._address(number)} is not allocated; repairing")
                         for number in sorted(missing)]

    def _held(self, services: Iterable[Tree]) -> tuple[dict[int, Tree], list[Fault]]:
        """Which Service holds which number, and which hold what they cannot have."""
        held: dict[int, Tree] = {}
        faults = []
        for service in services:
            for address in cluster_ips(spec(service)) if needs_cluster_ip(spec(service)) else ():
                number = self._number(address)
                if address == "None":
                    continue
                if number is None:
                    faults.append(Fault(service, "ClusterIPOutOfRange", f"Cluster IP [IPv4]:{address} is not within "
                                        f"the service CIDR {self._network}; please recreate service"))
                elif number in held:
                    faults.append(Fault(service, "ClusterIPAlreadyAllocated", f"Cluster IP [IPv4]:{address} was "
                                        "assigned to multiple services; please recreate service"))
                else:
                    held[number] = service
        return held, faults

    def _address(self, number: int) -> str:
        return str(ipaddress.IPv4Address(self._base + number))

    def _number(self, address: str) -> int | None:
        try:
            number = int(ipaddress.IPv4Address(address)) - self._base
        except ValueError:
            return None
        return number if 0 <= number < self._size else None


class NodePorts:
    """The ports that every node offers Services (both bounds belong to the range)."""

    def __init__(self, ports: tuple[int, int] = DEFAULT_NODE_PORTS, rng: Random | None = None) -> None:
        self._low, self._high = ports
        size = self._high - self._low + 1
        band = 0 if size < 16 else min(max(16, size // 32), 128)
        self._pool = Pool(size, band, rng or SystemRandom())

    def take(self, port: int = 0, *, reserve: bool = True) -> int:
        """Take a port, any one if none is asked for; PoolError."""
        if not port:
            number = self._pool.take_any(reserve=reserve)
            if number is None:
                raise PoolError("range is full")
            return self._low + number
        if not self._low <= port <= self._high:
            raise PoolError("provided port is not in the valid range. The range of valid ports is "
                            f"{self._low}-{self._high}")
        if not self._pool.take(port - self._low, reserve=reserve):
            raise PoolError("provided port is already allocated")
        return port

    def release(self, port: int) -> None:
        """Give a port back."""
        self._pool.release(port - self._low)

    def repair(self, services: Iterable[Tree]) -> list[Fault]:
        """Forget everything and take what the Services hold, at start; tells what cannot be right."""
        held, faults = self._held(services)
        self._pool.replace(held)
        return faults

    def check(self, services: Iterable[Tree]) -> list[Fault]:
        """Compare with what the Services hold, now and then: take what is missing, free what was lost."""
        held, faults = self._held(services)
        missing = self._pool.reconcile(set(held))
        return faults + [Fault(held[number], "PortNotAllocated",
                               f"Port {self._low + number} is not allocated; repairing") for number in sorted(missing)]

    def _held(self, services: Iterable[Tree]) -> tuple[dict[int, Tree], list[Fault]]:
        """Which Service holds which number, and which hold what they cannot have."""
        held: dict[int, Tree] = {}
        faults = []
        for service in services:
            for port in sorted(ports_of(spec(service))):  # one port may serve several protocols of a Service
                if not self._low <= port <= self._high:
                    faults.append(Fault(service, "PortOutOfRange", f"Port {port} is not within the port range "
                                        f"{self._low}-{self._high}; please recreate service"))
                elif port - self._low in held:
                    faults.append(Fault(service, "PortAlreadyAllocated", f"Port {port} was assigned to multiple "
                                        "services; please recreate service"))
                else:
                    held[port - self._low] = service
        return held, faults


def ports_of(tree: Tree) -> set[int]:
    """The node ports that a Service's spec names, that of its health check among them."""
    ports = {port["nodePort"] for port in items(tree, "ports") if port.get("nodePort")}
    return ports | ({tree["healthCheckNodePort"]} if tree.get("healthCheckNodePort") else set())
