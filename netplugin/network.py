"""The node's pod network: addresses from files, links over netlink, rules by iptables, kept as wanted."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from netplugin import names, netns, rules
from netplugin.crossing import Crossing
from netplugin.ipam import Ipam, Lease
from netplugin.keeper import Keeper
from netplugin.kernel import conntrack, links
from netplugin.kernel.firewall import Firewall
from netplugin.kernel.monitor import disturbances, rule_changes
from netplugin.overlay import Settings, cluster_networks
from netplugin.plan import BridgeSpec, Connect, CreateBridge, DeletePort, PortSpec, plan
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
                 overlay: Settings | None = None, bridge: str = names.BRIDGE, mtu: int = 0,
                 resync: float = 30.0, clock: Clock | None = None) -> None:
        """`cluster_cidr`: what pods reach without masquerade, beside the CIDRs of all nodes that are known.

        `overlay`: how other nodes' pods are reached; None: not at all. `mtu` 0: what the underlay leaves.
        `resync`: seconds between looks at firewall rules, since not every iptables has the kernel tell of changes.
        """
        self._ipam = Ipam(state_dir)
        self._cluster_cidr = cluster_cidr
        self._crossing = Crossing(overlay)
        self._bridge_name = bridge
        self._mtu = mtu
        self._resync = resync
        self._clock = clock or SystemClock()
        self._firewall = Firewall()
        self._rules_lock = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pool = ThreadPoolExecutor(4, "network")
        self._pod_cidr: IPv4Network | None = None
        self._bridge: BridgeSpec | None = None
        self._is_set_up = False
        self._new: dict[str, float] = {}
        self._told: Callable[[str], None] | None = None

    async def setup(self, pod_cidr: str) -> None:
        """Bridge, kernel parameters and rules; pods that are attached already stay so."""
        self._pod_cidr = IPv4Network(pod_cidr)
        await self._repair(self._pod_cidr)
        async with self._rules_lock:
            await self._firewall.apply(await self._chains())
        self._is_set_up = True

    async def follow(self, peers: Collection[Peer]) -> None:
        """Also those networks that pods reach under their own addresses are the nodes' own."""
        self._crossing.follow(peers)
        if self._pod_cidr is not None and self._is_set_up:  # else setup does it
            await self._write_rules()
            await self._crossing.repair(self._pod_cidr, self._blocking)

    def announcement(self) -> Peer | None:
        """Once the node has its CIDR."""
        return self._crossing.announcement(self._pod_cidr) if self._pod_cidr is not None else None

    async def attach(self, sandbox: Sandbox) -> Attachment:
        """Repeated for a sandbox that has its address, this repairs what is broken."""
        bridge, subnet = self._ready()
        async with self._turn(sandbox.id):
            self._new[sandbox.id] = self._clock.monotonic()
            lease = await self._blocking(self._ipam.allocate, subnet, sandbox)
            port = PortSpec(names.veth(sandbox.id), lease.ip, sandbox.interface)
            try:
                await self._blocking(links.connect, port, bridge, sandbox.where)
            except NetworkError:
                # The bridge may have just been taken away; a second failure is the caller's to see.
                await self._repair_links()
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
        return self._attachment(lease) if lease is not None and self._bridge is not None else None

    async def reconcile(self, live: Collection[str]) -> None:
        """What was attached within the last minute is left alone: the caller's list may be older."""
        now = self._clock.monotonic()
        self._new = {sandbox: since for sandbox, since in self._new.items() if now - since < _NEW}
        keep = {*live, *self._new}
        leases = await self._blocking(self._ipam.leases)
        keep |= {lease.sandbox_id for lease in leases if lease.owner}  # other runtimes see to theirs
        for lease in leases:
            if lease.sandbox_id not in keep and lease.sandbox_id not in self._new:
                log.info("releasing %s: sandbox %s of pod %s/%s is gone", lease.ip, lease.sandbox_id[:12],
                         lease.namespace, lease.name)
                await self.detach(lease.sandbox_id)
        seen = await self._blocking(links.observe, self._bridge_name)
        wanted = {names.veth(sandbox_id) for sandbox_id in keep | set(self._new)}
        for stale in sorted(seen.ports.keys() - wanted):
            await self._blocking(links.delete, stale)
        await self.heal()

    def on_lost(self, told: Callable[[str], None]) -> None:
        """Told at every look, until the sandbox is attached again or detached."""
        self._told = told

    async def teardown(self) -> None:
        """Leave nothing behind."""
        async with self._rules_lock:
            await self._firewall.remove(await self._chains())
        await self._blocking(self._crossing.teardown)
        await self._blocking(links.teardown, self._bridge_name)
        await self._blocking(self._ipam.clear)

    async def open_socket(self, pid: int, family: int = socket.AF_INET,
                          kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A non-blocking socket in the network namespace of a process; the caller closes it."""
        return await self._blocking(netns.open_socket, pid, family, kind)

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
        if self._pod_cidr is not None and self._is_set_up:
            await self._repair(self._pod_cidr)

    async def _heal_rules(self) -> None:
        if self._is_set_up:
            await self._blocking(self._set_parameters)
            async with self._rules_lock:
                await self._firewall.check(await self._chains())

    async def _repair(self, subnet: IPv4Network) -> None:
        mtu = await self._blocking(self._crossing.measure)
        gateway = IPv4Interface((subnet.network_address + 1, subnet.prefixlen))
        self._bridge = BridgeSpec(self._bridge_name, gateway, self._mtu or mtu)
        await self._blocking(self._set_parameters)
        await self._repair_links()
        await self._crossing.repair(subnet, self._blocking)

    async def _repair_links(self) -> None:
        bridge, _ = self._ready()
        leases = await self._blocking(self._ipam.leases)
        ports = {names.veth(lease.sandbox_id): PortSpec(names.veth(lease.sandbox_id), lease.ip) for lease in leases}
        seen = await self._blocking(links.observe, bridge.name)
        actions = plan(bridge, ports, seen, delete_others=False)
        if any(isinstance(action, CreateBridge | DeletePort | Connect) for action in actions):
            log.info("repairing the pod network: %s", ", ".join(type(action).__name__ for action in actions))
        await self._blocking(links.apply, actions)
        if any(isinstance(action, CreateBridge) for action in actions):
            await self._blocking(self._set_parameters)  # one of them belongs to the bridge
        for lease in leases:
            coming_or_going = self._turn(lease.sandbox_id).locked()
            lost = names.veth(lease.sandbox_id) not in seen.ports
            if lost and not lease.owner and not coming_or_going and self._told:
                self._told(lease.sandbox_id)

    def _set_parameters(self) -> None:
        links.write_sysctl("net.ipv4.ip_forward", "1")
        # Bridged packets between pods must pass the rules too: a Service's answer comes from a neighbour.
        links.write_sysctl("net.bridge.bridge-nf-call-iptables", "1", missing_ok=True)
        # 127.0.0.1:hostPort on the node is sent to a pod; rules.INPUT closes what this opens.
        links.write_sysctl(f"net.ipv4.conf.{self._bridge_name}.route_localnet", "1", missing_ok=True)

    async def _write_rules(self) -> None:
        async with self._rules_lock:
            await self._firewall.update(await self._chains())

    async def _write_host_ports(self, lease: Lease) -> None:
        await self._write_rules()
        ports = [port.host_port for port in lease.host_ports if port.protocol == "UDP"]
        if ports:
            # A flow that began before or under the last owner would be sent where it was sent then.
            await self._blocking(conntrack.forget_udp, ports)

    async def _chains(self) -> list[rules.Chain]:
        subnet = self._pod_cidr or IPv4Network("0.0.0.0/32")
        leases = [lease for lease in await self._blocking(self._ipam.leases) if lease.host_ports]
        cluster = cluster_networks(self._cluster_cidr, subnet, self._crossing.subnets)
        backend = await self._firewall.backend()
        return rules.chains(rules.Firewall(subnet, cluster, tuple(leases), self._crossing.device,
                                           backend.random_fully))

    async def _lease(self, sandbox_id: str) -> Lease | None:
        leases = await self._blocking(self._ipam.leases)
        return next((lease for lease in leases if lease.sandbox_id == sandbox_id), None)

    def _attachment(self, lease: Lease) -> Attachment:
        bridge, _ = self._ready()
        return Attachment(str(lease.ip), str(bridge.address.ip), names.veth(lease.sandbox_id), names.pod_mac(lease.ip))

    def _ready(self) -> tuple[BridgeSpec, IPv4Network]:
        if self._bridge is None or self._pod_cidr is None:
            raise NetworkError("the node has no pod CIDR yet")
        return self._bridge, self._pod_cidr

    def _turn(self, sandbox_id: str) -> asyncio.Lock:
        return self._turns.setdefault(sandbox_id, asyncio.Lock())

    async def _blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))
