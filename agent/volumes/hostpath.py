"""hostPath volumes: the check of what is there, by the volume's type (API reference, HostPathVolumeSource)."""

from __future__ import annotations

import stat
from pathlib import Path

from agent.volumes.protocol import VolumeError

_KINDS = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def check(volume: str, path: Path, kind: str) -> None:
    """Make what may be made, and see that the path is what `kind` says; VolumeError else.

    "" checks nothing, but what is missing becomes a directory: container runtimes make it, Docker in all forms but the
    one in which the agent asks for mounts.
    """
    try:
        if kind in ("", "DirectoryOrCreate") and not path.exists():
            path.mkdir(parents=True, mode=0o755, exist_ok=True)  # another pod may make it, too
        elif kind == "FileOrCreate" and not path.exists():
            path.touch(mode=0o644)
        if not kind:
            return
        test, words = _KINDS[kind]
        if not path.exists() or not test(path.stat().st_mode):
            raise VolumeError(volume, f"hostPath type check failed: {path} is not {words}")
    except OSError as error:
        raise VolumeError(volume, f"hostPath type check failed: {error}") from error
