"""The node's pod network: addresses from files, links over netlink, rules by iptables, kept as wanted."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from netplugin import names, netns, rules
from netplugin.ipam import Ipam, Lease
from netplugin.kernel import conntrack, links
from netplugin.kernel.firewall import Firewall
from netplugin.kernel.monitor import disturbances
from netplugin.plan import BridgeSpec, Connect, CreateBridge, DeletePort, PortSpec, plan
from netplugin.protocol import Attachment, NetworkError, Sandbox
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock, SystemClock

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_SETTLE = 1.0
"""Seconds to wait after a disturbance before looking: changes come in groups."""

_NEW = 60.0
"""Seconds for which a fresh attachment is safe from `reconcile`, whose list may be older than it."""


class NodeNetwork:
    """The pod network of the network namespace that this process is in."""

    def __init__(self, state_dir: Path = Path("/run/sampan/ipam"), *, cluster_cidr: str = "",
                 bridge: str = names.BRIDGE, mtu: int = 0, resync: float = 30.0, clock: Clock | None = None) -> None:
        """`cluster_cidr`: what pods reach without masquerade, by default the node's own CIDR. `mtu` 0: the underlay's.

        `resync`: seconds between looks at the whole, for what no notification tells (changed firewall rules).
        """
        self._ipam = Ipam(state_dir)
        self._cluster_cidr = cluster_cidr
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
        self._new: dict[str, float] = {}
        self._disturbed = asyncio.Event()
        self._told: Callable[[str], None] | None = None

    async def setup(self, pod_cidr: str) -> None:
        """Bridge, kernel parameters and rules; pods that are attached already stay so."""
        subnet = IPv4Network(pod_cidr)
        mtu = self._mtu or await self._blocking(links.default_mtu)
        self._pod_cidr = subnet
        self._bridge = BridgeSpec(self._bridge_name, IPv4Interface((subnet.network_address + 1, subnet.prefixlen)), mtu)
        await self._blocking(self._set_parameters)
        await self._repair_links()
        async with self._rules_lock:
            await self._firewall.apply(await self._chains())

    async def attach(self, sandbox: Sandbox) -> Attachment:
        """Repeated for a sandbox that has its address, this repairs what is broken."""
        bridge, subnet = self._ready()
        async with self._turn(sandbox.id):
            self._new[sandbox.id] = self._clock.monotonic()
            lease = await self._blocking(self._ipam.allocate, subnet, sandbox)
            port = PortSpec(names.veth(sandbox.id), lease.ip)
            try:
                await self._blocking(links.connect, port, bridge, sandbox.pid)
            except NetworkError:
                # The bridge may have just been taken away; a second failure is the caller's to see.
                await self._repair_links()
                await self._blocking(links.connect, port, bridge, sandbox.pid)
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
        for lease in await self._blocking(self._ipam.leases):
            if lease.sandbox_id not in keep and lease.sandbox_id not in self._new:
                log.info("releasing %s: sandbox %s of pod %s/%s is gone", lease.ip, lease.sandbox_id[:12],
                         lease.namespace, lease.name)
                await self.detach(lease.sandbox_id)
        seen = await self._blocking(links.observe, self._bridge_name)
        wanted = {names.veth(sandbox_id) for sandbox_id in keep | set(self._new)}
        for stale in sorted(seen.ports.keys() - wanted):
            await self._blocking(links.delete, stale)
        if self._bridge is not None:
            await self.heal()

    def on_lost(self, told: Callable[[str], None]) -> None:
        """Told at every look, until the sandbox is attached again or detached."""
        self._told = told

    async def teardown(self) -> None:
        """Leave nothing behind."""
        async with self._rules_lock:
            await self._firewall.remove(await self._chains())
        await self._blocking(links.teardown, self._bridge_name)
        await self._blocking(self._ipam.clear)

    async def open_socket(self, pid: int, family: int = socket.AF_INET,
                          kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A non-blocking socket in the network namespace of a process; the caller closes it."""
        return await self._blocking(netns.open_socket, pid, family, kind)

    async def heal(self) -> None:
        """Put back what others took away: bridge, ports, jumps, chains, parameters."""
        await self._blocking(self._set_parameters)
        await self._repair_links()
        async with self._rules_lock:
            await self._firewall.check(await self._chains())

    async def run(self) -> None:
        """Watch, and heal: at once what the kernel tells of, the rest every `resync` seconds."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            failures = 0
            while True:
                try:
                    async with asyncio.timeout(self._resync):
                        await self._disturbed.wait()
                    await asyncio.sleep(_SETTLE)
                except TimeoutError:
                    pass
                self._disturbed.clear()
                if self._bridge is None:
                    continue
                try:
                    await self.heal()
                    failures = 0
                except NetworkError as error:
                    failures += 1
                    log.warning("the pod network could not be repaired: %s", error)
                    await self._clock.sleep(Backoff(initial=1.0).delay(failures))

    async def close(self) -> None:
        """End the threads; the network itself stays."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- inside

    async def _watch(self) -> None:
        async for _ in disturbances():
            self._disturbed.set()

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
            if names.veth(lease.sandbox_id) not in seen.ports and not coming_or_going and self._told:
                self._told(lease.sandbox_id)

    def _set_parameters(self) -> None:
        links.write_sysctl("net.ipv4.ip_forward", "1")
        # Bridged packets between pods must pass the rules too: a Service's answer comes from a neighbour.
        links.write_sysctl("net.bridge.bridge-nf-call-iptables", "1", missing_ok=True)
        # 127.0.0.1:hostPort on the node is sent to a pod; rules.INPUT closes what this opens.
        links.write_sysctl(f"net.ipv4.conf.{self._bridge_name}.route_localnet", "1", missing_ok=True)

    async def _write_host_ports(self, lease: Lease) -> None:
        async with self._rules_lock:
            await self._firewall.write([chain for chain in await self._chains() if chain.name == rules.HOSTPORTS])
        ports = [port.host_port for port in lease.host_ports if port.protocol == "UDP"]
        if ports:
            # A flow that began before or under the last owner would be sent where it was sent then.
            await self._blocking(conntrack.forget_udp, ports)

    async def _chains(self) -> list[rules.Chain]:
        subnet = self._pod_cidr or IPv4Network("0.0.0.0/32")
        leases = [lease for lease in await self._blocking(self._ipam.leases) if lease.host_ports]
        cluster = IPv4Network(self._cluster_cidr) if self._cluster_cidr else subnet
        backend = await self._firewall.backend()
        return rules.chains(rules.Firewall(subnet, cluster, tuple(leases), backend.random_fully))

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
