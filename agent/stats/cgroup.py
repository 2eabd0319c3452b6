"""Everything that the figures need of one cgroup, from the kernel's files, on version 1 and 2. Blocks for ~0.3 ms.

Sources: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.cgroups.protocol import CgroupError
from agent.cgroups.tree import Hierarchies
from agent.cgroups.usage import cgroup_paths

NANO = 1_000_000_000
_UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as a number near 2^63."""


@dataclass(frozen=True, slots=True)
class Use:
    """Use of a cgroup since it began, and now. Times in seconds, amounts in bytes, the rest counts; 0 for unknown."""

    path: str
    cpu: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    periods: int = 0
    throttled_periods: int = 0
    throttled: float = 0.0
    memory: int = 0
    working_set: int = 0
    rss: int = 0
    cache: int = 0
    mapped_file: int = 0
    swap: int = 0
    memory_limit: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    oom_kills: int = 0
    processes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


def paths_of(pid: int) -> dict[str, str]:
    """The cgroup of a process in each hierarchy; CgroupError where it has ended."""
    try:
        return cgroup_paths(Path(f"/proc/{pid}/cgroup").read_text("ascii"))
    except OSError as error:
        raise CgroupError(f"cgroup of process {pid}: {error.strerror}") from error


def parent(paths: Mapping[str, str]) -> dict[str, str]:
    """The cgroup above, in each hierarchy: of a container's, the pod's."""
    return {name: path.rpartition("/")[0] or "/" for name, path in paths.items()}


def read(hierarchies: Hierarchies, paths: Mapping[str, str]) -> Use:
    """Measure now. Files that are not there count as nothing; CgroupError where the cgroup itself has gone."""
    return _read_v2(hierarchies, paths) if hierarchies.version == 2 else _read_v1(hierarchies, paths)


def _read_v2(hierarchies: Hierarchies, paths: Mapping[str, str]) -> Use:
    folder = _folder(hierarchies, paths, "unified")
    cpu, memory = _table(folder / "cpu.stat"), _table(folder / "memory.stat")
    used = _number(folder / "memory.current")
    io = _text(folder / "io.stat")
    return Use(
        path=paths["unified"], cpu=cpu.get("usage_usec", 0) / 1e6, cpu_user=cpu.get("user_usec", 0) / 1e6,
        cpu_system=cpu.get("system_usec", 0) / 1e6, periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0), throttled=cpu.get("throttled_usec", 0) / 1e6,
        memory=used, working_set=max(0, used - memory.get("inactive_file", 0)), rss=memory.get("anon", 0),
        cache=memory.get("file", 0), mapped_file=memory.get("file_mapped", 0),
        swap=_number(folder / "memory.swap.current"), memory_limit=_number(folder / "memory.max"),
        page_faults=memory.get("pgfault", 0), major_page_faults=memory.get("pgmajfault", 0),
        oom_kills=_table(folder / "memory.events").get("oom_kill", 0), processes=_number(folder / "pids.current"),
        read_bytes=_sum(r"rbytes=(\d+)", io), written_bytes=_sum(r"wbytes=(\d+)", io))


def _read_v1(hierarchies: Hierarchies, paths: Mapping[str, str]) -> Use:
    account = _folder(hierarchies, paths, "cpuacct")
    memory_folder = _folder(hierarchies, paths, "memory")
    usage = _number(account / "cpuacct.usage")
    ticks, memory = _table(account / "cpuacct.stat"), _table(memory_folder / "memory.stat")
    cpu = _table(_optional(hierarchies, paths, "cpu") / "cpu.stat")
    used, limit = _number(memory_folder / "memory.usage_in_bytes"), _number(memory_folder / "memory.limit_in_bytes")
    with_swap = _number(memory_folder / "memory.memsw.usage_in_bytes")
    io = _text(_optional(hierarchies, paths, "blkio") / "blkio.throttle.io_service_bytes_recursive")
    return Use(
        path=paths.get("memory", ""), cpu=usage / NANO, cpu_user=ticks.get("user", 0) / 100,
        cpu_system=ticks.get("system", 0) / 100, periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0), throttled=cpu.get("throttled_time", 0) / NANO,
        memory=used, working_set=max(0, used - memory.get("total_inactive_file", 0)),
        rss=memory.get("total_rss", 0), cache=memory.get("total_cache", 0),
        mapped_file=memory.get("total_mapped_file", 0), swap=max(0, with_swap - used) if with_swap else 0,
        memory_limit=limit if limit < _UNLIMITED else 0, page_faults=memory.get("total_pgfault", 0),
        major_page_faults=memory.get("total_pgmajfault", 0),
        oom_kills=_table(memory_folder / "memory.oom_control").get("oom_kill", 0),
        processes=_number(_optional(hierarchies, paths, "pids") / "pids.current"),
        read_bytes=_sum(r"Read (\d+)", io), written_bytes=_sum(r"Write (\d+)", io))


def _folder(hierarchies: Hierarchies, paths: Mapping[str, str], controller: str) -> Path:
    """The cgroup's directory in a hierarchy; CgroupError where it is not there."""
    folder = _optional(hierarchies, paths, controller)
    if not folder.is_dir():
        raise CgroupError(f"there is no cgroup {paths.get(controller, '')} of {controller}")
    return folder


def _optional(hierarchies: Hierarchies, paths: Mapping[str, str], controller: str) -> Path:
    mount = hierarchies.mounts.get(controller, Path("/nonexistent"))
    return mount / paths.get(controller, "").lstrip("/")


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except OSError:  # this kernel counts no such thing, or the cgroup has just gone
        return ""


def _number(file: Path) -> int:
    text = _text(file).strip()
    return int(text) if text.isdigit() else 0  # "max" is no limit


def _table(file: Path) -> dict[str, int]:
    """A file of names and numbers."""
    found = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def _sum(pattern: str, text: str) -> int:
    return sum(int(found) for found in re.findall(pattern, text))
