"""Notices when somebody else takes away or changes links, addresses, routes, neighbours (rtnetlink(7)) or rules."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network

from netplugin.kernel.dump import attributes

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_LINKS, _NEIGHBOURS, _ADDRESSES, _ROUTES = 0x1, 0x4, 0x10, 0x40  # groups; the last two of IPv4
_RULES = 1 << 6  # NFNLGRP_NFTABLES
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, length of the prefix, flags, scope, index
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, prefixes, tos, table, protocol, scope, type, flags
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE, _RTM_DELROUTE = 16, 17, 20, 21, 24, 25
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_RTA_DST = 1
_IFF_UP = 1
_NEW = 0xFFFFFFFF  # what `change` is for a link that has just been made

_NFT_MSG_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES in the upper byte: a transaction has ended
_SO_ATTACH_FILTER = 26


@dataclass(frozen=True, slots=True)
class Concern:
    """What else than losses matters: any change of the underlay or our device or its tables, or of these routes."""

    underlay: str = ""
    device: str = ""
    subnets: frozenset[IPv4Network] = frozenset()


def disturbs(data: bytes, underlay: int = -1, device: int = -1,
             subnets: frozenset[IPv4Network] = frozenset()) -> bool:
    """Whether a datagram of notifications tells of something that may concern us.

    Of most things, only that they went, or went down: what comes is mostly our own doing, and no reason to look. Of
    a few, by index or destination, any change.
    """
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return False
        if _matters(kind, data[position + _HEADER.size:position + length], underlay, device, subnets):
            return True
        position += (length + 3) & ~3
    return False


def _matters(kind: int, body: bytes, underlay: int, device: int, subnets: frozenset[IPv4Network]) -> bool:
    if kind in (_RTM_DELLINK, _RTM_DELADDR, _RTM_DELROUTE):
        return True
    if kind == _RTM_NEWLINK and len(body) >= _LINK.size:
        _, _, index, flags, change = _LINK.unpack_from(body)
        return index in (underlay, device) or (change != _NEW and bool(change & _IFF_UP) and not flags & _IFF_UP)
    if kind == _RTM_NEWADDR and len(body) >= _ADDRESS.size:
        return _ADDRESS.unpack_from(body)[4] in (underlay, device)
    if kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH) and len(body) >= _NEIGHBOUR.size:
        return bool(_NEIGHBOUR.unpack_from(body)[1] == device)
    if kind == _RTM_NEWROUTE and len(body) >= _ROUTE.size:
        destination = attributes(body[_ROUTE.size:]).get(_RTA_DST, b"")
        return len(destination) == 4 and IPv4Network((destination, body[1]), strict=False) in subnets
    return False


async def disturbances(concern: Callable[[], Concern] = Concern) -> AsyncIterator[None]:
    """Yields whenever something may have been taken away in this process's network namespace, and once at first:
    what happened before is not told.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        sock.bind((0, _LINKS | _NEIGHBOURS | _ADDRESSES | _ROUTES))
        yield None
        while True:
            try:
                data = await loop.sock_recv(sock, 1 << 16)
            except OSError:  # ENOBUFS: notifications were lost, so look
                data = b""
            now = concern()
            if not data or disturbs(data, _index(now.underlay), _index(now.device), now.subnets):
                yield None


async def rule_changes() -> AsyncIterator[None]:
    """Yields after each transaction that changed nf_tables in this process's network namespace, and once at first.

    The kernel tells of every single rule; a filter in it lets nothing pass but the end of the transaction, so that
    whoever writes ten thousand rules wakes us once. Never yields again where iptables is of the legacy kind.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        sock.setblocking(False)
        _let_pass_only(sock, _NFT_MSG_NEWGEN)
        sock.bind((0, _RULES))
        yield None
        while True:
            with contextlib.suppress(OSError):  # ENOBUFS: notifications were lost, which is news as well
                await loop.sock_recv(sock, 1 << 12)
            yield None


def _index(name: str) -> int:
    """-1, which no link has, where it is not there: that it went has been told."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return -1


def _let_pass_only(sock: socket.socket, kind: int) -> None:
    """A classic BPF program: messages of that type whole, of others nothing."""
    swapped = int.from_bytes(struct.pack("=H", kind), "big")  # BPF reads in network order, netlink has the host's
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in (
        (0x28, 0, 0, 4),  # load the half word at 4, the type
        (0x15, 0, 1, swapped),  # equal?
        (0x06, 0, 0, 0xFFFFFFFF),  # all of it
        (0x06, 0, 0, 0)))  # nothing
    code = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
