"""A subPath of a volume, held fast before the engine mounts it.

Resolving a path first and mounting it later leaves a moment in which another container of the pod may put a link in
its place that leads out of the volume (CVE-2017-1002101). So each step of the path is opened below the one before
without following links, and what was opened, not its name, is bound to a place that no container can reach.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.volumes.mounts import Mounter
from agent.volumes.protocol import VolumeError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANYTHING = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def bind(mounter: Mounter, volume: Path, path: str, target: Path) -> None:
    """Mount `path` of the volume on `target`; directories that are missing are made as open as the volume.

    Raises VolumeError where the path leads out of the volume; OSError and MountError where the host refuses.
    """
    with _opened(volume, path) as found:
        if target in mounter.mounted_below(target):  # of an earlier attempt of the container
            mounter.unmount(target)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if stat.S_ISDIR(os.fstat(found).st_mode):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        mounter.bind(found, target)


@contextlib.contextmanager
def _opened(volume: Path, path: str) -> Iterator[int]:
    """A descriptor (O_PATH) of what the path means now. Links within the volume count, those that leave it do not."""
    root = volume.resolve()
    wanted = Path(os.path.realpath(root / path))
    if path.startswith("/") or not wanted.is_relative_to(root):
        raise VolumeError(volume.name, f'subPath "{path}" leads out of the volume')
    descriptor = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode & 0o2777
        for part in wanted.relative_to(root).parts:
            below = _step(descriptor, part, mode)
            os.close(descriptor)
            descriptor = below
            if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                raise VolumeError(volume.name, f'subPath "{path}" changed while it was resolved')
        yield descriptor
    finally:
        os.close(descriptor)


def _step(directory: int, name: str, mode: int) -> int:
    try:
        return os.open(name, _ANYTHING, dir_fd=directory)
    except FileNotFoundError:
        try:
            os.mkdir(name, dir_fd=directory)
        except FileExistsError:  # another container's mount has made it just now
            return os.open(name, _ANYTHING, dir_fd=directory)
    made = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        os.fchmod(made, mode)
    finally:
        os.close(made)
    return os.open(name, _ANYTHING, dir_fd=directory)
