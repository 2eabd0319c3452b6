"""Implements Network by a chain of CNI plugins."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from msgspec.structs import replace

from agent.network.cni import conf
from agent.network.cni.cache import VERSION, Cache, Record
from agent.network.cni.chain import Attached, Chain
from netplugin import netns
from netplugin.protocol import Attachment, NetworkError, Peer, Sandbox
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

_NEW = 60.0
"""Seconds for which a fresh attachment is safe from `reconcile`, whose list may be older than it."""
_INTERFACE = "eth0"


class CniNetwork:
    """The network is the first in `conf_dir`, read again for each sandbox; a sandbox keeps the one that it was added
    to. How pods of other nodes are reached is the plugins' business, so other nodes are not followed.
    """

    def __init__(self, conf_dir: Path, bin_dirs: Sequence[Path], state_dir: Path, clock: Clock) -> None:
        self._conf_dir = conf_dir
        self._chain = Chain(bin_dirs)
        self._cache = Cache(state_dir)
        self._clock = clock
        self._pod_cidr = ""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._new: dict[str, float] = {}
        self._changing: set[str] = set()
        self._calm = asyncio.Event()
        self._calm.set()
        self._collecting = asyncio.Lock()

    async def setup(self, pod_cidr: str) -> None:
        """The plugins are there, and say that they can attach; the CIDR is offered to those that take ranges."""
        await self._chain.status(conf.load(self._conf_dir))
        self._pod_cidr = pod_cidr

    async def follow(self, peers: Collection[Peer]) -> None:
        """See the class."""

    def announcement(self) -> Peer | None:
        """See the class."""
        return None

    async def attach(self, sandbox: Sandbox) -> Attachment:
        """Repeated, this makes the attachment anew where the sandbox has lost its link or address.

        The plugins' own CHECK is not asked, as other runtimes don't: some find fault with what is well (portmap 1.1.1
        with every IPv4 pod), and a pod would lose its address for that.
        """
        async with self._change(sandbox.id):
            self._new[sandbox.id] = self._clock.monotonic()
            known = self._cache.read(sandbox.id)
            if known is not None:
                if known.result is not None and await asyncio.to_thread(_is_well, known):
                    return attachment(known.result)
                log.warning("sandbox %s is attached again: it has lost its address", sandbox.id[:12])
                await self._delete(known)
            return await self._add(sandbox)

    async def detach(self, sandbox_id: str) -> None:
        """The record goes last: until then DEL is tried again."""
        async with self._change(sandbox_id):
            self._new.pop(sandbox_id, None)
            record = self._cache.read(sandbox_id)
            if record is not None:
                await self._delete(record)

    async def attachment(self, sandbox_id: str) -> Attachment | None:
        """From the record of ADD's result."""
        record = self._cache.read(sandbox_id)
        return attachment(record.result) if record is not None and record.result is not None else None

    async def reconcile(self, live: Collection[str]) -> None:
        """DEL for what is no longer there, then GC for what the plugins may know of beyond that."""
        now = self._clock.monotonic()
        self._new = {sandbox: since for sandbox, since in self._new.items() if now - since < _NEW}
        for record in self._cache.records():
            if record.sandbox not in live and record.sandbox not in self._new:
                log.info("detaching sandbox %s, which is gone", record.sandbox[:12])
                try:
                    await self.detach(record.sandbox)
                except NetworkError as error:
                    log.warning("sandbox %s stays attached: %s", record.sandbox[:12], error)
        try:
            network = conf.load(self._conf_dir)
            if network.number < conf.GC_SINCE:
                return
            async with self._collecting:
                await self._calm.wait()
                await self._chain.collect(network, [(record.sandbox, record.interface)
                                                    for record in self._cache.records()])
        except NetworkError as error:
            log.warning("CNI plugins cannot collect garbage: %s", error)

    def on_lost(self, told: Callable[[str], None]) -> None:
        """Plugins tell of nothing."""

    async def teardown(self) -> None:
        """Detach all."""
        for record in self._cache.records():
            await self.detach(record.sandbox)

    async def run(self) -> None:
        """Nothing is watched: what plugins have made is theirs to keep."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is held."""

    # -- inside

    async def _add(self, sandbox: Sandbox) -> Attachment:
        network = conf.load(self._conf_dir)
        await asyncio.to_thread(netns.loopback_up, sandbox.where)
        record = Record(VERSION, sandbox.id, sandbox.where, _inode(sandbox.where), _INTERFACE, conf.as_tree(network), {
            "IgnoreUnknown": "1", "K8S_POD_NAMESPACE": sandbox.namespace, "K8S_POD_NAME": sandbox.name,
            "K8S_POD_INFRA_CONTAINER_ID": sandbox.id, "K8S_POD_UID": sandbox.uid,
        }, conf.offers(self._pod_cidr, sandbox.host_ports))
        self._cache.save(record)
        try:
            result = await self._chain.add(network, _attached(record))
            got = attachment(result)
        except NetworkError:
            try:
                await self._delete(record)  # what the plugins before the failed one have done
            except NetworkError as error:
                log.warning("sandbox %s: %s", sandbox.id[:12], error)
            raise
        self._cache.save(replace(record, result=dict(result)))
        return got

    async def _delete(self, record: Record) -> None:
        # A namespace that is gone must not be named: plugins would fail to enter it, or take links from another one.
        there = _inode(record.netns) == record.inode
        attached = _attached(record if there else replace(record, netns=""))
        await self._chain.delete(_network(record), attached, record.result)
        self._cache.drop(record.sandbox)

    @contextlib.asynccontextmanager
    async def _change(self, sandbox_id: str) -> AsyncIterator[None]:
        """A sandbox's changes come one after another, and none while garbage is collected (the specification's
        section 3): what is attached then is not on GC's list, and would lose its address.
        """
        async with self._turns.setdefault(sandbox_id, asyncio.Lock()):
            async with self._collecting:
                self._changing.add(sandbox_id)
                self._calm.clear()
            try:
                yield
            finally:
                self._changing.discard(sandbox_id)
                if not self._changing:
                    self._calm.set()


def attachment(result: Mapping[str, Any]) -> Attachment:
    """What a result of any version from 0.3.0 says; NetworkError where there is no IPv4 address in it."""
    try:
        links = result.get("interfaces") or []
        inside = {link["name"]: link for link in links if link.get("sandbox")}
        outside = [link["name"] for link in links if not link.get("sandbox")]
        for ip in result.get("ips") or []:
            if ":" not in ip["address"]:
                # The bridge, if there is one, comes first; a link of the container's own comes after it.
                return Attachment(str(IPv4Interface(ip["address"]).ip), ip.get("gateway") or "",
                                  outside[-1] if outside else "", inside.get(_INTERFACE, {}).get("mac") or "")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NetworkError(f"the CNI plugins' result cannot be read: {error!r}") from error
    raise NetworkError("the CNI plugins' result has no IPv4 address")


def _is_well(record: Record) -> bool:
    """Whether the sandbox has the address that ADD gave it."""
    if record.result is None or _inode(record.netns) != record.inode:
        return False
    return netns.address(record.netns, record.interface) == attachment(record.result).ip


def _inode(netns: str) -> int:
    """Which namespace it is; 0 where there is none."""
    try:
        return Path(netns).stat().st_ino
    except OSError:
        return 0


def _network(record: Record) -> conf.NetworkConf:
    try:
        return conf.parse(record.network)
    except ValueError as error:
        raise NetworkError(f"the record of sandbox {record.sandbox[:12]} cannot be read: {error}") from error


def _attached(record: Record) -> Attached:
    return Attached(record.sandbox, record.netns, record.interface, record.arguments, record.offered)
