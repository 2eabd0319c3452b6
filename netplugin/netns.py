"""Sockets in other network namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Iterator

from netplugin.protocol import NetworkError

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def entered(pid: int) -> Iterator[None]:
    """Have the calling thread in the network namespace of a process; only for threads of an adapter's own.

    A thread that cannot go back would do everything after in the wrong namespace, so it ends the process instead.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkError(f"own network namespace: {error}") from error
    try:
        try:
            there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NetworkError(f"network namespace of process {pid}: {error}") from error
        try:
            if libc.setns(there, _CLONE_NEWNET) != 0:
                raise NetworkError(f"network namespace of process {pid}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(there)
        try:
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os.abort()
    finally:
        os.close(home)


def open_socket(pid: int, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket that was made in the namespace of a process and stays there. Call it in a pool thread."""
    with entered(pid):
        sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock
