"""What to do so that the kernel has the links that we want; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface

from netplugin import names


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """The node's bridge. Its address is the pods' gateway."""

    name: str
    address: IPv4Interface
    mtu: int

    @property
    def mac(self) -> str:
        """Set by us: a bridge without an address of its own takes the lowest of its ports', which changes."""
        return names.pod_mac(self.address.ip)


@dataclass(frozen=True, slots=True)
class PortSpec:
    """The host's end of one sandbox's veth pair; `inside` is what the other end is called."""

    name: str
    ip: IPv4Address
    inside: str = names.POD_INTERFACE


@dataclass(frozen=True, slots=True)
class SeenBridge:
    """The bridge as the kernel has it."""

    index: int
    mac: str
    mtu: int
    up: bool
    addresses: frozenset[IPv4Interface]


@dataclass(frozen=True, slots=True)
class SeenPort:
    """A veth of ours as the kernel has it."""

    index: int
    master: int
    up: bool
    hairpin: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel has: the bridge, if it is there, and every veth with a name of ours."""

    bridge: SeenBridge | None = None
    ports: Mapping[str, SeenPort] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateBridge:
    """Make the bridge, with its address, and bring it up."""

    bridge: BridgeSpec


@dataclass(frozen=True, slots=True)
class SetBridge:
    """Give the bridge its MAC address and MTU, and bring it up."""

    bridge: BridgeSpec


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give the bridge its address."""

    bridge: BridgeSpec


@dataclass(frozen=True, slots=True)
class DropAddress:
    """Take an address of an earlier pod CIDR off the bridge."""

    bridge: BridgeSpec
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class Connect:
    """Make a veth a port of the bridge: up, with hairpin, so that a pod reaches itself through its Service."""

    port: str
    bridge: BridgeSpec


@dataclass(frozen=True, slots=True)
class DeletePort:
    """Delete a veth (and so its other end)."""

    port: str


Action = CreateBridge | SetBridge | AddAddress | DropAddress | Connect | DeletePort


def plan(bridge: BridgeSpec, ports: Mapping[str, PortSpec], seen: Seen, *, delete_others: bool = True) -> list[Action]:
    """From the wanted bridge and ports, and what is there, to actions; nothing where all is well.

    A wanted port whose veth is not there gets no action: only attaching its sandbox, which needs a process in the
    namespace, can make it again. A port keeps the MTU that it was made with, as the pod's end does: one with a smaller
    MTU than its pod's would drop large packets without a word, where the bridge tells the pod of its own.
    """
    actions = _plan_bridge(bridge, seen.bridge)
    master = seen.bridge.index if seen.bridge is not None else 0
    for name, port in sorted(seen.ports.items()):
        if name not in ports:
            if delete_others:
                actions.append(DeletePort(name))
        elif master == 0 or port.master != master or not port.up or not port.hairpin:
            actions.append(Connect(name, bridge))
    return actions


def _plan_bridge(bridge: BridgeSpec, seen: SeenBridge | None) -> list[Action]:
    if seen is None:
        return [CreateBridge(bridge)]
    actions: list[Action] = []
    if not seen.up or seen.mac != bridge.mac or seen.mtu != bridge.mtu:
        actions.append(SetBridge(bridge))
    actions += [DropAddress(bridge, address) for address in sorted(seen.addresses) if address != bridge.address]
    if bridge.address not in seen.addresses:
        actions.append(AddAddress(bridge))
    return actions
