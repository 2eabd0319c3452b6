"""Ending everything of a host. What runs in its namespace or in its cgroups is the host's: that is what a host is.

So nothing has to be remembered for it, and a lab can be taken down after whatever has happened to it. A process is held
by a pidfd while it is looked at, so that no later process with its number can be meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from sampan.lab.plan import LabError

NAMESPACES = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
SHIM_SOCKETS = "/run/containerd/s/"
"""containerd's shims listen there, whatever their containerd's own directory is."""
PATIENCE = 15.0
"""Seconds for killed processes to be gone."""
PAUSE = 0.02


def in_namespace(name: str) -> list[int]:
    """The processes in a network namespace."""
    try:
        wanted = (NAMESPACES / name).stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                seen = (entry / "ns/net").stat()
                if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(entry.name))
    return found


async def end_namespace(name: str) -> None:
    """Kill every process in a namespace, and remove the sockets that their end leaves; LabError where some stay."""
    sockets: set[Path] = set()
    deadline = time.monotonic() + PATIENCE
    while found := in_namespace(name):
        if os.getpid() in found:
            raise LabError("this command runs inside the lab", "run it from the machine itself")
        if time.monotonic() > deadline:
            raise LabError(f"processes in namespace {name} do not end: {' '.join(map(str, found))}",
                           "a process in state D waits for the kernel; try again")
        for pid in found:
            sockets.update(shim_sockets(pid))
            kill_in(name, pid)
        await asyncio.sleep(PAUSE)
    for path in sockets:
        path.unlink(missing_ok=True)


def kill_in(name: str, pid: int) -> None:
    """SIGKILL a process if it (still) is in the namespace."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            seen, wanted = Path(f"/proc/{pid}/ns/net").stat(), (NAMESPACES / name).stat()
            if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def shim_sockets(pid: int) -> Iterator[Path]:
    """The shims' sockets in a process's namespace."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines():
            if line.rpartition(" ")[2].startswith(SHIM_SOCKETS):
                yield Path(line.rpartition(" ")[2])


def cgroup_trees(pattern: str) -> list[Path]:
    """The cgroups of such a name at the top, of every hierarchy."""
    return sorted({path for root in (CGROUPS, *CGROUPS.iterdir()) if root.is_dir() for path in root.glob(pattern)
                   if path.is_dir()})


async def end_cgroup(tree: Path) -> None:
    """Kill every process in a cgroup and those below it, and remove them; LabError where they stay."""
    deadline = time.monotonic() + PATIENCE
    while not try_to_end(tree):
        if time.monotonic() > deadline:
            raise LabError(f"cgroup {tree} cannot be removed", "see which processes are in it: cgroup.procs")
        await asyncio.sleep(PAUSE)


def try_to_end(tree: Path) -> bool:
    """Kill what is in a cgroup and remove what is empty; tells whether the cgroup is gone."""
    for folder in sorted(folders(tree), key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return not tree.exists()


def folders(tree: Path) -> Iterator[Path]:
    """A folder and all below it."""
    yield tree
    for name, below, _ in os.walk(tree):
        for folder in below:
            yield Path(name) / folder
