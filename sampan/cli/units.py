"""The services of a host: systemd units where systemd is PID 1, supervised background processes elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sampan.cli.background import ENVIRONMENT, START_SECONDS, Supervised
from sampan.cli.paths import Paths, program
from sampan.cli.progress import CommandError

Name = Literal["master", "agent"]
State = Literal["running", "stopped"]

SYSTEMCTL_SECONDS = 150.0
"""Longer than the units' own time limits, so that systemd's answer comes first."""


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
        try:
            return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS,
                                  check=False)
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"systemctl {' '.join(arguments)} takes more than {SYSTEMCTL_SECONDS:g} s",
                               "see what the unit waits for: journalctl -u 'sampan-*' -n 20") from error


class BackgroundUnits:
    """Processes under our own supervisor, which outlive the command that started them."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def status(self, name: Name) -> UnitStatus:
        """Read the supervisor's pid file, and see whether that process still is our supervisor."""
        pid = self._unit(name).pid
        return UnitStatus("running" if pid else "stopped", pid, "supervisor")

    def start(self, name: Name, arguments: Sequence[str]) -> bool:
        """Start the supervisor, which leaves this process for a session of its own."""
        unit = self._unit(name)
        if unit.pid:
            return False
        command = [program(f"sampan-{name}"), *arguments]
        try:
            done = subprocess.run(unit.launch(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}, cwd="/",
                                  timeout=START_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"the {name}'s supervisor is not up within {START_SECONDS:g} s",
                               "this host is very busy: run it again") from error
        if done.returncode != 0 and self.status(name).state == "running":
            return False  # somebody else has started it meanwhile
        if done.returncode != 0:
            raise CommandError(f"the {name}'s supervisor did not start",
                               f"run it by hand to see why: {' '.join(command)}")
        return True

    def restart(self, name: Name) -> None:
        """End the command; its supervisor starts it again."""
        self._unit(name).restart()

    def stop(self, name: Name) -> bool:
        """SIGTERM to the supervisor, which hands it on; SIGKILL to both when they do not end."""
        return self._unit(name).stop()

    def log_hint(self, name: Name) -> str:
        """The log file."""
        return f"less {self._unit(name).log}"

    def _unit(self, name: Name) -> Supervised:
        return Supervised(self._paths.run / f"{name}.pid", self._paths.log / f"{name}.log")
