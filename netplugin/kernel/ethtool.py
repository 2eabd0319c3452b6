"""Whether a device's checksums are left to hardware (or, between virtual devices, left out): ethtool's ioctl."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17


def checksum_offload(name: str) -> bool:
    """Whether the device takes packets without checksums to send (`tx-checksumming` of `ethtool -k`); OSError."""
    return bool(_call(name, _ETHTOOL_GTXCSUM, 0))


def set_checksum_offload(name: str, on: bool) -> None:
    """As `ethtool -K NAME tx on|off`; OSError."""
    _call(name, _ETHTOOL_STXCSUM, int(on))


def _call(name: str, command: int, value: int) -> int:
    data = ctypes.create_string_buffer(struct.pack("=II", command, value))  # struct ethtool_value
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(data))  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return int(struct.unpack("=II", data.raw[:8])[1])
