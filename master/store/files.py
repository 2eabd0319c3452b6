"""Files that a power cut must not lose, and that one process at a time may use."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from master.store.protocol import StoreError


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: flushing a new file alone does not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim(path: Path) -> int:
    """Make a file, for its owner alone since Secrets may come into it, and lock it against a second process.

    Returns the lock's descriptor; closing it, or dying, gives the file back. StoreError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        sync_folder(path.parent)
        sync_folder(path.parent.parent)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreError(f"{path} is in use by another process") from error
    return lock


def size(path: Path) -> int:
    """Bytes in a file, 0 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
