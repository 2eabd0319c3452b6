"""What of the node's network needs no kernel."""

from __future__ import annotations

import asyncio
import threading
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


async def test_a_repair_that_began_before_another_cidr_came_does_not_bring_the_old_one_back(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, measures, first = NodeNetwork(tmp_path), 0, threading.Event()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def measure() -> int:
        nonlocal measures
        measures += 1
        if measures == 2:
            loop.call_soon_threadsafe(began.set)
            first.wait(60)
        return 1450

    async def nothing(*_: object) -> None:
        """No rules here."""

    monkeypatch.setattr(network._crossing, "measure", measure)
    monkeypatch.setattr(network._links, "repair", lambda _: [])
    for name in ("apply", "update", "check"):
        monkeypatch.setattr(network._rules, name, nothing)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        await network.setup("10.42.3.0/24")
        group.create_task(network._heal_links())
        await began.wait()
        await network.setup("10.42.9.0/24")
        first.set()
    assert network._links.subnet == IPv4Network("10.42.9.0/24")
    await network.close()
