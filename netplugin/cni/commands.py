"""ADD, DEL, CHECK and GC: the same addresses, links and rules as the agent's own pods get.

Where an agent runs on the host, it has set the network up and looks after it; else the first ADD sets it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, cast

from netplugin import description, names, netns
from netplugin.cni import spec
from netplugin.cni.settings import CniSettings
from netplugin.cni.spec import CniError, Request
from netplugin.ipam import Ipam, Lease
from netplugin.kernel import conntrack, links
from netplugin.kernel.handles import handles
from netplugin.local import LocalLinks
from netplugin.network import NodeNetwork
from netplugin.plan import BridgeSpec, PortSpec
from netplugin.pod_rules import PodRules
from netplugin.protocol import AddressesExhausted, HostPort, NetworkError, Sandbox
from netplugin.rules import POSTROUTING


def run(request: Request, wanted: CniSettings) -> Mapping[str, Any] | None:
    """The command's answer, None where it has none; CniError."""
    commands = _Commands(request, wanted)
    try:
        match request.command:
            case "ADD":
                return commands.add()
            case "DEL":
                commands.delete()
            case "CHECK":
                commands.check()
            case "GC":
                commands.collect()
    except AddressesExhausted as error:
        raise CniError(spec.TRY_AGAIN, str(error)) from error
    except NetworkError as error:
        raise CniError(spec.INTERNAL, str(error)) from error
    return None


def sandbox_id(container: str, interface: str) -> str:
    """The key of an attachment: a container may be attached more than once, under several names."""
    return container if interface == names.POD_INTERFACE else f"{interface}/{container}"


class _Commands:
    def __init__(self, request: Request, wanted: CniSettings) -> None:
        self._request = request
        self._wanted = wanted
        self._ipam = Ipam(wanted.state)
        self._id = sandbox_id(request.container, request.interface)

    def add(self) -> Mapping[str, Any]:
        request = self._request
        sandbox = self._sandbox()
        self._refuse_twice()
        network = self._network()
        bridge = self._bridge(network)
        lease = self._ipam.allocate(network.pod_cidr, sandbox)
        port = PortSpec(names.veth(self._id), lease.ip, request.interface)
        try:
            self._connect(port, bridge, network)
            if lease.host_ports:
                self._write_host_ports(network, lease)
        except NetworkError:
            self.delete()  # a failed ADD leaves nothing behind
            raise
        return spec.add_result(request.version, [
            {"name": bridge.name, "mac": bridge.mac},
            {"name": port.name, "mac": names.host_mac(lease.ip)},
            {"name": request.interface, "mac": names.pod_mac(lease.ip), "sandbox": request.netns},
        ], f"{lease.ip}/{network.pod_cidr.prefixlen}", str(bridge.address.ip))

    def delete(self) -> None:
        self._release(self._id)

    def check(self) -> None:
        """The attachment must be as ADD left it and said; CHECK repairs nothing."""
        lease = self._lease(self._id)
        if lease is None:
            raise CniError(spec.UNKNOWN_CONTAINER, f"container {self._request.container} has no address here")
        network = self._network()
        address = f"{lease.ip}/{network.pod_cidr.prefixlen}"
        said = [ip.get("address") for ip in self._request.config["prevResult"].get("ips") or ()]
        if address not in said:
            raise CniError(spec.INTERNAL, f"the container's address is {address}, prevResult has {said}")
        port = PortSpec(names.veth(self._id), lease.ip, self._request.interface)
        if not links.is_well(port, self._bridge(network), self._request.netns):
            raise CniError(spec.INTERNAL, f"{self._request.interface} in {self._request.netns} is not as ADD left it")

    def collect(self) -> None:
        """Take away what this network has given out to attachments that are not listed."""
        valid = {sandbox_id(*one) for one in spec.valid_attachments(self._request.config)}
        for lease in self._ipam.leases():
            if lease.owner == self._request.name and lease.sandbox_id not in valid:
                self._release(lease.sandbox_id)

    # -- inside

    def _sandbox(self) -> Sandbox:
        request, said = self._request, self._request.arguments
        ports = [HostPort(host, container, cast("Any", protocol), address)
                 for host, container, protocol, address in spec.port_mappings(request.config)]
        return Sandbox(self._id, 0, said.get("K8S_POD_NAMESPACE", ""), said.get("K8S_POD_NAME", ""),
                       said.get("K8S_POD_UID", ""), ports, request.name, request.netns, request.interface)

    def _refuse_twice(self) -> None:
        try:
            taken = netns.has_interface(self._request.netns, self._request.interface)
        except NetworkError as error:
            raise CniError(spec.UNKNOWN_CONTAINER, str(error)) from error
        if taken:
            raise CniError(spec.INTERNAL, f"{self._request.interface} is already there in {self._request.netns}")

    def _network(self) -> description.Description:
        """The network that is there, of the agent or of an earlier ADD; else it is made."""
        described, own = self._wanted.described, self._wanted.pod_cidr
        if own is None:
            raise CniError(spec.NOT_AVAILABLE, "the node has no pod CIDR yet")
        if described is None:
            with self._one_at_a_time():
                described = description.read(self._wanted.state)
                if described is None:
                    asyncio.run(self._set_up(own))
                    described = description.read(self._wanted.state)
            assert described is not None
        elif handles("nat", POSTROUTING) == ():
            asyncio.run(self._rules(described).apply())  # somebody has wiped them
        return described

    async def _set_up(self, own: IPv4Network) -> None:
        network = NodeNetwork(self._wanted.state, cluster_cidr=self._wanted.cluster_cidr, bridge=self._wanted.bridge)
        try:
            await network.setup(str(own))
        finally:
            await network.close()

    def _bridge(self, network: description.Description) -> BridgeSpec:
        own = network.pod_cidr
        return BridgeSpec(self._wanted.bridge, IPv4Interface((own.network_address + 1, own.prefixlen)), network.mtu)

    def _connect(self, port: PortSpec, bridge: BridgeSpec, network: description.Description) -> None:
        try:
            links.connect(port, bridge, self._request.netns)
        except NetworkError:
            # Somebody may have taken the bridge away; a second failure is the runtime's to see.
            local = LocalLinks(bridge.name)
            local.configure(network.pod_cidr, network.mtu)
            local.repair(self._ipam.leases())
            links.connect(port, bridge, self._request.netns)

    def _release(self, sandbox: str) -> None:
        """The link first and the address last, so that no address is free while something still answers to it."""
        lease = self._lease(sandbox)
        links.delete(names.veth(sandbox))
        self._ipam.release(sandbox)
        if lease is not None and lease.host_ports and self._wanted.described is not None:
            self._write_host_ports(self._wanted.described, lease)

    def _write_host_ports(self, network: description.Description, lease: Lease) -> None:
        with self._one_at_a_time():
            asyncio.run(self._rules(network).update_host_ports())
        ports = [port.host_port for port in lease.host_ports if port.protocol == "UDP"]
        if ports:
            conntrack.forget_udp(ports)

    def _rules(self, network: description.Description) -> PodRules:
        rules = PodRules("", self._leases)
        rules.know(network.pod_cidr, network.cluster, network.device)
        return rules

    async def _leases(self) -> Sequence[Lease]:
        return self._ipam.leases()

    def _lease(self, sandbox: str) -> Lease | None:
        return next((lease for lease in self._ipam.leases() if lease.sandbox_id == sandbox), None)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Of two processes that write the rules, the later one must have seen the earlier one's address."""
        path = self._wanted.state / "rules.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
