"""Which network the agent's pods get: the built-in one, or CNI plugins."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Protocol

from agent.config import Config
from netplugin.network import NodeNetwork
from netplugin.overlay import Settings
from netplugin.protocol import Network
from sampan.loop.clock import Clock


class ManagedNetwork(Network, Protocol):
    """A network that may have something to look after."""

    async def run(self) -> None:
        """Until cancelled."""

    async def close(self) -> None:
        """The process ends; the network itself stays."""


def make_network(config: Config, clock: Clock, address: str = "") -> ManagedNetwork:
    """What the configuration names. `address`: the node's; without it, no other node's pods are reached."""
    if config.cni_conf_dir is not None:
        from agent.network.cni.network import CniNetwork  # noqa: PLC0415 - only where it is wanted

        # Not in /run: what the plugins' own files hold outlives a reboot, and DEL must be able to free it.
        return CniNetwork(config.cni_conf_dir, config.cni_bin_dir, config.root_dir / "cni", clock)
    overlay = Settings(IPv4Address(address), config.network_backend, config.vxlan_checksum_offload) if address else None
    return NodeNetwork(config.run_dir / "ipam", cluster_cidr=config.pod_cidr, overlay=overlay,
                       accept_forwarded=config.accept_forwarded, clock=clock)
