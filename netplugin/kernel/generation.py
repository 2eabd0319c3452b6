"""The number of changes to this namespace's nf_tables: asking for it takes microseconds, reading rules does not."""

from __future__ import annotations

import socket
import struct

_NETLINK_NETFILTER = 12
_NFT_MSG_GETGEN = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES in the upper byte
_NFTA_GEN_ID = 1
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")


def generation() -> int | None:
    """Changed since last time means: somebody changed a rule. None where the kernel has no nf_tables."""
    length = _HEADER.size + _GENERIC.size
    request = _HEADER.pack(length, _NFT_MSG_GETGEN, _NLM_F_REQUEST, 1, 0) + _GENERIC.pack(0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
            sock.settimeout(1.0)
            sock.send(request)
            return parse_generation(sock.recv(4096))
    except OSError:
        return None


def parse_generation(data: bytes) -> int | None:
    """The answer's attribute NFTA_GEN_ID, which is big-endian; None where it has none (an error, say)."""
    position = _HEADER.size + _GENERIC.size
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return None
        if kind & 0x3FFF == _NFTA_GEN_ID:
            return int.from_bytes(data[position + _ATTRIBUTE.size:position + length], "big")
        position += (length + 3) & ~3
    return None
