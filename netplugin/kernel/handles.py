"""Which rules a chain has, by the numbers that the kernel gave them: whether somebody changed it, in microseconds.

nf_tables gives each rule a handle that is never used again, so a chain with the same handles is the same chain. To
have its rules printed takes a process, and milliseconds to seconds in a table of 60,000.
"""

from __future__ import annotations

import os
import socket
import struct

from netplugin.kernel.dump import attributes

_NETLINK_NETFILTER = 12
_NFT_MSG_GETRULE = 10 << 8 | 7  # NFNL_SUBSYS_NFTABLES in the upper byte
_NFPROTO_IPV4 = 2
_NFTA_RULE_TABLE, _NFTA_RULE_CHAIN, _NFTA_RULE_HANDLE = 1, 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT = 2.0
_TRIES = 5


def handles(table: str, chain: str) -> tuple[int, ...] | None:
    """The chain's rules in order; none for a chain that is not there. None where the kernel cannot tell."""
    body = (_GENERIC.pack(_NFPROTO_IPV4, 0, 0) + _text(_NFTA_RULE_TABLE, table) + _text(_NFTA_RULE_CHAIN, chain))
    request = _HEADER.pack(_HEADER.size + len(body), _NFT_MSG_GETRULE, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body
    for _ in range(_TRIES):
        try:
            return tuple(_ask(request))
        except InterruptedError:
            continue  # somebody is changing rules just now
        except OSError:
            break
    return None


def _ask(request: bytes) -> list[int]:
    found: list[int] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        sock.settimeout(_TIMEOUT)
        sock.send(request)
        while not _take(sock.recv(1 << 16), found):
            continue
    return found


def _take(data: bytes, found: list[int]) -> bool:
    """Whether that was all; InterruptedError where the rules changed meanwhile, OSError where the kernel refuses."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, *_ = _HEADER.unpack_from(data, position)
        if flags & _NLM_F_DUMP_INTR:
            raise InterruptedError
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", data, position + _HEADER.size)[0]
            raise OSError(code, os.strerror(code))  # EINTR is an InterruptedError
        if kind == _NLMSG_DONE:
            return True
        told = attributes(data[position + _HEADER.size + _GENERIC.size:position + length])
        found.append(int.from_bytes(told.get(_NFTA_RULE_HANDLE, b""), "big"))
        position += (max(length, _HEADER.size) + 3) & ~3
    return False


def _text(kind: int, text: str) -> bytes:
    data = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)
