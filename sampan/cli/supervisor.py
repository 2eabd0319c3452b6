"""Keeps one command running on hosts without systemd: restarts it with back-off, hands it SIGTERM, logs to a file.

Started by `sampan up` as ``python -m sampan.cli.supervisor --pidfile F --log F -- COMMAND…``. It is the parent of the
command, so that the command's process id can never be mistaken for another's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

from sampan.loop.backoff import Backoff

CALM = 60.0
"""Seconds of running after which a failure counts as the first again."""
LOG_LIMIT = 32 * 1024 * 1024
"""Bytes after which the log is turned over, one old one kept, at the next start of the command."""


class Supervisor:
    """Runs a command until told to stop."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: pass the signal on and start nothing more."""
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def run(self) -> None:
        """Work until stopped."""
        backoff, failures = Backoff(initial=0.5, maximum=15.0), 0
        while not self._stopping:
            started = time.monotonic()
            code = self._once()
            failures = 1 if time.monotonic() - started > CALM else failures + 1
            if not self._stopping:
                delay = backoff.delay(failures)
                self._write(f"supervisor: {self._command[0]} ended with code {code}; again in {delay:.1f} s")
                time.sleep(delay)

    def _once(self) -> int:
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(self._log.suffix + ".1"))
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if self._stopping:  # the signal came while the command was being started
            self._child.terminate()
        return self._child.wait()

    def _write(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(line + "\n")


def main() -> None:
    """Entry point of the supervising process, which leaves whoever started it."""
    parser = argparse.ArgumentParser(description="Keep a command running.")
    parser.add_argument("--pidfile", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = [part for part in arguments.command if part != "--"] if arguments.command[:1] == ["--"] else (
        arguments.command)
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    if os.fork():
        os._exit(0)  # the caller has waited for this process; its child is init's from here on
    os.setsid()
    supervisor = Supervisor(command, arguments.log)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    arguments.pidfile.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.pidfile.with_suffix(".new")
    temporary.write_text(f"{os.getpid()}\n")
    temporary.replace(arguments.pidfile)
    try:
        supervisor.run()
    finally:
        arguments.pidfile.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
