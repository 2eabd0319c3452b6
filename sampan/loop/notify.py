"""Tell systemd how the service is (sd_notify(3)); does nothing where systemd did not start it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from sampan.loop.clock import Clock


class Notifier:
    """Speaks the sd_notify protocol over the datagram socket named by NOTIFY_SOCKET."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_interval = int(usec) / 2_000_000 if usec.isdigit() and mine else 0.0
        """Seconds between signs of life, half of what systemd allows; 0 for none."""

    def ready(self) -> None:
        """Start-up is over."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """A sign of life for the watchdog."""
        self._send("WATCHDOG=1")

    async def keep_alive(self, clock: Clock) -> None:
        """Say from within the event loop that it moves, as often as the watchdog wants; returns where there is none."""
        while self.watchdog_interval:
            self.alive()
            await clock.sleep(self.watchdog_interval)

    def store(self, name: str, descriptors: Sequence[int]) -> None:
        """Have descriptors kept under a name for the next start (see sampan.loop.kept), until they are forgotten.

        FDPOLL=0: they are kept even where polling them reports an error.
        """
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptors)

    def forget(self, name: str) -> None:
        """No longer keep what was stored under a name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, message: str, descriptors: Sequence[int] = ()) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                if descriptors:
                    sock.connect(address)
                    socket.send_fds(sock, [message.encode()], descriptors)
                else:
                    sock.sendto(message.encode(), address)
        except OSError:
            return  # systemd does not listen, or no descriptor is left; the service's work does not depend on it
