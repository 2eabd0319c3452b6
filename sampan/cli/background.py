"""One process under our own supervisor, found again by its pid file."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

START_SECONDS = 30.0
STOP_SECONDS = 60.0
HOLD_SECONDS = 1.0
ENVIRONMENT = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
"""What the unit files set too: keeps gRPC's own lines out of the logs."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """A supervisor and the process that it keeps running."""

    pidfile: Path
    log: Path

    @property
    def pid(self) -> int:
        """The supervisor's process id; 0 where it does not run. A pid that somebody else has by now is not ours."""
        try:
            pid = int(self.pidfile.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return pid if str(self.pidfile).encode() in command and _state(pid) not in ("", "Z") else 0

    @property
    def child(self) -> int:
        """The process id of what the supervisor keeps running; 0 where there is none at the moment."""
        pid = self.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else []
        except OSError:
            return 0
        return int(children[0]) if children else 0

    def launch(self, command: Sequence[str]) -> list[str]:
        """The command line that starts the supervisor; it returns once the pid file is written."""
        return [sys.executable, "-m", "sampan.cli.supervisor", "--pidfile", str(self.pidfile), "--log", str(self.log),
                "--", *command]

    def restart(self, *, kill: bool = False) -> None:
        """Have the supervisor end its process and start it again at once; with `kill` the process crashes first."""
        pid, child = self.pid, self.child
        if kill and child:
            with _Handle(child) as handle:
                handle.send(signal.SIGKILL)
        if pid:
            os.kill(pid, signal.SIGHUP)

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """SIGTERM to the supervisor, which hands it on; SIGKILL to both when they do not end in time.

        Tells whether it ran; returns when it has ended.
        """
        return self._end(seconds)

    def kill(self) -> bool:
        """End supervisor and process at once; tells whether it ran."""
        return self._end(None)

    def _end(self, patience: float | None) -> bool:
        pid = self.pid
        if not pid:
            return False
        with _Handle(pid) as supervisor:
            if patience is not None:
                supervisor.send(signal.SIGTERM)
            if patience is None or not supervisor.ended(patience):
                supervisor.send(signal.SIGSTOP)  # else it may start something after the look at what there is to kill
                _until_stopped(pid)
                with _Handle(self.child) as child:
                    for handle in (supervisor, child):
                        handle.send(signal.SIGKILL)
                    for handle in (supervisor, child):
                        handle.ended(STOP_SECONDS)
        if not self.pid:  # else somebody has started it again
            self.pidfile.unlink(missing_ok=True)
        return True


def _state(pid: int) -> str:
    """The letter by which the kernel tells a process's state (proc(5), stat); "" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return ""


def _until_stopped(pid: int) -> None:
    """Return when the process has stopped after a SIGSTOP, or has ended; one that waits for the kernel does nothing."""
    deadline = time.monotonic() + HOLD_SECONDS
    while _state(pid) not in ("T", "Z", "X", "") and time.monotonic() < deadline:
        time.sleep(0.001)


class _Handle:
    """A process, by a descriptor that never comes to mean another one; of process 0, nothing."""

    def __init__(self, pid: int) -> None:
        self._handle = -1
        if pid:
            with contextlib.suppress(ProcessLookupError):
                self._handle = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where it has ended."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def ended(self, seconds: float) -> bool:
        """Wait for its end; tells whether it has come."""
        if self._handle < 0:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
