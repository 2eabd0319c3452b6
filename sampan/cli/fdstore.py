"""Keeps open files for a service while it is restarted: systemd's file descriptor store, for hosts without systemd.

The service sends ``FDSTORE=1`` with the descriptors to its NOTIFY_SOCKET, and gets them back at its next start as
descriptors 3, 4, … with LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID (sd_notify(3), sd_listen_fds(3),
https://systemd.io/FILE_DESCRIPTOR_STORE). A listening socket kept so refuses nobody while its service is away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

FIRST = 3
"""The first descriptor after stdin, stdout and stderr: where services look for theirs."""
LIMIT = 64
"""Descriptors that are kept at most; what comes after that is closed, as systemd does."""
MESSAGE = 8192
"""Bytes of one message."""


class FdStore:
    """The notify socket of one service and what it has stored there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        path.chmod(0o600)
        self._kept: list[tuple[str, int]] = []

    @property
    def names(self) -> list[str]:
        """Of what is kept, in the order in which it is handed out."""
        return [name for name, _ in self._kept]

    def receive(self) -> None:
        """Take in all messages that have come; what is no message of the store is dropped."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, MESSAGE, LIMIT)
            except OSError:  # BlockingIOError: no more
                return
            lines = data.decode(errors="replace").splitlines()
            fields = dict(line.split("=", 1) for line in lines if "=" in line)
            name = fields.get("FDNAME", "stored")
            if fields.get("FDSTOREREMOVE") == "1":
                self._remove(name)
            for descriptor in descriptors:
                if fields.get("FDSTORE") != "1" or not self._keep(name, descriptor):
                    os.close(descriptor)

    def hand_over(self) -> dict[str, str]:
        """In the forked child: put the descriptors where the service looks for them; returns its environment."""
        environment = {"NOTIFY_SOCKET": str(self.path)}
        if not self._kept:
            return environment
        above = FIRST + len(self._kept)
        copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for _, descriptor in self._kept]
        for number, copy in enumerate(copies, FIRST):
            os.dup2(copy, number)
        return environment | {"LISTEN_FDS": str(len(copies)), "LISTEN_FDNAMES": ":".join(self.names),
                              "LISTEN_PID": str(os.getpid())}

    def close(self) -> None:
        """Close everything, and take the socket away."""
        for _, descriptor in self._kept:
            os.close(descriptor)
        self._kept.clear()
        self.socket.close()
        self.path.unlink(missing_ok=True)

    def _keep(self, name: str, descriptor: int) -> bool:
        """False for what is kept already (systemd compares the files too) or beyond the limit."""
        identity = _identity(descriptor)
        if len(self._kept) >= LIMIT or any(_identity(kept) == identity for _, kept in self._kept):
            return False
        self._kept.append((name, descriptor))
        return True

    def _remove(self, name: str) -> None:
        for kept in [kept for kept in self._kept if kept[0] == name]:
            with contextlib.suppress(OSError):
                os.close(kept[1])
            self._kept.remove(kept)


def _identity(descriptor: int) -> tuple[int, int, int]:
    """What tells files apart; the access mode tells a pipe's ends apart."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
