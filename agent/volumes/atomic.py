"""Files that change together: a reader sees either all of the old ones or all of the new ones.

The layout is upstream's, because containers' programs watch it: the files live in a time-stamped directory, ``..data``
links to that directory, and each visible name links through ``..data``. An update makes a new directory and swaps
the one link (k8s.io/kubernetes/pkg/volume/util/atomic_writer describes the steps).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

DATA = "..data"


@dataclass(frozen=True, slots=True)
class File:
    """One file's content, permission bits and, where it is not root's, the user it belongs to."""

    data: bytes
    mode: int
    owner: int | None = None


Payload = Mapping[str, File]
"""Relative path to file."""


def valid_path(path: str) -> bool:
    """Whether a relative path stays within its volume and out of the writer's own names."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and not parts[0].startswith("..")


def write(target: Path, payload: Payload, now: datetime, *, group: int | None = None) -> bool:
    """Make the directory `target` hold exactly `payload`; tells whether anything had to change.

    `group` owns the files where given (fsGroup) and may read them.
    """
    if _current(target) == {path: file.data for path, file in payload.items()}:
        _tidy(target, payload)  # a crash may have come between the swap and this
        return False
    fresh = Path(tempfile.mkdtemp(dir=target, prefix=f"..{now:%Y_%m_%d_%H_%M_%S}."))
    fresh.chmod(0o755)
    for path, file in payload.items():
        _write_file(fresh / path, file, fresh, group)
    link = target / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(target / DATA)
    _tidy(target, payload)
    return True


def _tidy(target: Path, payload: Payload) -> None:
    """Have the visible names that the payload needs, and nothing of earlier writes, finished or not."""
    _link_names(target, {PurePosixPath(path).parts[0] for path in payload})
    present = _data_directory(target)
    for entry in target.iterdir():
        if not entry.name.startswith("..") or entry.name == DATA or entry == present:
            continue
        if entry.is_symlink():
            entry.unlink()
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _write_file(path: Path, file: File, root: Path, group: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_bytes(file.data)
    mode = file.mode
    if file.owner is not None:
        os.chown(path, file.owner, -1)
    if group is not None:
        mode |= 0o440
        for part in (path, *(parent for parent in path.parents if root in (parent, *parent.parents))):
            os.chown(part, -1, group)
    path.chmod(mode)


def _link_names(target: Path, wanted: set[str]) -> None:
    for name in wanted:
        link = target / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
    for entry in target.iterdir():
        if entry.is_symlink() and entry.name not in wanted and not entry.name.startswith(".."):
            entry.unlink()


def _data_directory(target: Path) -> Path | None:
    link = target / DATA
    return target / link.readlink() if link.is_symlink() else None


def _current(target: Path) -> dict[str, bytes] | None:
    """What is there now; None where nothing was written yet."""
    directory = _data_directory(target)
    if directory is None or not directory.is_dir():
        return None
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
