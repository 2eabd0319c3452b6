"""Makes the kernel forget connections that lead where nobody is any more (UDP only: TCP finds out by itself)."""

from __future__ import annotations

import errno
from collections.abc import Collection

from netplugin.kernel.library import Conntrack, NetlinkError, NFCTAttrTuple
from netplugin.protocol import NetworkError

_UDP = 17


def forget_udp(ports: Collection[int]) -> None:
    """Delete the entries of UDP flows to these ports of the node. Blocks."""
    try:
        with Conntrack() as table:
            for entry in list(table.dump_entries(tuple_orig=NFCTAttrTuple(proto=_UDP))):
                if entry.tuple_orig.proto == _UDP and entry.tuple_orig.dport in ports:
                    try:
                        table.entry("del", tuple_orig=entry.tuple_orig)
                    except NetlinkError as error:
                        if error.code != errno.ENOENT:
                            raise
    except NetlinkError as error:
        raise NetworkError(f"conntrack: {error}") from error
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOENT):  # a kernel without connection tracking has none
            raise NetworkError(f"conntrack: {error}") from error
