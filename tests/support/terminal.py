"""A pseudo-terminal to run a command in, as a user at a keyboard would."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self


class Terminal:
    """A command with a terminal of its own: type into it, read its screen, change its size.

        with Terminal(["bash"], rows=33, columns=101) as terminal:
            terminal.type("stty size\\n")
            terminal.expect("33 101")
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, rows: int = 24, columns: int = 80) -> None:
        self.screen = ""
        self._seen = 0
        self._master, slave = os.openpty()
        self.resize(rows, columns)
        # setsid makes the terminal the controlling one, so that the command is told of changes of its size.
        self.process = subprocess.Popen(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave,
                                        env={**env, "TERM": "xterm"})
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Read until the pattern appears after what was expected before."""
        deadline = time.monotonic() + timeout
        while True:
            match = re.search(pattern, self.screen[self._seen:])
            if match:
                self._seen += match.end()
                return match
            assert self._read(deadline), f"{pattern!r} did not appear in:\n{self.screen}"

    def wait(self, timeout: float = 60) -> int:
        """Read to the end, and return the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 1))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the command has closed its side
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
