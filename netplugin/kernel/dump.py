"""All links and IPv4 addresses of the thread's network namespace, read from the kernel with no library between.

rtnetlink(7) tells some 70 things of a link; pyroute2 makes an object of each, which for 30 pods takes 14 ms and 5 MB
at every look. The few that matter here are read in 1 ms.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface

_NETLINK_ROUTE = 0
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, length of the prefix, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_GETLINK, _RTM_GETADDR = 18, 22
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 4, 10, 18, 29
_IFLA_INFO_SLAVE_DATA = 5  # in IFLA_LINKINFO
_IFLA_BRPORT_MODE = 4  # in IFLA_INFO_SLAVE_DATA of a bridge's port: hairpin
_IFA_LOCAL = 2
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS
_IFF_UP = 1
_TIMEOUT = 5.0
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `master` is the index of the bridge that it is a port of, 0 for none."""

    index: int
    name: str
    up: bool
    mac: str
    mtu: int
    master: int
    hairpin: bool


def links() -> Iterator[Link]:
    """Every interface; OSError."""
    without_statistics = _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _SKIP_STATISTICS.to_bytes(4, sys.byteorder)
    return map(parse_link, _dump(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + without_statistics))


def addresses(index: int) -> frozenset[IPv4Interface]:
    """The IPv4 addresses of one interface; OSError."""
    found = set()
    for data in _dump(_RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, owner = _ADDRESS.unpack_from(data)
        local = attributes(data[_ADDRESS.size:]).get(_IFA_LOCAL)
        if owner == index and local is not None:
            found.add(IPv4Interface((local, prefix)))
    return frozenset(found)


def parse_link(data: bytes) -> Link:
    """The body of one RTM_NEWLINK."""
    _, _, index, flags, _ = _LINK.unpack_from(data)
    found = attributes(data[_LINK.size:])
    port = attributes(attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_SLAVE_DATA, b""))
    return Link(index, found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(), bool(flags & _IFF_UP),
                found.get(_IFLA_ADDRESS, b"").hex(":"), _number(found.get(_IFLA_MTU)),
                _number(found.get(_IFLA_MASTER)), bool(_number(port.get(_IFLA_BRPORT_MODE))))


def attributes(data: bytes) -> Mapping[int, bytes]:
    """A row of attributes by type."""
    found = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[position + _ATTRIBUTE.size:position + length]
        position += (length + 3) & ~3
    return found


def _dump(kind: int, question: bytes) -> Iterator[bytes]:
    """Ask for all of a kind; the bodies of the answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        sock.send(_HEADER.pack(_HEADER.size + len(question), kind, flags, 1, 0) + question)
        while True:
            data = sock.recv(_BUFFER)
            position = 0
            while position + _HEADER.size <= len(data):
                length, answer, *_ = _HEADER.unpack_from(data, position)
                body = data[position + _HEADER.size:position + length]
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    raise OSError(code, os.strerror(code))
                yield body
                position += (max(length, _HEADER.size) + 3) & ~3


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", sys.byteorder)
