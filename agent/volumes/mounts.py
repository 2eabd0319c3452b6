"""Mounting and unmounting, by the system calls: a process for each mount would be most of its cost."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Protocol

from sampan import mounts

_MS_BIND = 0x1000
_MNT_DETACH = 2


class MountError(Exception):
    """The kernel refused; the message says what and why."""


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

    def __init__(self, table: Path = mounts.TABLE) -> None:
        self._table = table

    def mounted_below(self, directory: Path) -> list[Path]:
        """As the mount table has it now."""
        return mounts.points_at_or_below([directory.resolve()], mounts.read(self._table))

    def tmpfs(self, target: Path, size: int, group: int | None = None) -> None:
        """mount(2)."""
        share = "mode=0777" if group is None else f"mode=2777,gid={group}"
        self._mount("tmpfs", target, "tmpfs", 0, f"size={size or '50%'},{share}")

    def bind(self, descriptor: int, target: Path) -> None:
        """mount(2), which follows the descriptor's link and asks for no name."""
        self._mount(f"/proc/self/fd/{descriptor}", target, "", _MS_BIND)

    def unmount(self, target: Path) -> None:
        """umount2(2), lazily."""
        if _libc().umount2(os.fsencode(target), _MNT_DETACH) != 0:
            raise MountError(f"unmounting {target}: {os.strerror(ctypes.get_errno())}")

    @staticmethod
    def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
        done = _libc().mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags),
                             options.encode())
        if done != 0:
            raise MountError(f"mounting {kind or source} on {target}: {os.strerror(ctypes.get_errno())}")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
