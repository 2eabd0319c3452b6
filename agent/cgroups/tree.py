"""Cgroups as folders: which hierarchies there are, what is in a cgroup, taking one away. Blocks: run it in a thread."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.cgroups.protocol import CgroupError
from agent.cgroups.values import Setting, Version
from sampan.mounts import Mount

_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "net_cls", "net_prio",
                "perf_event", "hugetlb", "rdma", "misc")
_DELEGATED = ("cpu", "memory", "pids", "cpuset", "io", "hugetlb")
"""Version 2's controllers that pods and containers need."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where cgroups are mounted: one folder for version 2; one per controller for version 1."""

    version: Version
    mounts: Mapping[str, Path]

    @property
    def roots(self) -> list[Path]:
        """Each mount once."""
        return sorted(set(self.mounts.values()))


def find_hierarchies(mounts: Iterable[Mount]) -> Hierarchies:
    """Among all mounts of the host. With both versions mounted, version 1 has the controllers."""
    places: dict[str, Path] = {}
    unified: Path | None = None
    for mount in mounts:
        if mount.kind == "cgroup2":
            unified = unified or mount.point
        elif mount.kind == "cgroup":
            for name in mount.options:
                if name in _CONTROLLERS or name.startswith("name="):
                    places.setdefault(name, mount.point)
    if any(not name.startswith("name=") for name in places):
        return Hierarchies(1, places | ({"unified": unified} if unified else {}))
    if unified is None:
        raise CgroupError("no cgroup file system is mounted on this host")
    return Hierarchies(2, {"unified": unified})


def make(hierarchies: Hierarchies, path: str, settings: Sequence[Setting]) -> None:
    """Make a cgroup, with the controllers that it needs, and set its files."""
    parts = [part for part in path.split("/") if part]
    if hierarchies.version == 2:
        folder = hierarchies.mounts["unified"]
        for part in parts:
            _delegate(folder)
            folder /= part
            _mkdir(folder)
    for setting in settings:
        mount = hierarchies.mounts.get("unified" if hierarchies.version == 2 else setting.controller)
        if mount is None:
            raise CgroupError(f"the kernel has no cgroup controller {setting.controller}")
        _mkdir(mount.joinpath(*parts))
        _write(mount.joinpath(*parts, setting.file), setting.value)


def remove(hierarchies: Hierarchies, path: str) -> None:
    """Take a cgroup and the empty ones in it away, from every hierarchy; CgroupError while processes are in it."""
    for root in hierarchies.roots:
        top = root / path.lstrip("/")
        for folder in sorted(_below(top), key=lambda folder: len(folder.parts), reverse=True):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                why = "processes are in it" if error.errno == errno.EBUSY else error.strerror
                raise CgroupError(f"cgroup {folder}: {why}") from error


def exists(hierarchies: Hierarchies, path: str) -> bool:
    """Whether any hierarchy has the cgroup."""
    return any((root / path.lstrip("/")).is_dir() for root in hierarchies.roots)


def occupied(hierarchies: Hierarchies, path: str) -> bool:
    """Whether a process is in the cgroup or below."""
    for root in hierarchies.roots:
        for folder in _below(root / path.lstrip("/")):
            with contextlib.suppress(OSError):
                if (folder / "cgroup.procs").read_text().strip():
                    return True
    return False


def children(hierarchies: Hierarchies, path: str) -> set[str]:
    """The names of the cgroups right below one, in any hierarchy."""
    found: set[str] = set()
    for root in hierarchies.roots:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found |= {entry.name for entry in os.scandir(root / path.lstrip("/")) if entry.is_dir()}
    return found


def _below(top: Path) -> Iterator[Path]:
    """The folder and all below it; nothing where it is not there."""
    if top.is_dir():
        yield top
        for name, folders, _ in os.walk(top):
            yield from (Path(name, folder) for folder in folders)


def _delegate(folder: Path) -> None:
    """Let the controllers reach below (version 2). Those that the kernel does not have are not asked for."""
    try:
        there = set((folder / "cgroup.controllers").read_text().split())
        on = set((folder / "cgroup.subtree_control").read_text().split())
    except OSError as error:
        raise CgroupError(f"cgroup {folder}: {error.strerror}") from error
    for name in _DELEGATED:
        if name in there - on:
            _write(folder / "cgroup.subtree_control", f"+{name}")


def _mkdir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CgroupError(f"cgroup {folder}: {error.strerror}") from error


def _write(file: Path, value: str) -> None:
    try:
        if file.read_text().strip() != value:
            file.write_text(value)
    except OSError as error:
        raise CgroupError(f"{file}: {value}: {error.strerror}") from error
