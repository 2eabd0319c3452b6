"""The services of a host: systemd units where systemd is PID 1, supervised background processes elsewhere."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sampan.cli.paths import Paths, program
from sampan.cli.progress import CommandError

Name = Literal["master", "agent"]
State = Literal["running", "stopped"]
START_SECONDS = 10.0
STOP_SECONDS = 60.0
ENVIRONMENT = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
"""What the unit files set too: keeps gRPC's own lines out of the logs."""


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """How a service is; `pid` 0 where it does not run."""

    state: State
    pid: int = 0
    manager: str = ""


class Units(Protocol):
    """Starts and stops the services."""

    def status(self, name: Name) -> UnitStatus:
        """How the service is now."""

    def start(self, name: Name, arguments: Sequence[str]) -> bool:
        """Have it run, now and after a reboot where the host can do that; tells whether it had to be started."""

    def restart(self, name: Name) -> None:
        """Stop it and start it with what it was started with."""

    def stop(self, name: Name) -> bool:
        """Have it not run; tells whether it ran. Returns when its process has ended."""

    def log_hint(self, name: Name) -> str:
        """The command that shows its log."""


def units(paths: Paths) -> Units:
    """What this host has."""
    systemd = Path("/run/systemd/system").is_dir()
    return SystemdUnits() if systemd and paths.standard else BackgroundUnits(paths)


class SystemdUnits:
    """sampan-master.service and sampan-agent.service, installed by script/up."""

    def status(self, name: Name) -> UnitStatus:
        """Ask systemd."""
        text = self._systemctl("show", "-p", "ActiveState,MainPID", f"sampan-{name}.service").stdout
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        running = values.get("ActiveState") in ("active", "activating", "reloading")
        return UnitStatus("running" if running else "stopped", int(values.get("MainPID") or 0), "systemd")

    def start(self, name: Name, arguments: Sequence[str]) -> bool:  # the unit file holds the arguments
        """Enable and start the unit."""
        started = self.status(name).state == "stopped"
        self._checked("enable", "--now", f"sampan-{name}.service")
        return started

    def restart(self, name: Name) -> None:
        """Restart the unit."""
        self._checked("restart", f"sampan-{name}.service")

    def stop(self, name: Name) -> bool:
        """Disable and stop the unit."""
        ran = self.status(name).state == "running"
        self._systemctl("disable", "--now", f"sampan-{name}.service")
        return ran

    def log_hint(self, name: Name) -> str:
        """The unit's journal."""
        return f"journalctl -u sampan-{name}"

    def _checked(self, *arguments: str) -> None:
        result = self._systemctl(*arguments)
        if result.returncode != 0:
            raise CommandError(f"systemctl {' '.join(arguments)}: {result.stderr.strip()}",
                               "see the unit's log with journalctl; script/up installs the unit files")

    @staticmethod
    def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=120, check=False)


class BackgroundUnits:
    """Processes under our own supervisor, which outlive the command that started them."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def status(self, name: Name) -> UnitStatus:
        """Read the supervisor's pid file, and see whether that process still is our supervisor."""
        pid = self._pid(name)
        return UnitStatus("running" if pid else "stopped", pid, "supervisor")

    def start(self, name: Name, arguments: Sequence[str]) -> bool:
        """Start the supervisor, which leaves this process for a session of its own."""
        if self._pid(name):
            return False
        self._pidfile(name).unlink(missing_ok=True)
        command = [sys.executable, "-m", "sampan.cli.supervisor", "--pidfile", str(self._pidfile(name)),
                   "--log", str(self._log(name)), "--", program(f"sampan-{name}"), *arguments]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env={**os.environ, **ENVIRONMENT}, cwd="/", timeout=START_SECONDS, check=False)
        deadline = time.monotonic() + START_SECONDS
        while not self._pid(name):
            if time.monotonic() > deadline:
                raise CommandError(f"the {name}'s supervisor did not start",
                                   f"run it by hand to see why: {' '.join(command[command.index('--') + 1:])}")
            time.sleep(0.02)
        return True

    def restart(self, name: Name) -> None:
        """End the command; its supervisor starts it again."""
        pid = self._pid(name)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else ():
            os.kill(int(child), signal.SIGTERM)

    def stop(self, name: Name) -> bool:
        """SIGTERM to the supervisor, which hands it on; SIGKILL to both when they do not end."""
        pid = self._pid(name)
        if not pid:
            return False
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not _ended(handle, STOP_SECONDS):
                for child in children:
                    os.kill(child, signal.SIGKILL)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, STOP_SECONDS)
        finally:
            os.close(handle)
        self._pidfile(name).unlink(missing_ok=True)
        return True

    def log_hint(self, name: Name) -> str:
        """The log file."""
        return f"less {self._log(name)}"

    def _pidfile(self, name: Name) -> Path:
        return self._paths.run / f"{name}.pid"

    def _log(self, name: Name) -> Path:
        return self._paths.log / f"{name}.log"

    def _pid(self, name: Name) -> int:
        try:
            pid = int(self._pidfile(name).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, ValueError, IndexError):
            return 0
        return pid if str(self._pidfile(name)).encode() in command and state != "Z" else 0


def _ended(process: int, seconds: float) -> bool:
    """Wait for the end of the process that a pidfd stands for."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
