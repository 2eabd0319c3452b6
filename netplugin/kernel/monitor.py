"""Notices when somebody else deletes or changes links, addresses or routes (rtnetlink(7) notifications)."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

_NETLINK_ROUTE = 0
_GROUPS = 0x1 | 0x10 | 0x40  # links, IPv4 addresses, IPv4 routes
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_RTM_NEWLINK, _RTM_DELLINK, _RTM_DELADDR, _RTM_DELROUTE = 16, 17, 21, 25
_IFF_UP = 1
_NEW = 0xFFFFFFFF  # what `change` is for a link that has just been made


def disturbs(data: bytes) -> bool:
    """Whether a datagram of notifications tells of something that may concern us: something went, or went down.

    What comes is mostly our own doing, and no reason to look.
    """
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return False
        if kind in (_RTM_DELLINK, _RTM_DELADDR, _RTM_DELROUTE):
            return True
        if kind == _RTM_NEWLINK and len(data) >= position + _HEADER.size + _LINK.size:
            *_, flags, change = _LINK.unpack_from(data, position + _HEADER.size)
            if change != _NEW and change & _IFF_UP and not flags & _IFF_UP:
                return True
        position += (length + 3) & ~3
    return False


async def disturbances() -> AsyncIterator[None]:
    """Yields whenever something may have been taken away in this process's network namespace, and once at first:
    what happened before is not told.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        sock.bind((0, _GROUPS))
        yield None
        while True:
            try:
                data = await loop.sock_recv(sock, 1 << 16)
            except OSError:  # ENOBUFS: notifications were lost, so look
                data = b""
            if not data or disturbs(data):
                yield None
