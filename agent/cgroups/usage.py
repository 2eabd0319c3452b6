"""What a cgroup uses, from the kernel's files. Docker's own answer takes up to a second: it waits for its next tick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.cgroups.protocol import CgroupError
from agent.cgroups.tree import Hierarchies


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU nanoseconds since the cgroup began; memory in bytes, in all and without inactive file cache."""

    cpu_nanoseconds: int
    memory_bytes: int
    working_set_bytes: int


def cgroup_paths(proc_cgroup: str) -> dict[str, str]:
    """From /proc/<pid>/cgroup (cgroups(7)): the path by controller; "unified" for version 2's."""
    paths = {}
    for line in proc_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ["unified"]:
            paths[controller] = path
    return paths


def usage_of_process(hierarchies: Hierarchies, pid: int) -> Usage:
    """Use of the cgroup that a process is in; CgroupError when it has just ended. Blocks for some file reads."""
    try:
        paths = cgroup_paths(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError as error:
        raise CgroupError(f"cgroup of process {pid}: {error.strerror}") from error
    return usage(hierarchies, paths)


def usage(hierarchies: Hierarchies, paths: dict[str, str]) -> Usage:
    """Use of one cgroup, by its path in each hierarchy."""
    def read(controller: str, file: str) -> str:
        name = "unified" if hierarchies.version == 2 else controller
        try:
            return hierarchies.mounts[name].joinpath(paths[name].lstrip("/"), file).read_text()
        except (OSError, KeyError) as error:
            raise CgroupError(f"cgroup file {file}: {error}") from error

    if hierarchies.version == 2:
        cpu = _field(read("cpu", "cpu.stat"), "usage_usec") * 1000
        memory = int(read("memory", "memory.current"))
        inactive = _field(read("memory", "memory.stat"), "inactive_file")
    else:
        cpu = int(read("cpuacct", "cpuacct.usage"))
        memory = int(read("memory", "memory.usage_in_bytes"))
        inactive = _field(read("memory", "memory.stat"), "total_inactive_file")
    return Usage(cpu, memory, max(0, memory - inactive))


def _field(text: str, name: str) -> int:
    """A value of a file of names and numbers; 0 where it is not there."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0)
