"""A pod network in memory, for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network

from netplugin import names
from netplugin.ipam import next_free
from netplugin.protocol import Attachment, NetworkError, Peer, Sandbox


class FakeNetwork:
    """Gives out addresses as the real one does. `broken`: what the next attach raises; `broken_setup` and
    `broken_follow`: what these raise; `calls`: what was asked.
    """

    def __init__(self) -> None:
        self._subnet: IPv4Network | None = None
        self._last: IPv4Address | None = None
        self.attachments: dict[str, Attachment] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.broken: NetworkError | None = None
        self.broken_setup: NetworkError | None = None
        self.broken_follow: NetworkError | None = None
        self.calls: list[tuple[str, str]] = []
        self.peers: set[Peer] = set()
        self._told: list[Callable[[str], None]] = []

    async def setup(self, pod_cidr: str) -> None:
        """Remember the CIDR."""
        self.calls.append(("setup", pod_cidr))
        if self.broken_setup is not None:
            raise self.broken_setup
        self._subnet = IPv4Network(pod_cidr)

    async def follow(self, peers: Collection[Peer]) -> None:
        """Remember them."""
        self.calls.append(("follow", ""))
        if self.broken_follow is not None:
            raise self.broken_follow
        self.peers = set(peers)

    def announcement(self) -> Peer | None:
        """As that of a node with VXLAN at 192.0.2.1."""
        if self._subnet is None:
            return None
        return Peer("", "192.0.2.1", str(self._subnet), "vxlan", names.vtep_mac(self._subnet.network_address))

    async def attach(self, sandbox: Sandbox) -> Attachment:
        """The next free address."""
        self.calls.append(("attach", sandbox.id))
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        if self._subnet is None:
            raise NetworkError("the node has no pod CIDR yet")
        if sandbox.id not in self.attachments:
            taken = {IPv4Address(attachment.ip) for attachment in self.attachments.values()}
            ip = self._last = next_free(self._subnet, taken, self._last)
            self.attachments[sandbox.id] = Attachment(str(ip), str(self._subnet.network_address + 1),
                                                      names.veth(sandbox.id), names.pod_mac(ip))
        self.sandboxes[sandbox.id] = sandbox
        return self.attachments[sandbox.id]

    async def detach(self, sandbox_id: str) -> None:
        """Free the address."""
        self.calls.append(("detach", sandbox_id))
        self.attachments.pop(sandbox_id, None)
        self.sandboxes.pop(sandbox_id, None)

    async def attachment(self, sandbox_id: str) -> Attachment | None:
        """What the sandbox has."""
        return self.attachments.get(sandbox_id)

    async def reconcile(self, live: Collection[str]) -> None:
        """Free what no live sandbox has."""
        self.calls.append(("reconcile", ""))
        for sandbox_id in self.attachments.keys() - set(live):
            await self.detach(sandbox_id)

    def on_lost(self, told: Callable[[str], None]) -> None:
        """`lose` calls it."""
        self._told.append(told)

    def lose(self, sandbox_id: str) -> None:
        """Pretend that somebody deleted a sandbox's link."""
        for told in self._told:
            told(sandbox_id)

    async def teardown(self) -> None:
        """Free everything."""
        self.attachments.clear()
        self.sandboxes.clear()
