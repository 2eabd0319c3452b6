"""Sockets that outlive a restart of the service: whoever supervises it keeps them meanwhile.

systemd's file descriptor store (sd_pid_notify_with_fds(3), FileDescriptorStoreMax= in the unit) and our own
supervisor both do so: a descriptor is handed over once under a name, and passed in again at the next start
(sd_listen_fds(3): LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID). What clients send while nobody reads waits in the kernel.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from sampan.loop.notify import Notifier

FIRST = 3
"""The first descriptor that is passed in, after standard input, output and error."""

log = logging.getLogger(__name__)


class KeptSockets:
    """The sockets that were passed in at start, and a way to have more kept.

    A supervisor that cannot know its child's process id beforehand may leave LISTEN_PID out.
    """

    def __init__(self, notifier: Notifier, environ: MutableMapping[str, str] = os.environ, first: int = FIRST) -> None:
        self._notifier = notifier
        self._sockets: dict[str, list[socket.socket]] = {}
        count = environ.pop("LISTEN_FDS", "0")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        mine = environ.pop("LISTEN_PID", "") in ("", str(os.getpid()))
        for index in range(int(count) if count.isdigit() and mine else 0):
            name = names[index] if index < len(names) else "unknown"
            try:
                os.set_inheritable(first + index, False)
                self._sockets.setdefault(name, []).append(socket.socket(fileno=first + index))
            except OSError as error:
                log.warning("descriptor %d (%s), passed in at start, is no socket: %s", first + index, name, error)

    def take(self, name: str) -> list[socket.socket]:
        """The sockets kept under a name, once; the caller closes them, which does not end their being kept."""
        return self._sockets.pop(name, [])

    def keep(self, name: str, sock: socket.socket) -> None:
        """Have a socket passed in at the next start; repeated for the same one, this changes nothing."""
        self._notifier.store(name, [sock.fileno()])

    def drop(self, name: str) -> None:
        """No longer keep what was kept under the name."""
        self._notifier.forget(name)
