from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cgroups import names
from agent.cgroups.node import NodeCgroups
from agent.cgroups.protocol import CgroupError, PodLimits, QosClass
from agent.cgroups.tree import Hierarchies, find_hierarchies
from agent.cgroups.usage import Usage, cgroup_paths, usage, usage_of_process
from agent.cgroups.values import Version, properties, settings, weight
from sampan import mounts

UID = "0b5a1e5c-1111-4222-8333-444455556666"


@pytest.mark.parametrize(("root", "qos", "path", "slice_path"), [
    ("/", "Guaranteed", f"/kubepods/pod{UID}",
     "/kubepods.slice/kubepods-pod0b5a1e5c_1111_4222_8333_444455556666.slice"),
    ("/", "Burstable", f"/kubepods/burstable/pod{UID}",
     "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b5a1e5c_1111_4222_8333_444455556666.slice"),
    ("/lab-1", "BestEffort", f"/lab-1/kubepods/besteffort/pod{UID}",
     ("/lab_1.slice/lab_1-kubepods.slice/lab_1-kubepods-besteffort.slice/"
      "lab_1-kubepods-besteffort-pod0b5a1e5c_1111_4222_8333_444455556666.slice")),
])
def test_names(root: str, qos: QosClass, path: str, slice_path: str) -> None:
    parts = names.pod_parts(root, qos, UID)
    assert names.path(parts) == path
    assert names.slice_path(parts) == slice_path
    assert names.uid_of(path.rpartition("/")[2]) == UID
    assert names.uid_of(slice_path.rpartition("/")[2]) == UID


@pytest.mark.parametrize("folder", ["burstable", "kubepods-burstable.slice", "kubepods", "kubepods.slice", "pod"])
def test_what_is_no_pod(folder: str) -> None:
    assert names.uid_of(folder) is None


@pytest.mark.parametrize(("shares", "expected"), [(2, 1), (1024, 39), (262_144, 10_000), (0, 1), (999_999, 10_000)])
def test_weight(shares: int, expected: int) -> None:
    assert weight(shares) == expected


@given(st.integers(2, 262_144), st.integers(2, 262_144))
def test_weight_keeps_the_order(one: int, two: int) -> None:
    assert 1 <= weight(one) <= 10_000
    assert (weight(one) <= weight(two)) == (one <= two) or weight(one) == weight(two)


def test_files() -> None:
    limits = PodLimits(cpu_shares=512, cpu_quota=50_000, memory=64 << 20, pids=100)
    assert {(item.file, item.value) for item in settings(limits, 1)} == {
        ("cpu.shares", "512"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000"),
        ("memory.limit_in_bytes", "67108864"), ("pids.max", "100")}
    assert {(item.file, item.value) for item in settings(limits, 2)} == {
        ("cpu.weight", "20"), ("cpu.max", "50000 100000"), ("memory.max", "67108864"), ("pids.max", "100")}
    assert {item.value for item in settings(PodLimits(), 2)} == {"1", "max 100000", "max"}
    assert {item.value for item in settings(PodLimits(), 1)} == {"2", "100000", "-1", "max"}


def test_properties_round_quotas_up_to_whole_percents() -> None:
    def quota(limits: PodLimits) -> int:
        return next(int(item.value) for item in properties(limits, 2) if item.name == "CPUQuotaPerSecUSec")

    assert quota(PodLimits(cpu_quota=50_000)) == 500_000
    assert quota(PodLimits(cpu_quota=1_234)) == 20_000
    assert quota(PodLimits()) == 2**64 - 1


V1 = b"""\
29 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
30 29 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
31 29 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
33 29 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
34 29 0:31 / /sys/fs/cgroup/memory rw shared:16 - cgroup cgroup rw,memory
"""
V2 = b"29 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hierarchies_are_read_from_the_mounts() -> None:
    one = find_hierarchies(mounts.parse(V1))
    assert one.version == 1
    assert one.mounts["cpu"] == one.mounts["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert Path("/sys/fs/cgroup/systemd") in one.roots
    no_text = (b"40 29 8:2 / /mnt/\xff\\040x rw - ext4 /dev/sdb1 rw\n"
               b"41 29 0:50 / /mnt/y rw - fuse.\xff y rw\n")
    assert find_hierarchies(mounts.parse(no_text + V1)) == one
    assert find_hierarchies(mounts.parse(V2)) == Hierarchies(2, {"unified": Path("/sys/fs/cgroup")})
    with pytest.raises(CgroupError, match="no cgroup file system"):
        find_hierarchies(mounts.parse(b"25 1 8:1 / / rw - ext4 /dev/sda1 rw\n"))


class Systemd:
    """Answers busctl: knows the slices that were started, and makes their folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[list[str]] = []

    def folder(self, name: str) -> Path:
        parts = name.removesuffix(".slice").split("-")
        return self.root.joinpath(*("-".join(parts[:depth]) + ".slice" for depth in range(1, len(parts) + 1)))

    async def __call__(self, arguments: Sequence[str]) -> None:
        method, _, name = arguments[4:7]
        self.calls.append([method, *arguments[6:]])
        folder = self.folder(name)
        if method == "StartTransientUnit":
            folder.mkdir(parents=True)
        elif not folder.is_dir():
            raise CgroupError(f"systemd: Call failed: Unit {name} not loaded.")
        elif method == "StopUnit":
            folder.rmdir()


async def test_slices_go_through_systemd(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    cgroups = NodeCgroups("systemd", hierarchies=Hierarchies(2, {"unified": tmp_path}), run=systemd)
    slice_name = cgroups.parent(UID, "Burstable")
    assert slice_name == "kubepods-burstable-pod0b5a1e5c_1111_4222_8333_444455556666.slice"
    await cgroups.setup(PodLimits(cpu_shares=2048))
    await cgroups.ensure(UID, "Burstable", PodLimits(cpu_shares=512, memory=1 << 20))
    made = [call for call in systemd.calls if call[0] == "StartTransientUnit"]
    assert [call[1] for call in made] == ["kubepods.slice", "kubepods-burstable.slice", "kubepods-besteffort.slice",
                                          slice_name]
    assert " ".join(made[-1]).endswith("CPUWeight t 20 CPUQuotaPerSecUSec t 18446744073709551615 MemoryMax t 1048576 "
                                       "TasksMax t 18446744073709551615 0")
    before = len(systemd.calls)
    await cgroups.ensure(UID, "Burstable", PodLimits(cpu_shares=512, memory=1 << 20))
    assert len(systemd.calls) == before  # nothing changed, nothing said
    await cgroups.ensure(UID, "Burstable", PodLimits(cpu_shares=256, memory=1 << 20))
    assert "SetUnitProperties" in [call[0] for call in systemd.calls[before:]]
    assert await cgroups.live() == {UID}
    await cgroups.remove(UID)
    assert await cgroups.live() == set()
    await cgroups.remove(UID)
    await cgroups.teardown()
    assert not list(tmp_path.iterdir())


async def test_what_systemd_did_not_confirm_is_told_again(tmp_path: Path) -> None:
    """A call that takes too long may have been obeyed all the same: nothing is known of the slice then."""
    systemd, slow = Systemd(tmp_path), False

    async def run(arguments: Sequence[str]) -> None:
        await systemd(arguments)
        if slow:
            raise CgroupError("systemd did not answer within 30 s")

    cgroups = NodeCgroups("systemd", hierarchies=Hierarchies(2, {"unified": tmp_path}), run=run)
    await cgroups.setup(PodLimits(cpu_shares=2048))
    slow = True
    with pytest.raises(CgroupError):
        await cgroups.ensure(UID, "Burstable", PodLimits(cpu_shares=5000))
    slow = False
    await cgroups.remove(UID)
    weights = [call[call.index("CPUWeight") + 2] for call in systemd.calls
               if call[1] == "kubepods-burstable.slice" and "CPUWeight" in call]
    assert weights[-2:] == [str(weight(5000)), "1"]


async def test_a_slice_with_processes_is_not_stopped(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    cgroups = NodeCgroups("systemd", hierarchies=Hierarchies(2, {"unified": tmp_path}), run=systemd)
    await cgroups.ensure(UID, "Guaranteed", PodLimits())
    inner = systemd.folder(cgroups.parent(UID, "Guaranteed")) / "docker-abc.scope"
    inner.mkdir()
    (inner / "cgroup.procs").write_text("123\n")
    with pytest.raises(CgroupError, match="processes are in it"):
        await cgroups.remove(UID)
    assert "StopUnit" not in [call[0] for call in systemd.calls]
    assert await cgroups.live() == {UID}


@pytest.mark.parametrize("version", [1, 2])
def test_usage(version: Version, tmp_path: Path) -> None:
    folder = tmp_path / "kubepods" / "c1"
    folder.mkdir(parents=True)
    for name, text in {"cpuacct.usage": "7000\n", "memory.usage_in_bytes": "100\n", "cpu.stat": "usage_usec 7\nx 1\n",
                       "memory.stat": "inactive_file 30\ntotal_inactive_file 30\n", "memory.current": "100\n"}.items():
        (folder / name).write_text(text)
    paths = cgroup_paths("9:name=systemd:/x\n4:cpu,cpuacct:/kubepods/c1\n2:memory:/kubepods/c1\n0::/kubepods/c1\n")
    hierarchies = Hierarchies(version, dict.fromkeys(("cpu", "cpuacct", "memory", "unified"), tmp_path))
    assert usage(hierarchies, paths) == Usage(7000, 100, 70)
    with pytest.raises(CgroupError):
        usage(hierarchies, dict.fromkeys(paths, "/gone"))
    with pytest.raises(CgroupError, match="999999999"):
        usage_of_process(hierarchies, 999999999)
