"""What was attached how, in files: DEL must be told what ADD was told, also after a restart, a reboot, or once the
configuration has changed. One file a sandbox, written before ADD and again with its result.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from netplugin.protocol import NetworkError

log = logging.getLogger(__name__)

VERSION = 1


class Record(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One attachment. `result` is None for as long as ADD has not succeeded; `network` as it is in the file.

    `netns` is a path by a process id, which another process may have later: `inode` tells the namespace.
    """

    version: int
    sandbox: str
    netns: str
    inode: int
    interface: str
    network: dict[str, Any]
    arguments: dict[str, str]
    offered: dict[str, Any]
    result: dict[str, Any] | None = None


class Cache:
    """Its calls block for as long as small files take; failures are NetworkErrors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, record: Record) -> None:
        """Replace the sandbox's record."""
        path = self._path(record.sandbox)
        with _translated(path):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(record))
            new.replace(path)

    def read(self, sandbox: str) -> Record | None:
        """None for a sandbox that has none."""
        return self._read(self._path(sandbox))

    def records(self) -> list[Record]:
        """All that can be read: one that cannot must not keep the others from being freed."""
        with _translated(self._folder):
            paths = sorted(self._folder.glob("*.json"))
        found = []
        for path in paths:
            try:
                record = self._read(path)
            except NetworkError as error:
                log.warning("%s", error)
                continue
            if record is not None:
                found.append(record)
        return found

    def drop(self, sandbox: str) -> None:
        """It is detached."""
        with _translated(self._path(sandbox)):
            self._path(sandbox).unlink(missing_ok=True)

    def _path(self, sandbox: str) -> Path:
        return self._folder / f"{sandbox}.json"

    def _read(self, path: Path) -> Record | None:
        with _translated(path):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except FileNotFoundError:
                return None
        if record.version > VERSION:
            raise NetworkError(f"{path} has version {record.version}; this program knows {VERSION}")
        return record


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, msgspec.DecodeError) as error:
        raise NetworkError(f"{path}: {error}") from error
