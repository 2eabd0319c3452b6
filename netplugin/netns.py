"""Sockets in other network namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator

from netplugin.protocol import NetworkError

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _SIOCGIFADDR, _IFF_UP = 0x8914, 0x8915, 1


@contextlib.contextmanager
def entered(where: str) -> Iterator[None]:
    """Have the calling thread in the network namespace at that path; only for threads of an adapter's own.

    A thread that cannot go back would do everything after in the wrong namespace, so it ends the process instead.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkError(f"own network namespace: {error}") from error
    try:
        try:
            there = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NetworkError(f"{called(where)}: {error.strerror}") from error
        try:
            if libc.setns(there, _CLONE_NEWNET) != 0:
                raise NetworkError(f"{called(where)}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(there)
        try:
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os.abort()
    finally:
        os.close(home)


def of_process(pid: int) -> str:
    """The path of a process's network namespace."""
    return f"/proc/{pid}/ns/net"


def called(where: str) -> str:
    """For messages: the namespace at that path."""
    found = re.fullmatch("/proc/([0-9]+)/ns/net", where)
    return f"network namespace of process {found[1]}" if found else f"network namespace {where}"


def loopback_up(where: str) -> None:
    """Bring up `lo` in the namespace at that path. Call it in a pool thread."""
    with entered(where), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
        except OSError as error:
            raise NetworkError(f"lo in {called(where)}: {error.strerror}") from error


def has_interface(where: str, name: str) -> bool:
    """Whether the namespace at that path has such an interface. Call it in a pool thread."""
    with entered(where):
        return name in (found for _, found in socket.if_nameindex())


def address(where: str, name: str) -> str:
    """The first IPv4 address of an interface in the namespace at that path, "" for none. Call it in a pool thread."""
    with entered(where), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("16s24x", name.encode()))
        except OSError:
            return ""
        return socket.inet_ntoa(answer[20:24])


def open_socket(pid: int, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket that was made in the namespace of a process and stays there. Call it in a pool thread."""
    with entered(of_process(pid)):
        sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock
