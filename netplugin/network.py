"""The node's pod network: addresses from files, links over netlink, rules by iptables, kept as wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from netplugin import description, names
from netplugin.crossing import Crossing
from netplugin.description import Description
from netplugin.ipam import Ipam, Lease
from netplugin.keeper import Keeper
from netplugin.kernel import conntrack, links
from netplugin.kernel.monitor import disturbances, rule_changes
from netplugin.local import LocalLinks
from netplugin.overlay import Settings
from netplugin.plan import PortSpec
from netplugin.pod_rules import PodRules
from netplugin.protocol import Attachment, NetworkError, Peer, Sandbox
from sampan.loop.clock import Clock, SystemClock

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_RESYNC = 300.0
"""Seconds between looks at links and routes; the kernel tells of nearly all that happens to them."""

_NEW = 60.0
"""Seconds for which a fresh attachment is safe from `reconcile`, whose list may be older than it."""

class NodeNetwork:
    """The pod network of the network namespace that this process is in."""

    def __init__(self, state_dir: Path = Path("/run/sampan/ipam"), *, cluster_cidr: str = "",
                 overlay: Settings | None = None, bridge: str = names.BRIDGE, accept_forwarded: bool = True,
                 resync: float = 30.0, clock: Clock | None = None) -> None:
        """`cluster_cidr`: what pods reach without masquerade, beside the CIDRs of all nodes that are known.

        `overlay`: how other nodes' pods are reached; None: not at all. `accept_forwarded`: let pods' packets through
        against a policy of FORWARD that drops them, as Docker's does.
        `resync`: seconds between looks at firewall rules, since not every iptables has the kernel tell of changes.
        """
        self._state_dir = state_dir
        self._ipam = Ipam(state_dir)
        self._crossing = Crossing(overlay)
        self._rules = PodRules(cluster_cidr, self._leases, accept=accept_forwarded)
        self._links = LocalLinks(bridge)
        self._resync = resync
        self._clock = clock or SystemClock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pool = ThreadPoolExecutor(4, "network")
        self._is_set_up = False
        self._new: dict[str, float] = {}
        self._told: Callable[[str], None] | None = None

    async def setup(self, pod_cidr: str) -> None:
        """Bridge, kernel parameters and rules; pods that are attached already stay so."""
        subnet = IPv4Network(pod_cidr)
        self._rules.know(subnet, self._crossing.subnets, self._crossing.device)
        await self._repair(subnet)
        await self._rules.apply()
        await self._blocking(self._describe)
        self._is_set_up = True

    async def follow(self, peers: Collection[Peer]) -> None:
        """Also those networks that pods reach under their own addresses are the nodes' own."""
        self._crossing.follow(peers)
        if self._is_set_up:  # else setup does it
            self._rules.know(self._links.subnet, self._crossing.subnets, self._crossing.device)
            await self._rules.update()
            await self._crossing.repair(self._links.subnet, self._blocking)
            await self._blocking(self._describe)

    def announcement(self) -> Peer | None:
        """Once the node has its CIDR."""
        return self._crossing.announcement(self._links.subnet) if self._is_set_up else None

    async def attach(self, sandbox: Sandbox) -> Attachment:
        """Repeated for a sandbox that has its address, this repairs what is broken."""
        bridge = self._links.bridge
        async with self._turn(sandbox.id):
            self._new[sandbox.id] = self._clock.monotonic()
            lease = await self._blocking(self._ipam.allocate, self._links.subnet, sandbox)
            port = PortSpec(names.veth(sandbox.id), lease.ip, sandbox.interface)
            try:
                await self._blocking(links.connect, port, bridge, sandbox.where)
            except NetworkError:
                # The bridge may have just been taken away; a second failure is the caller's to see.
                await self._blocking(self._links.repair, await self._leases())
                await self._blocking(links.connect, port, bridge, sandbox.where)
            if lease.host_ports:
                await self._write_host_ports(lease)
            return self._attachment(lease)

    async def detach(self, sandbox_id: str) -> None:
        """The link first and the address last, so that no address is free while something still answers to it."""
        async with self._turn(sandbox_id):
            self._new.pop(sandbox_id, None)
            lease = await self._lease(sandbox_id)
            await self._blocking(links.delete, names.veth(sandbox_id))
            await self._blocking(self._ipam.release, sandbox_id)
            if lease is not None and lease.host_ports:
                await self._write_host_ports(lease)

    async def attachment(self, sandbox_id: str) -> Attachment | None:
        """None for a sandbox that has no address."""
        lease = await self._lease(sandbox_id)
        return self._attachment(lease) if lease is not None and self._is_set_up else None

    async def reconcile(self, live: Collection[str]) -> None:
        """What was attached within the last minute is left alone: the caller's list may be older."""
        now = self._clock.monotonic()
        self._new = {sandbox: since for sandbox, since in self._new.items() if now - since < _NEW}
        keep = {*live, *self._new}
        ports = await self._blocking(self._links.ports)  # before the leases: who has a port has had one for longer
        leases = await self._leases()
        keep |= {lease.sandbox_id for lease in leases if lease.owner}  # other runtimes see to theirs
        for lease in leases:
            if lease.sandbox_id not in keep and lease.sandbox_id not in self._new:
                log.info("releasing %s: sandbox %s of pod %s/%s is gone", lease.ip, lease.sandbox_id[:12],
                         lease.namespace, lease.name)
                await self.detach(lease.sandbox_id)
        for stale in sorted(ports - {names.veth(sandbox_id) for sandbox_id in keep | set(self._new)}):
            await self._blocking(links.delete, stale)
        await self.heal()

    def on_lost(self, told: Callable[[str], None]) -> None:
        """Told at every look, until the sandbox is attached again or detached."""
        self._told = told

    async def teardown(self) -> None:
        """Leave nothing behind."""
        await self._rules.remove()
        await self._blocking(description.remove, self._state_dir)
        await self._blocking(self._crossing.teardown)
        await self._blocking(self._links.teardown)
        await self._blocking(self._ipam.clear)

    async def heal(self) -> None:
        """Put back what others took away: bridge, ports, overlay, jumps, chains, parameters."""
        await self._heal_links()
        await self._heal_rules()

    async def run(self) -> None:
        """Watch, and heal: at once what the kernel tells of, the rest now and then."""
        async with asyncio.TaskGroup() as group:
            for keeper in (Keeper("the pod network", self._heal_links, self._disturbances, _RESYNC, self._clock),
                           Keeper("a firewall rule", self._heal_rules, rule_changes, self._resync, self._clock)):
                group.create_task(keeper.run())

    async def close(self) -> None:
        """End the threads; the network itself stays."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- inside

    def _disturbances(self) -> AsyncIterator[None]:
        return disturbances(lambda: self._crossing.concern)

    async def _heal_links(self) -> None:
        if self._is_set_up:
            await self._repair()

    async def _heal_rules(self) -> None:
        if self._is_set_up:
            await self._blocking(self._links.set_parameters)
            await self._rules.check()

    async def _repair(self, subnet: IPv4Network | None = None) -> None:
        """With another CIDR, or the one that there is by the time that the MTU is known."""
        mtu = await self._blocking(self._crossing.measure)
        self._links.configure(subnet or self._links.subnet, mtu)
        for lease in await self._blocking(self._links.repair, await self._leases()):
            coming_or_going = self._turn(lease.sandbox_id).locked()
            if self._told and not lease.owner and not coming_or_going:
                self._told(lease.sandbox_id)
        await self._crossing.repair(self._links.subnet, self._blocking)

    async def _write_host_ports(self, lease: Lease) -> None:
        await self._rules.update()
        ports = [port.host_port for port in lease.host_ports if port.protocol == "UDP"]
        if ports:
            # A flow that began before or under the last owner would be sent where it was sent then.
            await self._blocking(conntrack.forget_udp, ports)

    def _describe(self) -> None:
        description.write(self._state_dir, Description(self._links.subnet, self._rules.cluster, self._crossing.device,
                                                       self._links.bridge.mtu))

    async def _leases(self) -> Sequence[Lease]:
        return await self._blocking(self._ipam.leases)

    async def _lease(self, sandbox_id: str) -> Lease | None:
        return next((lease for lease in await self._leases() if lease.sandbox_id == sandbox_id), None)

    def _attachment(self, lease: Lease) -> Attachment:
        gateway = str(self._links.bridge.address.ip)
        return Attachment(str(lease.ip), gateway, names.veth(lease.sandbox_id), names.pod_mac(lease.ip))

    def _turn(self, sandbox_id: str) -> asyncio.Lock:
        return self._turns.setdefault(sandbox_id, asyncio.Lock())

    async def _blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))
