"""What the kernel tells of its rules without printing them: chains with the count of their uses, sizes of tables.

Reading 60,000 rules with iptables-save takes a second and more; this takes some 60 ms, enough to see that one of
them is missing.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Collection, Mapping

from netplugin.kernel.dump import attributes
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId

_NETLINK_NETFILTER = 12
_NFT_MSG_GETCHAIN = 10 << 8 | 4  # NFNL_SUBSYS_NFTABLES in the upper byte
_NFPROTO_IPV4 = 2
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_USE = 1, 3, 6
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLM_F_DUMP_INTR = 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_USE = struct.Struct(">I")
_BUFFER = 1 << 18
_TIMEOUT = 10.0

_IPT_SO_GET_INFO = 64
_INFO = struct.Struct("=32sI5I5III")  # ipt_getinfo: name, valid hooks, entries, underflows, count of rules, size


def chain_uses(tables: Collection[str]) -> dict[ChainId, int] | None:
    """These tables' chains, each with its rules and the rules that lead to it counted together. Blocks.

    None when the rules were changed meanwhile, NetworkError when the kernel refuses.
    """
    body = _GENERIC.pack(_NFPROTO_IPV4, 0, 0)
    request = _HEADER.pack(_HEADER.size + len(body), _NFT_MSG_GETCHAIN, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body
    found: dict[ChainId, int] = {}
    wanted = {table.encode(): table for table in tables}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
            sock.settimeout(_TIMEOUT)
            sock.send(request)
            while True:
                data = sock.recv(_BUFFER)
                position = 0
                while position + _HEADER.size <= len(data):
                    length, kind, flags, *_ = _HEADER.unpack_from(data, position)
                    if flags & _NLM_F_DUMP_INTR:
                        return None
                    if kind == _NLMSG_DONE:
                        return found
                    if kind == _NLMSG_ERROR:
                        raise _refused(data[position + _HEADER.size:])
                    _add(found, wanted, data[position + _HEADER.size + _GENERIC.size:position + length])
                    position += (length + 3) & ~3
    except OSError as error:
        raise NetworkError(f"the kernel's chains cannot be read: {error}") from error


def _refused(message: bytes) -> OSError:
    code = -struct.unpack_from("=i", message)[0]
    return OSError(code, os.strerror(code))


def _add(found: dict[ChainId, int], tables: Mapping[bytes, str], message: bytes) -> None:
    told = attributes(message)
    table = tables.get(told.get(_NFTA_CHAIN_TABLE, b"").rstrip(b"\0"))
    if table is not None and _NFTA_CHAIN_NAME in told:
        name = told[_NFTA_CHAIN_NAME].rstrip(b"\0").decode(errors="replace")
        found[ChainId(table, name)] = _USE.unpack(told.get(_NFTA_CHAIN_USE, bytes(4)))[0]


def legacy_size(table: str) -> tuple[int, int] | None:
    """How many rules and how many bytes a table of legacy iptables has: any change of rules changes one of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    info = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
            if libc.getsockopt(sock.fileno(), socket.SOL_IP, _IPT_SO_GET_INFO, info, ctypes.byref(length)) != 0:
                return None
    except OSError:
        return None
    *_, count, size = _INFO.unpack(info.raw)
    return count, size
