"""Mounting and unmounting, by the host's own commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol

TIMEOUT = 20.0
"""Seconds; a mount that takes longer hangs."""


class MountError(Exception):
    """The command failed; the message is its own."""


class Mounter(Protocol):
    """What the volumes need of mounts."""

    def mounted_below(self, directory: Path) -> list[Path]:
        """Mount points at or below a directory, deepest first."""

    def tmpfs(self, target: Path, size: int, group: int | None = None) -> None:
        """Mount a tmpfs of at most `size` bytes (0: half of memory) on an existing directory.

        Containers of any user may write there; with `group` (fsGroup) what they make belongs to that group.
        """

    def bind(self, descriptor: int, target: Path) -> None:
        """Mount what an open descriptor means on an existing file or directory."""

    def unmount(self, target: Path) -> None:
        """Unmount, lazily, so that a busy mount does not keep a pod from ending."""


class HostMounter:
    """The host's mounts."""

    def __init__(self, table: Path = Path("/proc/self/mountinfo")) -> None:
        self._table = table

    def mounted_below(self, directory: Path) -> list[Path]:
        """Read the mount table (proc(5): the fifth field, with octal escapes)."""
        root = directory.resolve()
        points = [Path(line.split()[4].encode().decode("unicode_escape"))
                  for line in self._table.read_text("utf-8", "replace").splitlines()]
        below = [point for point in points if point == root or root in point.parents]
        return sorted(below, key=lambda point: len(point.parts), reverse=True)

    def tmpfs(self, target: Path, size: int, group: int | None = None) -> None:
        """mount(8)."""
        share = "mode=0777" if group is None else f"mode=2777,gid={group}"
        self._run("mount", "-t", "tmpfs", "-o", f"size={size or '50%'},{share}", "tmpfs", str(target))

    def bind(self, descriptor: int, target: Path) -> None:
        """mount(8); resolving the descriptor's link to a name again would undo what it is good for."""
        self._run("mount", "--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", str(target))

    def unmount(self, target: Path) -> None:
        """umount(8), lazily."""
        self._run("umount", "-l", str(target))

    @staticmethod
    def _run(*command: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MountError(f"{' '.join(command)}: {error}") from error
        if done.returncode != 0:
            raise MountError(f"{' '.join(command)}: {done.stderr.strip()}")
