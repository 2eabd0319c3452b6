"""Figures of a cgroup, on both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.cgroups.protocol import CgroupError
from agent.cgroups.tree import Hierarchies
from agent.stats import cgroup


def fill(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_version_2(tmp_path: Path) -> None:
    fill(tmp_path / "pod/box", {
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 4\n"
                    "throttled_usec 30000\n",
        "memory.current": "1000\n", "memory.max": "max\n", "memory.swap.current": "7\n",
        "memory.stat": "anon 600\nfile 300\nfile_mapped 50\ninactive_file 100\npgfault 9\npgmajfault 2\n",
        "memory.events": "low 0\noom 3\noom_kill 1\n", "pids.current": "5\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n"})
    use = cgroup.read(Hierarchies(2, {"unified": tmp_path}), {"unified": "/pod/box"})
    assert use == cgroup.Use("/pod/box", 2.5, 2.0, 0.5, 10, 4, 0.03, 1000, 900, 600, 300, 50, 7, 0, 9, 2, 1, 5, 11, 22)


def test_version_1(tmp_path: Path) -> None:
    mounts = {name: tmp_path / name for name in ("cpu", "cpuacct", "memory", "pids", "blkio")}
    fill(mounts["cpuacct"] / "pod", {"cpuacct.usage": "1500000000\n", "cpuacct.stat": "user 100\nsystem 50\n"})
    fill(mounts["cpu"] / "pod", {"cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 2000000000\n"})
    fill(mounts["memory"] / "pod", {
        "memory.usage_in_bytes": "1000", "memory.memsw.usage_in_bytes": "1010", "memory.limit_in_bytes": "4096",
        "memory.stat": "cache 1\ntotal_cache 300\ntotal_rss 600\ntotal_mapped_file 50\ntotal_inactive_file 2000\n"
                       "total_pgfault 9\ntotal_pgmajfault 2\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"})
    fill(mounts["pids"] / "pod", {"pids.current": "5\n"})
    fill(mounts["blkio"] / "pod", {"blkio.throttle.io_service_bytes_recursive":
                                   "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n"})
    use = cgroup.read(Hierarchies(1, mounts), dict.fromkeys(mounts, "/pod"))
    assert use == cgroup.Use("/pod", 1.5, 1.0, 0.5, 10, 4, 2.0, 1000, 0, 600, 300, 50, 10, 4096, 9, 2, 1, 5, 10, 20)


def test_what_a_kernel_does_not_count_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    assert cgroup.read(Hierarchies(2, {"unified": tmp_path}), {"unified": "/pod"}) == cgroup.Use("/pod")


def test_a_cgroup_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="no cgroup /pod"):
        cgroup.read(Hierarchies(2, {"unified": tmp_path}), {"unified": "/pod"})
    with pytest.raises(CgroupError):
        cgroup.paths_of(1 << 30)


def test_the_cgroup_above() -> None:
    above = cgroup.parent({"cpu": "/a/b", "memory": "/a", "unified": "/"})
    assert above == {"cpu": "/a", "memory": "/", "unified": "/"}


def test_our_own_process_can_be_measured() -> None:
    assert cgroup.paths_of(os.getpid())
