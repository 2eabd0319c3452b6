"""How pods reach those of other nodes: what the kernel must have for that, and how to get there; pure.

The model is flannel's. Backend `vxlan`: one VXLAN device per node; per other node a route to its pod CIDR by way of
that node's VTEP (the CIDR's first address, which its VXLAN device has), a neighbour entry with the VTEP's MAC address,
and a forwarding entry (FDB) that says behind which node this MAC address is. All are written from the node map;
nothing is learned from packets, so that nobody can be led astray by one. Backend `host-gw`: one route per other node
with that node as gateway, for nodes that share a link.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, collapse_addresses

from netplugin import names
from netplugin.protocol import Peer

VXLAN, HOST_GW = "vxlan", "host-gw"
BACKENDS = (VXLAN, HOST_GW)
VNI = 1
PORT = 8472
"""Linux' own port for VXLAN, older than the assigned 4789; flannel uses it too."""
OVERHEAD = 50
"""Bytes that VXLAN puts around a frame: Ethernet 14, IPv4 20, UDP 8, VXLAN 8 (RFC 7348, section 5)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose. `node_ip`: by which the other nodes reach this one.

    `checksum_offload`: leave checksums of encapsulated packets to the network card. Some cards and hypervisors get
    them wrong, and then connections to Services take 63 seconds, so it is off unless asked for.
    """

    node_ip: IPv4Address
    backend: str = VXLAN
    checksum_offload: bool = False
    device: str = names.VXLAN
    vni: int = VNI
    port: int = PORT


@dataclass(frozen=True, slots=True)
class Underlay:
    """The link that has the node's IP: other nodes are reached by it."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Device:
    """The node's VXLAN device. `address` is the first one of the node's pod CIDR."""

    name: str
    vni: int
    port: int
    local: IPv4Address
    address: IPv4Interface
    mtu: int
    checksum_offload: bool

    @property
    def mac(self) -> str:
        """Set by us, at creation: udev gives devices without one another at each boot."""
        return names.vtep_mac(self.address.ip)


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """To another node's pods. `onlink`: the gateway is on the link although no address of ours says so."""

    subnet: IPv4Network
    gateway: IPv4Address
    link: str
    onlink: bool


@dataclass(frozen=True, slots=True)
class Overlay:
    """What the kernel is to have. `neighbours`: MAC by IP; `forwarding`: the node's IP by MAC; both of the device."""

    device: Device | None = None
    routes: frozenset[Route] = frozenset()
    neighbours: Mapping[IPv4Address, str] = field(default_factory=dict)
    forwarding: Mapping[str, IPv4Address] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """A device with the name of ours, as the kernel has it. `vxlan`: its kind, VNI, port, address and learning."""

    vxlan: tuple[str, int, int, IPv4Address | None, bool]
    mac: str
    mtu: int
    up: bool
    checksum_offload: bool
    addresses: frozenset[IPv4Interface]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel has: the device and its tables, and all routes that are marked as ours."""

    device: SeenDevice | None = None
    routes: frozenset[Route] = frozenset()
    neighbours: Mapping[IPv4Address, str] = field(default_factory=dict)
    forwarding: Mapping[str, IPv4Address | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateDevice:
    """Make the VXLAN device, with MAC address, MTU, IP and offload, and bring it up."""

    device: Device


@dataclass(frozen=True, slots=True)
class DeleteDevice:
    """Delete it; routes, neighbours and forwarding entries go with it."""

    name: str


@dataclass(frozen=True, slots=True)
class SetDevice:
    """Give it what can be changed while it is there. The kernel forgets the device's neighbours, MAC address given."""

    device: Device


@dataclass(frozen=True, slots=True)
class DropAddress:
    """Take an address that is not ours, or no longer, off the device."""

    name: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class SetForwarding:
    """Have frames for a MAC address sent to a node."""

    name: str
    mac: str
    node: IPv4Address


@dataclass(frozen=True, slots=True)
class DropForwarding:
    """`node` is None for an entry that names none."""

    name: str
    mac: str
    node: IPv4Address | None


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """Have packets by way of that address sent to a MAC address."""

    name: str
    address: IPv4Address
    mac: str


@dataclass(frozen=True, slots=True)
class DropNeighbour:
    """A node went, or got another pod CIDR."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class SetRoute:
    """In place of any other route to that subnet."""

    route: Route


@dataclass(frozen=True, slots=True)
class DropRoute:
    """One that is marked as ours and not wanted."""

    route: Route


Action = (CreateDevice | DeleteDevice | SetDevice | DropAddress | SetForwarding | DropForwarding | SetNeighbour
          | DropNeighbour | SetRoute | DropRoute)


def mtu(settings: Settings | None, underlay: Underlay) -> int:
    """That of pods and bridge: what fits into the underlay's packets."""
    return underlay.mtu - OVERHEAD if settings is not None and settings.backend == VXLAN else underlay.mtu


def wanted(settings: Settings, pod_cidr: IPv4Network, underlay: Underlay, peers: Iterable[Peer]) -> Overlay:
    """What the kernel is to have for these other nodes. Those that cannot be reached as they are, are left out.

    A node by itself needs no device, nor a kernel that has VXLAN.
    """
    chosen = reachable(settings, pod_cidr, peers)
    if not chosen:
        return Overlay()
    if settings.backend == HOST_GW:
        return Overlay(None, frozenset(Route(subnet, IPv4Address(peer.address), underlay.name, onlink=False)
                                       for subnet, peer in chosen.items()))
    device = Device(settings.device, settings.vni, settings.port, settings.node_ip,
                    IPv4Interface((pod_cidr.network_address, 32)), mtu(settings, underlay), settings.checksum_offload)
    return Overlay(
        device,
        frozenset(Route(subnet, subnet.network_address, settings.device, onlink=True) for subnet in chosen),
        {subnet.network_address: peer.mac for subnet, peer in chosen.items()},
        {peer.mac: IPv4Address(peer.address) for peer in chosen.values()})


def reachable(settings: Settings, pod_cidr: IPv4Network, peers: Iterable[Peer]) -> Mapping[IPv4Network, Peer]:
    """The peers, by pod CIDR, that speak the same backend and whose CIDR is theirs alone (the first by name has it)."""
    chosen: dict[IPv4Network, Peer] = {}
    macs: set[str] = set()
    for peer in sorted(peers, key=lambda peer: peer.name):
        subnet = IPv4Network(peer.subnet)
        if peer.backend != settings.backend or subnet.overlaps(pod_cidr) or subnet in chosen:
            continue
        if settings.backend == VXLAN:
            if not peer.mac or peer.mac in macs:
                continue
            macs.add(peer.mac)
        chosen[subnet] = peer
    return chosen


def plan(wish: Overlay, seen: Seen, device: str = names.VXLAN) -> list[Action]:
    """From what is wanted and what is there to actions; nothing where all is well.

    A route comes after the entries that it needs and goes before them, so that no packet asks for a MAC address in
    vain. `device` is the name under which a device of an earlier backend is looked for.
    """
    actions: list[Action] = []
    if seen.device is not None and (wish.device is None or not _may_stay(wish.device, seen.device)):
        actions.append(DeleteDevice(device))
        seen = Seen(None, frozenset(route for route in seen.routes if route.link != device))
    subnets = {route.subnet for route in wish.routes}
    actions += [DropRoute(route) for route in sorted(seen.routes) if route.subnet not in subnets]
    if wish.device is not None:
        changes = _plan_device(wish.device, seen.device)
        forgets = any(isinstance(action, SetDevice) for action in changes)
        actions += changes + _plan_entries(wish, seen, device, forgets=forgets)
    actions += [SetRoute(route) for route in sorted(wish.routes - seen.routes)]
    return actions


def _may_stay(device: Device, seen: SeenDevice) -> bool:
    """Whether it is the right kind of device; these properties are fixed at creation."""
    return seen.vxlan == (VXLAN, device.vni, device.port, device.local, False)


def _plan_device(device: Device, seen: SeenDevice | None) -> list[Action]:
    if seen is None:
        return [CreateDevice(device)]
    actions: list[Action] = [DropAddress(device.name, address) for address in sorted(seen.addresses)
                             if address != device.address]
    if ((seen.mac, seen.mtu, seen.up, seen.checksum_offload) != (device.mac, device.mtu, True, device.checksum_offload)
            or device.address not in seen.addresses):
        actions.append(SetDevice(device))
    return actions


def _plan_entries(wish: Overlay, seen: Seen, name: str, *, forgets: bool) -> list[Action]:
    actions: list[Action] = [DropNeighbour(name, address) for address in sorted(seen.neighbours)
                             if address not in wish.neighbours]
    actions += [DropForwarding(name, mac, node) for mac, node in sorted(seen.forwarding.items(), key=lambda item:
                item[0]) if mac not in wish.forwarding]
    actions += [SetForwarding(name, mac, node) for mac, node in sorted(wish.forwarding.items())
                if seen.forwarding.get(mac) != node]
    actions += [SetNeighbour(name, address, mac) for address, mac in sorted(wish.neighbours.items())
                if forgets or seen.neighbours.get(address) != mac]
    return actions


def cluster_networks(configured: str, pod_cidr: IPv4Network,
                     others: Collection[IPv4Network]) -> tuple[IPv4Network, ...]:
    """What pods reach by their own addresses: the cluster's CIDR where it is known, and every node's in any case."""
    networks = [pod_cidr, *others]
    if configured:
        networks.append(IPv4Network(configured))
    return tuple(collapse_addresses(networks))
