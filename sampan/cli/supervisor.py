"""Keeps one command running on hosts without systemd: restarts it with back-off, hands it SIGTERM, logs to a file, and
keeps the sockets that it stores (see `fdstore`).

Started as ``python -m sampan.cli.supervisor --pidfile F --log F -- COMMAND…``; when that returns the pid file is
written. SIGHUP restarts the command at once. The supervisor is the parent of the command, so that the command's process
id can never be mistaken for another's.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import time
from pathlib import Path
from types import FrameType

from sampan.cli.fdstore import FdStore
from sampan.loop.backoff import Backoff

CALM = 60.0
"""Seconds of running after which a failure counts as the first again."""
LOG_LIMIT = 32 * 1024 * 1024
"""Bytes after which the log is turned over, one old one kept, at the next start of the command."""
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NOT_STARTED = 127
"""Exit code of a command that could not be run, as a shell gives."""


class Supervisor:
    """Runs a command until told to stop."""

    def __init__(self, command: list[str], log: Path, store: FdStore) -> None:
        self._command = command
        self._log = log
        self._store = store
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._child = 0
        self._stopping = False
        self._restarting = False

    def listen(self) -> None:
        """Take signals. Each also writes to a pipe at once: one that comes right before a wait would not end it."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        signal.signal(signal.SIGHUP, self.restart)

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: pass the signal on and start nothing more."""
        self._stopping = True
        self._signal(number)

    def restart(self, _number: int, _frame: FrameType | None) -> None:
        """Signal handler: end the command, to start it again at once."""
        self._restarting = True
        self._signal(signal.SIGTERM)

    def run(self) -> None:
        """Work until stopped."""
        backoff, failures = Backoff(initial=0.5, maximum=15.0), 0
        while not self._stopping:
            started, self._restarting = time.monotonic(), False
            code = self._once()
            failures = 1 if time.monotonic() - started > CALM else failures + 1
            if self._restarting:
                failures = 0
                self._write(f"supervisor: {self._command[0]} ended with code {code}; starts again as asked")
            elif not self._stopping:
                delay = backoff.delay(failures)
                self._write(f"supervisor: {self._command[0]} ended with code {code}; again in {delay:.1f} s")
                self._pause(delay)

    def _once(self) -> int:
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(self._log.suffix + ".1"))
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # our handlers, run in the child, would lose a signal
        try:
            child = os.fork()
        except OSError:  # too many processes, or no memory: later there may be room
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            return NOT_STARTED
        if not child:
            self._become_command()
        self._child = child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        if self._stopping:  # the signal came while the command was being started
            self._signal(signal.SIGTERM)
        process = os.pidfd_open(child)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(self._store.socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        ended = False
        while not ended:
            ended = process in dict(poll.poll())
            self._forget_wakes()
            self._store.receive()
        os.close(process)
        _, status = os.waitpid(child, 0)
        self._child = 0
        return os.waitstatus_to_exitcode(status)

    def _become_command(self) -> None:
        """In the forked child: run the command in its place."""
        try:
            for number in (*HANDLED, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            take_output(self._log)
            os.execvpe(self._command[0], self._command, os.environ | self._store.hand_over())  # noqa: S606 - our caller's command
        except OSError as error:
            os.write(2, f"supervisor: {self._command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(NOT_STARTED)

    def _signal(self, number: int) -> None:
        if self._child:
            with contextlib.suppress(ProcessLookupError):  # it ended, and is about to be waited for
                os.kill(self._child, number)

    def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal."""
        self._forget_wakes()
        if not (self._stopping or self._restarting):
            select.select([self._woken], [], [], seconds)

    def _forget_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 512):
                pass

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError), self._log.open("a") as log:  # a full disk is no reason to give up
            log.write(line + "\n")


def alone(pidfile: Path) -> bool:
    """Lock the pid file's place until this process ends; False where another supervisor has it."""
    lock = os.open(pidfile.with_name(pidfile.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_output(log: Path) -> None:
    """Read from nothing and write to a log file, instead of where our caller looks."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for opened in (output, null):
        os.close(opened)


def main() -> None:
    """Entry point of the supervising process, which leaves whoever started it."""
    parser = argparse.ArgumentParser(description="Keep a command running.")
    parser.add_argument("--pidfile", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    pidfile: Path = arguments.pidfile
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    pidfile.parent.mkdir(parents=True, exist_ok=True)
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os._exit(0 if os.read(ready, 1) else 1)  # the caller waits for this process; its child is init's from here on
    os.setsid()
    if not alone(pidfile):
        os._exit(1)
    take_output(arguments.log)
    store = FdStore(pidfile.with_suffix(".notify"))
    supervisor = Supervisor(command, arguments.log, store)
    supervisor.listen()
    temporary = pidfile.with_suffix(".new")
    temporary.write_text(f"{os.getpid()}\n")
    temporary.replace(pidfile)
    os.write(tell, b"1")
    for pipe in (ready, tell):
        os.close(pipe)
    try:
        supervisor.run()
    finally:
        pidfile.unlink(missing_ok=True)
        store.close()


if __name__ == "__main__":
    main()
