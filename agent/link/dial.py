"""Connections from the node into pods: to an address of theirs, and to their localhost."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable

CONNECT_TIMEOUT = 10.0
"""Seconds to connect to a port of a pod, TLS included."""


class DialFailed(Exception):
    """Nobody answers there; worded as Go's network library words it, because users search for it."""


async def dial(address: str, *, tls: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to host:port; DialFailed. With `tls` whoever answers is believed: pods' certificates are their own."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise DialFailed(f"dial tcp: address {port}: invalid port")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await asyncio.open_connection(host, int(port), ssl=_trusting() if tls else None)
    except TimeoutError as error:
        raise DialFailed(f"dial tcp {address}: i/o timeout") from error
    except ssl.SSLError as error:
        raise DialFailed(f"tls: {error.reason or error}") from error
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number).lower() if number in errno.errorcode else str(error)
        raise DialFailed(f"dial tcp {address}: connect: {why}") from error


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class NamespaceConnector:
    """Connects through a socket made inside the pod's network namespace."""

    def __init__(self, open_socket: Callable[[int, socket.AddressFamily], socket.socket]) -> None:
        """`open_socket(pid, family)` makes an unconnected TCP socket in the network namespace of a process."""
        self._open_socket = open_socket

    async def connect(self, pid: int, port: int) -> socket.socket:
        """Localhost of the pod, over IPv4, then IPv6; OSError where neither answers."""
        try:
            return await self._try(pid, socket.AF_INET, "127.0.0.1", port)
        except OSError as first:
            try:
                return await self._try(pid, socket.AF_INET6, "::1", port)
            except OSError:
                raise first from None

    async def _try(self, pid: int, family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        sock = await asyncio.to_thread(self._open_socket, pid, family)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock
