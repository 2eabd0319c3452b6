"""The node's own part of the network: its bridge with the pods' links on it, and the kernel's parameters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv4Network

from netplugin import names
from netplugin.ipam import Lease
from netplugin.kernel import links
from netplugin.plan import BridgeSpec, Connect, CreateBridge, DeletePort, PortSpec, plan
from netplugin.protocol import NetworkError

log = logging.getLogger(__name__)


class LocalLinks:
    """All calls block: run them in a pool thread."""

    def __init__(self, bridge: str) -> None:
        self._name = bridge
        self._bridge: BridgeSpec | None = None

    @property
    def bridge(self) -> BridgeSpec:
        """NetworkError before `configure`."""
        if self._bridge is None:
            raise NetworkError("the node has no pod CIDR yet")
        return self._bridge

    @property
    def subnet(self) -> IPv4Network:
        """The node's pod CIDR; NetworkError before `configure`."""
        return self.bridge.address.network

    def configure(self, subnet: IPv4Network, mtu: int) -> None:
        """What the bridge is to be like; its address is the first of the subnet that a host may have."""
        self._bridge = BridgeSpec(self._name, IPv4Interface((subnet.network_address + 1, subnet.prefixlen)), mtu)

    def repair(self, leases: Sequence[Lease]) -> list[Lease]:
        """Look, and change what is not as wanted. Those whose link is lost, which only attaching makes again."""
        self.set_parameters()
        ports = {names.veth(lease.sandbox_id): PortSpec(names.veth(lease.sandbox_id), lease.ip) for lease in leases}
        seen = links.observe(self._name)
        actions = plan(self.bridge, ports, seen, delete_others=False)
        if any(isinstance(action, CreateBridge | DeletePort | Connect) for action in actions):
            log.info("repairing the pod network: %s", ", ".join(type(action).__name__ for action in actions))
        links.apply(actions)
        if any(isinstance(action, CreateBridge) for action in actions):
            self.set_parameters()  # one of them belongs to the bridge
        return [lease for lease in leases if names.veth(lease.sandbox_id) not in seen.ports]

    def ports(self) -> frozenset[str]:
        """What looks like a sandbox's link, on the bridge or not."""
        return frozenset(links.observe(self._name).ports)

    def set_parameters(self) -> None:
        """What the kernel must allow."""
        links.write_sysctl("net.ipv4.ip_forward", "1")
        # Bridged packets between pods must pass the rules too: a Service's answer comes from a neighbour.
        links.write_sysctl("net.bridge.bridge-nf-call-iptables", "1", missing_ok=True)
        # 127.0.0.1:hostPort on the node is sent to a pod; rules.INPUT closes what this opens.
        links.write_sysctl(f"net.ipv4.conf.{self._name}.route_localnet", "1", missing_ok=True)

    def teardown(self) -> None:
        """Delete the bridge and every sandbox's link."""
        links.teardown(self._name)
