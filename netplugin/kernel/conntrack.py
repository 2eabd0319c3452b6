"""Makes the kernel forget connections that lead where nobody is any more (UDP only: TCP finds out by itself).

The table of connections may hold 100,000 of them, so they are read with no library between: nfnetlink's messages are
rows of attributes, as in `linux/netfilter/nfnetlink_conntrack.h`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator

from netplugin.conntrack import Flow
from netplugin.kernel.dump import attributes
from netplugin.protocol import NetworkError

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK in the upper byte
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_SOURCE, _DESTINATION = 1, 2
_PROTOCOL_NUMBER, _DESTINATION_PORT = 1, 3
_BUFFER = 1 << 18
_TIMEOUT = 10.0


def forget(stale: Callable[[Flow], bool]) -> int:
    """Delete the entries of the UDP flows that `stale` chooses; how many. Blocks."""
    forgotten = 0
    try:
        with _socket() as sock:
            for entry in [entry for entry, flow in _udp(sock) if stale(flow)]:
                forgotten += _delete(sock, entry)
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOENT):  # a kernel without connection tracking has none
            raise NetworkError(f"conntrack: {error}") from error
    return forgotten


def forget_udp(ports: Collection[int]) -> int:
    """Delete the entries of UDP flows to these ports of the node. Blocks."""
    return forget(lambda flow: flow.port in ports)


def read_flow(told: dict[int, bytes]) -> Flow | None:
    """An entry's flow; None for one that is not UDP over IPv4."""
    sent, answered = attributes(told.get(_TUPLE_ORIGINAL, b"")), attributes(told.get(_TUPLE_REPLY, b""))
    protocol = attributes(sent.get(_TUPLE_PROTOCOL, b""))
    if protocol.get(_PROTOCOL_NUMBER, b"")[:1] != bytes([socket.IPPROTO_UDP]):
        return None
    destination = attributes(sent.get(_TUPLE_IP, b"")).get(_DESTINATION)
    source = attributes(answered.get(_TUPLE_IP, b"")).get(_SOURCE)
    if destination is None or source is None:
        return None
    port = int.from_bytes(protocol.get(_DESTINATION_PORT, b"")[:2], "big")
    return Flow(socket.inet_ntoa(destination), port, socket.inet_ntoa(source))


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    sock.settimeout(_TIMEOUT)
    return sock


def _udp(sock: socket.socket) -> Iterator[tuple[dict[int, bytes], Flow]]:
    sock.send(_message(_CT_GET, _REQUEST | _DUMP, b""))
    while True:
        data = sock.recv(_BUFFER)
        position = 0
        while position + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            if kind == _DONE:
                return
            body = data[position + _HEADER.size:position + length]
            if kind == _ERROR:
                _check(body)
            told = dict(attributes(body[_GENERIC.size:]))
            flow = read_flow(told)
            if flow is not None:
                yield told, flow
            position += (length + 3) & ~3


def _delete(sock: socket.socket, entry: dict[int, bytes]) -> int:
    """By its addresses and its id, so that a flow that has begun anew meanwhile is left alone."""
    body = b"".join(_attribute(kind, entry[kind]) for kind in (_TUPLE_ORIGINAL, _ZONE, _ID) if kind in entry)
    sock.send(_message(_CT_DELETE, _REQUEST | _ACK, body))
    data = sock.recv(_BUFFER)
    try:
        _check(data[_HEADER.size:])
    except FileNotFoundError:
        return 0  # it has ended by itself
    return 1


def _message(kind: int, flags: int, body: bytes) -> bytes:
    generic = _GENERIC.pack(socket.AF_INET, 0, 0)
    return _HEADER.pack(_HEADER.size + len(generic) + len(body), kind, flags, 1, 0) + generic + body


def _attribute(kind: int, value: bytes) -> bytes:
    nested = _NESTED if kind == _TUPLE_ORIGINAL else 0
    data = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind | nested) + value
    return data + bytes(-len(data) % 4)


def _check(body: bytes) -> None:
    code = -struct.unpack_from("=i", body)[0]
    if code:
        raise OSError(code, os.strerror(code))
