"""What of the node's network needs no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from netplugin import names
from netplugin.ipam import Ipam, Lease
from netplugin.kernel import links
from netplugin.kernel.command import Backend
from netplugin.kernel.firewall import Firewall
from netplugin.network import NodeNetwork
from netplugin.pod_rules import PodRules
from netplugin.protocol import HostPort, Sandbox
from netplugin.rules import HOSTPORTS, Chain


async def test_the_cni_executable_writes_no_rules_but_host_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else the agent was told, not to accept pods' packets for example, is no business of it."""
    written: list[Chain] = []

    async def backend(_: Firewall) -> Backend:
        return Backend((1, 8, 9), nf_tables=True)

    async def update(_: Firewall, chains: Sequence[Chain]) -> None:
        written.extend(chains)

    async def leases() -> Sequence[Lease]:
        return [Lease(IPv4Address("10.42.3.2"), "c1", host_ports=(HostPort(80, 8080),))]

    monkeypatch.setattr(Firewall, "backend", backend)
    monkeypatch.setattr(Firewall, "update", update)
    await PodRules("", leases).update_host_ports()
    assert [chain.name for chain in written] == [HOSTPORTS]
    assert "--to-destination 10.42.3.2:8080" in written[0].rules[-1]


async def test_what_another_process_attaches_meanwhile_is_nothing_stale(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    network = NodeNetwork(tmp_path)
    deleted: list[str] = []
    monkeypatch.setattr(links, "delete", deleted.append)

    def ports() -> frozenset[str]:
        """The CNI executable's ADD comes between: first the address, then the link."""
        Ipam(tmp_path).allocate(IPv4Network("10.42.3.0/24"), Sandbox("c1", 1, "", "", "", owner="pods"))
        return frozenset({names.veth("c1"), names.veth("stale")})

    monkeypatch.setattr(network._links, "ports", ports)
    await network.reconcile([])
    await network.close()
    assert deleted == [names.veth("stale")]
