"""Links, IPv4 addresses, routes, neighbours and forwarding entries of the thread's network namespace, read from the
kernel with no library between.

rtnetlink(7) tells some 70 things of a link; pyroute2 makes an object of each, which for 30 pods takes 14 ms and 5 MB
at every look. The few that matter here are read in 1 ms.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

_NETLINK_ROUTE = 0
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, length of the prefix, flags, scope, index
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, prefixes, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH = 18, 22, 26, 30
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 4, 10, 18, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_DATA = 1, 2, 5  # in IFLA_LINKINFO
_IFLA_VXLAN_ID, _IFLA_VXLAN_LOCAL, _IFLA_VXLAN_LEARNING, _IFLA_VXLAN_PORT = 1, 4, 7, 15  # in IFLA_INFO_DATA
_IFLA_BRPORT_MODE = 4  # in IFLA_INFO_SLAVE_DATA of a bridge's port: hairpin
_IFA_LOCAL = 2
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NUD_PERMANENT = 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_RTNH_F_ONLINK = 4
_MAIN = 254  # the main routing table
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12  # has the kernel sort out what was not asked for (Linux 4.20)
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


@dataclass(frozen=True, slots=True)
class Vxlan:
    """What is particular to a link of kind `vxlan`; of another kind, all but `kind` is empty."""

    kind: str
    vni: int
    port: int
    local: IPv4Address | None
    learning: bool


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route of the main table with a gateway. `link` is an index."""

    subnet: IPv4Network
    gateway: IPv4Address
    link: int
    onlink: bool
    protocol: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of a link's neighbour or forwarding table. `address` is None where it has none that is IPv4."""

    link: int
    mac: str
    address: IPv4Address | None
    permanent: bool


def links() -> Iterator[Link]:
    """Every interface; OSError."""
    without_statistics = _attribute(_IFLA_EXT_MASK, _SKIP_STATISTICS)
    return map(parse_link, _dump(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + without_statistics))


def addresses(index: int) -> frozenset[IPv4Interface]:
    """The IPv4 addresses of one interface; OSError."""
    return frozenset(address for owner, address in all_addresses() if owner == index)


def all_addresses() -> Iterator[tuple[int, IPv4Interface]]:
    """Every IPv4 address with the index of its interface; OSError."""
    for data in _dump(_RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, owner = _ADDRESS.unpack_from(data)
        local = attributes(data[_ADDRESS.size:]).get(_IFA_LOCAL)
        if local is not None:
            yield owner, IPv4Interface((local, prefix))


def link(index: int) -> tuple[Link, Vxlan]:
    """One interface with what is particular to a VXLAN device; OSError (ENODEV) where there is none."""
    data = next(iter(_ask(_RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0), dump=False)))
    return parse_link(data), parse_vxlan(data)


def routes(protocol: int) -> Iterator[Route]:
    """The routes of the main table that are marked with that protocol (who made them); OSError."""
    question = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _MAIN, protocol, 0, 0, 0)
    for data in _dump(_RTM_GETROUTE, question):
        found = parse_route(data)
        if found is not None and found.protocol == protocol:
            yield found


def neighbours(index: int) -> Iterator[Neighbour]:
    """The neighbour table (ARP) of one link; OSError."""
    for data in _dump(_RTM_GETNEIGH, _neighbours_of(socket.AF_INET, 0) + _attribute(_NDA_IFINDEX, index)):
        found = parse_neighbour(data)
        if found.link == index:
            yield found


def forwarding(index: int) -> Iterator[Neighbour]:
    """The forwarding table (FDB) of one link, a VXLAN device's for example; OSError."""
    for data in _dump(_RTM_GETNEIGH, _neighbours_of(socket.AF_BRIDGE, index)):
        found = parse_neighbour(data)
        if found.link == index:
            yield found


def parse_vxlan(data: bytes) -> Vxlan:
    """The body of one RTM_NEWLINK."""
    info = attributes(attributes(data[_LINK.size:]).get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    found = attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "vxlan" else {}
    local = found.get(_IFLA_VXLAN_LOCAL)
    return Vxlan(kind, _number(found.get(_IFLA_VXLAN_ID)), int.from_bytes(found.get(_IFLA_VXLAN_PORT, b""), "big"),
                 IPv4Address(local) if local else None, bool(_number(found.get(_IFLA_VXLAN_LEARNING))))


def parse_route(data: bytes) -> Route | None:
    """The body of one RTM_NEWROUTE; None for what leads to more than one gateway or to none, or is of other tables."""
    _, prefix, _, _, table, protocol, _, _, flags = _ROUTE.unpack_from(data)
    found = attributes(data[_ROUTE.size:])
    gateway, destination = found.get(_RTA_GATEWAY), found.get(_RTA_DST, bytes(4))
    if gateway is None or (_number(found.get(_RTA_TABLE)) != _MAIN and table != _MAIN):
        return None
    return Route(IPv4Network((destination, prefix)), IPv4Address(gateway), _number(found.get(_RTA_OIF)),
                 bool(flags & _RTNH_F_ONLINK), protocol)


def parse_neighbour(data: bytes) -> Neighbour:
    """The body of one RTM_NEWNEIGH."""
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(data)
    found = attributes(data[_NEIGHBOUR.size:])
    address = found.get(_NDA_DST, b"")
    return Neighbour(index, found.get(_NDA_LLADDR, b"").hex(":"), IPv4Address(address) if len(address) == 4 else None,
                     bool(state & _NUD_PERMANENT))


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


def _neighbours_of(family: int, index: int) -> bytes:
    return _NEIGHBOUR.pack(family, index, 0, 0, 0)


def _attribute(kind: int, number: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + number.to_bytes(4, sys.byteorder)


def _dump(kind: int, question: bytes) -> Iterator[bytes]:
    """Ask for all of a kind; the bodies of the answers."""
    return _ask(kind, question, dump=True)


def _ask(kind: int, question: bytes, *, dump: bool) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        with contextlib.suppress(OSError):  # an older kernel tells too much, and we look again
            sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
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
            if not dump:
                return


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", sys.byteorder)
