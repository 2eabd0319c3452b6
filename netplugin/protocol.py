"""The public face of the network plugin: what the agent asks of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, Protocol


class NetworkError(Exception):
    """The network could not be set up or taken down; the message says what failed."""


class AddressesExhausted(NetworkError):
    """The node's pod CIDR has no free address left."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that leads to a port of the pod; `host_ip` "" for every address of the node."""

    host_port: int
    container_port: int
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's network namespace. `id` is the infra container's; `pid` a process in the namespace.

    Of another runtime's container, which asks by CNI, `owner` says so; `netns` is the namespace's path then, and
    `interface` what it wants its link to be called.
    """

    id: str
    pid: int
    namespace: str
    name: str
    uid: str
    host_ports: Sequence[HostPort] = ()
    owner: str = ""
    netns: str = ""
    interface: str = "eth0"

    def __post_init__(self) -> None:
        """NetworkError for a host's address that is none: the API lets any text pass, and it would get into rules."""
        for port in self.host_ports:
            try:
                ip_address(port.host_ip or 0)
            except ValueError as error:
                raise NetworkError(f"hostIP of hostPort {port.host_port}: {error}") from error

    @property
    def where(self) -> str:
        """The path of the namespace."""
        return self.netns or f"/proc/{self.pid}/ns/net"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a sandbox got: its address, the bridge's address, the name of the veth's end on the host."""

    ip: str
    gateway: str
    interface: str
    mac: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A node as the others' networks see it.

    `address` is the one by which nodes reach it, `subnet` its pod CIDR, `mac` that of its VXLAN device ("" for none).
    """

    name: str
    address: str
    subnet: str
    backend: str = "vxlan"
    mac: str = ""


class Network(Protocol):
    """One node's pod network. Every call may be repeated and then changes nothing."""

    async def setup(self, pod_cidr: str) -> None:
        """Bring up bridge, masquerade and forwarding for the node's CIDR, or repair them."""

    async def follow(self, peers: Collection[Peer]) -> None:
        """These are the other nodes now: lead traffic for their pods there, and for no others."""

    def announcement(self) -> Peer | None:
        """What the other nodes must be told of this one; None before `setup`, or where they need nothing.

        Its `name` is empty.
        """

    async def attach(self, sandbox: Sandbox) -> Attachment:
        """Give the sandbox an address and connect it."""

    async def detach(self, sandbox_id: str) -> None:
        """Take everything of the sandbox away; needs neither its process nor its namespace."""

    async def attachment(self, sandbox_id: str) -> Attachment | None:
        """What the sandbox has, from the files on disk."""

    async def reconcile(self, live: Collection[str]) -> None:
        """Release what belongs to no sandbox in `live` (ids): addresses, veths, rules."""

    def on_lost(self, told: Callable[[str], None]) -> None:
        """Have `told` called with the id of each sandbox that has lost its link: only attaching it again mends that."""

    async def teardown(self) -> None:
        """Take bridge, veths, rules and files away."""
