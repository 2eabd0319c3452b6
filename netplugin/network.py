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
from netplugin import overlay as overlays
from netplugin.ipam import Ipam, Lease
from netplugin.kernel import conntrack, links, overlay
from netplugin.kernel.firewall import Firewall
from netplugin.kernel.monitor import disturbances
from netplugin.plan import BridgeSpec, Connect, CreateBridge, DeletePort, PortSpec, plan
from netplugin.protocol import Attachment, NetworkError, Peer, Sandbox
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock, SystemClock

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_SETTLE = 1.0
"""Seconds to wait after a disturbance before looking: changes come in groups."""

_NEW = 60.0
"""Seconds for which a fresh attachment is safe from `reconcile`, whose list may be older than it."""

_OF_CLUSTER = frozenset((rules.FORWARD, rules.POSTROUTING))
"""The chains that tell the cluster's networks from others."""


class NodeNetwork:
    """The pod network of the network namespace that this process is in."""

    def __init__(self, state_dir: Path = Path("/run/sampan/ipam"), *, cluster_cidr: str = "",
                 overlay: overlays.Settings | None = None, bridge: str = names.BRIDGE, mtu: int = 0,
                 resync: float = 30.0, clock: Clock | None = None) -> None:
        """`cluster_cidr`: what pods reach without masquerade, beside the CIDRs of all nodes that are known.

        `overlay`: how other nodes' pods are reached; None: not at all. `mtu` 0: what the underlay leaves.
        `resync`: seconds between looks at the whole, for what no notification tells.
        """
        self._ipam = Ipam(state_dir)
        self._cluster_cidr = cluster_cidr
        self._overlay = overlay
        self._peers: frozenset[Peer] = frozenset()
        self._bridge_name = bridge
        self._mtu = mtu
        self._resync = resync
        self._clock = clock or SystemClock()
        self._firewall = Firewall()
        self._rules_lock = asyncio.Lock()
        self._overlay_lock = asyncio.Lock()
        self._underlay = overlays.Underlay("", 0)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pool = ThreadPoolExecutor(4, "network")
        self._pod_cidr: IPv4Network | None = None
        self._bridge: BridgeSpec | None = None
        self._new: dict[str, float] = {}
        self._disturbed = asyncio.Event()
        self._told: Callable[[str], None] | None = None

    async def setup(self, pod_cidr: str) -> None:
        """Bridge, kernel parameters and rules; pods that are attached already stay so."""
        self._pod_cidr = IPv4Network(pod_cidr)
        await self._measure()
        await self._blocking(self._set_parameters)
        await self._repair_links()
        async with self._rules_lock:
            await self._firewall.apply(await self._chains())
        await self._repair_overlay()

    async def follow(self, peers: Collection[Peer]) -> None:
        """Routes, neighbours and forwarding entries for these nodes, and what is in the cluster by the rules."""
        before, self._peers = self._peers, frozenset(peers)
        if self._bridge is None:
            return  # setup does it
        if {peer.subnet for peer in before} != {peer.subnet for peer in self._peers}:
            async with self._rules_lock:
                await self._firewall.write([chain for chain in await self._chains() if chain.name in _OF_CLUSTER])
        await self._repair_overlay()

    def announcement(self) -> Peer | None:
        """Once the node has its CIDR."""
        if self._overlay is None or self._pod_cidr is None:
            return None
        mac = names.vtep_mac(self._pod_cidr.network_address) if self._overlay.backend == overlays.VXLAN else ""
        return Peer("", str(self._overlay.node_ip), str(self._pod_cidr), self._overlay.backend, mac)

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
        await self._blocking(overlay.teardown, self._overlay.device if self._overlay else names.VXLAN)
        await self._blocking(links.teardown, self._bridge_name)
        await self._blocking(self._ipam.clear)

    async def open_socket(self, pid: int, family: int = socket.AF_INET,
                          kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A non-blocking socket in the network namespace of a process; the caller closes it."""
        return await self._blocking(netns.open_socket, pid, family, kind)

    async def heal(self) -> None:
        """Put back what others took away: bridge, ports, overlay, jumps, chains, parameters."""
        await self._measure()
        await self._blocking(self._set_parameters)
        await self._repair_links()
        await self._repair_overlay()
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

    async def _measure(self) -> None:
        """The underlay's MTU, and so that of pods; it may change at any time."""
        subnet = self._subnet()
        if self._overlay is not None:
            self._underlay = await self._blocking(overlay.underlay, self._overlay.node_ip)
            mtu = self._mtu or overlays.mtu(self._overlay, self._underlay)
        else:
            mtu = self._mtu or await self._blocking(links.default_mtu)
        self._bridge = BridgeSpec(self._bridge_name, IPv4Interface((subnet.network_address + 1, subnet.prefixlen)), mtu)

    async def _repair_overlay(self) -> None:
        if self._overlay is None:
            return
        wish = overlays.wanted(self._overlay, self._subnet(), self._underlay, self._peers)
        async with self._overlay_lock:
            seen = await self._blocking(overlay.observe, self._overlay.device)
            actions = overlays.plan(wish, seen, self._overlay.device)
            if actions:
                kinds = dict.fromkeys(type(action).__name__ for action in actions)
                log.info("changing the overlay: %s", ", ".join(kinds))
                await self._blocking(overlay.apply, actions)

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
        cluster = overlays.cluster_networks(self._cluster_cidr, subnet, self._peers)
        device = self._overlay.device if self._overlay and self._overlay.backend == overlays.VXLAN else ""
        backend = await self._firewall.backend()
        return rules.chains(rules.Firewall(subnet, cluster, tuple(leases), device, backend.random_fully))

    async def _lease(self, sandbox_id: str) -> Lease | None:
        leases = await self._blocking(self._ipam.leases)
        return next((lease for lease in leases if lease.sandbox_id == sandbox_id), None)

    def _attachment(self, lease: Lease) -> Attachment:
        bridge, _ = self._ready()
        return Attachment(str(lease.ip), str(bridge.address.ip), names.veth(lease.sandbox_id), names.pod_mac(lease.ip))

    def _subnet(self) -> IPv4Network:
        if self._pod_cidr is None:
            raise NetworkError("the node has no pod CIDR yet")
        return self._pod_cidr

    def _ready(self) -> tuple[BridgeSpec, IPv4Network]:
        if self._bridge is None or self._pod_cidr is None:
            raise NetworkError("the node has no pod CIDR yet")
        return self._bridge, self._pod_cidr

    def _turn(self, sandbox_id: str) -> asyncio.Lock:
        return self._turns.setdefault(sandbox_id, asyncio.Lock())

    async def _blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))
