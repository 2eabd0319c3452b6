"""Removing folders of ours in which other file systems may be mounted: pods' volumes, and subPaths of hostPath volumes.

Files that are reached through a mount are not ours: they are a user's, and stay.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from sampan import mounts
from sampan.cli.progress import CommandError

UMOUNT_SECONDS = 30.0


def within(places: Iterable[Path], table: Iterable[mounts.Mount]) -> list[Path]:
    """What is mounted within these folders, deepest first; what is mounted on one is not."""
    roots = set(places)
    return [point for point in mounts.points_at_or_below(roots, table) if point not in roots]


def mounted(*places: Path) -> list[Path]:
    """What is mounted within these folders now, deepest first."""
    return within([place.resolve() for place in places], mounts.read())


def unmount(*places: Path) -> None:
    """Unmount everything within these folders."""
    for point in mounted(*places):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True, timeout=UMOUNT_SECONDS)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it; CommandError where something is mounted within it.

    A file system of the user's that is mounted on the folder itself is emptied, and stays mounted.
    """
    if left := mounted(path):
        raise CommandError(f"{left[0]} is still mounted", f"unmount it, and run this again: umount {left[0]}")
    if not path.is_mount():
        shutil.rmtree(path)
        return
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
