"""The host's health as metrics under node_exporter's names, so that its dashboards and alert rules work here."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

TIME_ERROR = 5
"""What adjtimex(2) returns while the clock is not synchronised."""
_MICRO = 1e-6
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MEMORY = ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree", "Slab", "SReclaimable",
           "Dirty", "Writeback", "Shmem", "AnonPages", "Active", "Inactive", "Committed_AS", "CommitLimit")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system; sizes in bytes. `avail` is what is left for those who are not root."""

    device: str
    kind: str
    mountpoint: str
    size: int
    free: int
    avail: int
    files: int
    files_free: int
    read_only: bool

    @property
    def labels(self) -> tuple[str, str, str]:
        """As node_exporter has them."""
        return self.device, self.kind, self.mountpoint


@dataclass(frozen=True, slots=True)
class ClockState:
    """How well the kernel's clock is kept (adjtimex(2)); seconds."""

    synchronised: bool
    offset: float
    max_error: float
    estimated_error: float


class _Timex(ctypes.Structure):
    """The beginning of struct timex, and room for the rest of it."""

    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
                ("rest", ctypes.c_char * 256)]


def clock_state() -> ClockState | None:
    """Ask the kernel, changing nothing; None where this host does not let us."""
    wanted = _Timex()
    try:
        result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(wanted))
    except (OSError, AttributeError):
        return None
    if result < 0:
        return None
    scale = 1e-9 if wanted.status & 0x2000 else _MICRO  # STA_NANO
    return ClockState(result != TIME_ERROR, wanted.offset * scale, wanted.maxerror * _MICRO, wanted.esterror * _MICRO)


def file_systems(extra: Sequence[str] = ()) -> list[FileSystem]:
    """The host's own disks, and what holds the paths in `extra` whatever that is. Each device once."""
    everything = {part.mountpoint: part for part in psutil.disk_partitions(all=True)}
    wanted = {part.mountpoint for part in psutil.disk_partitions(all=False)}
    wanted |= {mount_point(path, everything) for path in ("/", *extra)}
    found: dict[str, FileSystem] = {}
    for point in sorted(wanted & everything.keys(), key=len):
        part = everything[point]
        try:
            if not Path(point).is_dir():
                continue  # a file that is bound into a container
            stat = os.statvfs(point)
        except OSError:
            continue
        item = FileSystem(part.device, part.fstype, point, stat.f_blocks * stat.f_frsize, stat.f_bfree * stat.f_frsize,
                          stat.f_bavail * stat.f_frsize, stat.f_files, stat.f_ffree, "ro" in part.opts.split(","))
        found.setdefault(part.device if part.device.startswith("/") else point, item)
    return list(found.values())


def mount_point(path: str, mounted: Any) -> str:
    """The mount that holds a path."""
    folder = Path(path)
    while str(folder) not in mounted and folder != folder.parent:
        folder = folder.parent
    return str(folder)


def cpu_seconds() -> float:
    """All work of all CPUs since the host started."""
    times = psutil.cpu_times()
    return float(sum(times[:-2]) - times.idle - getattr(times, "iowait", 0.0))  # the last two are within user and nice


def memory_working_set() -> int:
    """Bytes that are in use and could not be given up at once."""
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def collect(paths: Sequence[str] = ()) -> list[Metric]:
    """Everything; blocks for some milliseconds. `paths` name file systems that matter besides the host's disks.

    What this host's kernel does not tell is left out; one source's failure does not take the others along.
    """
    found: list[Metric] = []
    sources: tuple[Callable[[], Iterator[Metric]], ...] = (
        _cpu, _memory, _disk, _network, lambda: _file_systems(file_systems(paths)), _clock, _kernel, _pressure)
    failed = GaugeMetricFamily("node_scrape_collector_success", "Whether a collector succeeded.",
                               labels=("collector",))
    for name, source in zip(("cpu", "meminfo", "diskstats", "netdev", "filesystem", "timex", "stat", "pressure"),
                            sources, strict=True):
        try:
            found += source()
            failed.add_metric((name,), 1)
        except (OSError, ValueError, RuntimeError, psutil.Error):
            failed.add_metric((name,), 0)
    return [*found, failed]


def _cpu() -> Iterator[Metric]:
    family = CounterMetricFamily("node_cpu_seconds", "Seconds the CPUs spent in each mode.", labels=("cpu", "mode"))
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        for mode in _MODES:
            family.add_metric((str(number), mode), getattr(times, mode, 0.0))
    yield family
    for minutes, value in zip((1, 5, 15), os.getloadavg(), strict=True):
        yield GaugeMetricFamily(f"node_load{minutes}", f"{minutes}m load average.", value=value)


def _memory() -> Iterator[Metric]:
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in _MEMORY:
            yield GaugeMetricFamily(f"node_memory_{name}_bytes", f"Memory information field {name}_bytes.",
                                    value=int(rest.split()[0]) * 1024)


def _disk() -> Iterator[Metric]:
    counters = psutil.disk_io_counters(perdisk=True) or {}
    for name, text, key, scale in (
            ("node_disk_reads_completed", "The total number of reads completed successfully.", "read_count", 1),
            ("node_disk_read_bytes", "The total number of bytes read successfully.", "read_bytes", 1),
            ("node_disk_read_time_seconds", "The total number of seconds spent by all reads.", "read_time", 1e-3),
            ("node_disk_writes_completed", "The total number of writes completed successfully.", "write_count", 1),
            ("node_disk_written_bytes", "The total number of bytes written successfully.", "write_bytes", 1),
            ("node_disk_write_time_seconds", "The total number of seconds spent by all writes.", "write_time", 1e-3),
            ("node_disk_io_time_seconds", "Total seconds spent doing I/Os.", "busy_time", 1e-3)):
        family = CounterMetricFamily(name, text, labels=("device",))
        for device, figures in counters.items():
            if not device.startswith(("loop", "ram")):
                family.add_metric((device,), getattr(figures, key, 0) * scale)
        yield family


def _network() -> Iterator[Metric]:
    counters = {name: figures for name, figures in psutil.net_io_counters(pernic=True).items()
                if not name.startswith(("smp", "veth"))}  # pods' own ends: container_network_* tells of them
    for direction, way in (("receive", "recv"), ("transmit", "sent")):
        for what, key in (("bytes", f"bytes_{way}"), ("packets", f"packets_{way}"),
                          ("errs", "errin" if way == "recv" else "errout"),
                          ("drop", "dropin" if way == "recv" else "dropout")):
            family = CounterMetricFamily(f"node_network_{direction}_{what}",
                                         f"Network device statistic {direction}_{what}.", labels=("device",))
            for device, figures in counters.items():
                family.add_metric((device,), getattr(figures, key))
            yield family
    up = GaugeMetricFamily("node_network_up", "Value is 1 if operstate is 'up', 0 otherwise.", labels=("device",))
    for device, state in psutil.net_if_stats().items():
        if device in counters:
            up.add_metric((device,), int(state.isup))
    yield up


def _file_systems(found: Sequence[FileSystem]) -> Iterator[Metric]:
    labels = ("device", "fstype", "mountpoint")
    values: tuple[tuple[str, str, Callable[[FileSystem], float]], ...] = (
        ("node_filesystem_size_bytes", "Filesystem size in bytes.", lambda item: item.size),
        ("node_filesystem_free_bytes", "Filesystem free space in bytes.", lambda item: item.free),
        ("node_filesystem_avail_bytes", "Filesystem space available to non-root users in bytes.",
         lambda item: item.avail),
        ("node_filesystem_files", "Filesystem total file nodes.", lambda item: item.files),
        ("node_filesystem_files_free", "Filesystem total free file nodes.", lambda item: item.files_free),
        ("node_filesystem_readonly", "Filesystem read-only status.", lambda item: int(item.read_only)))
    for name, text, value in values:
        family = GaugeMetricFamily(name, text, labels=labels)
        for item in found:
            family.add_metric(item.labels, value(item))
        yield family


def _clock() -> Iterator[Metric]:
    yield GaugeMetricFamily("node_time_seconds", "System time in seconds since epoch (1970).", value=time.time())
    yield GaugeMetricFamily("node_boot_time_seconds", "Node boot time, in unixtime.", value=psutil.boot_time())
    state = clock_state()
    if state is None:
        return
    yield GaugeMetricFamily("node_timex_sync_status", "Is clock synchronized to a reliable server (1 = yes, 0 = no).",
                            value=int(state.synchronised))
    yield GaugeMetricFamily("node_timex_offset_seconds", "Time offset in between local system and reference clock.",
                            value=state.offset)
    yield GaugeMetricFamily("node_timex_maxerror_seconds", "Maximum error in seconds.", value=state.max_error)
    yield GaugeMetricFamily("node_timex_estimated_error_seconds", "Estimated error in seconds.",
                            value=state.estimated_error)


def _kernel() -> Iterator[Metric]:
    names = platform.uname()
    family = GaugeMetricFamily("node_uname_info", "Labeled system information as provided by the uname system call.",
                               labels=("machine", "nodename", "release", "sysname", "version"))
    family.add_metric((names.machine, names.node, names.release, names.system, names.version), 1)
    yield family
    counters = {"ctxt": ("node_context_switches", "Total number of context switches."),
                "intr": ("node_intr", "Total number of interrupts serviced."),
                "processes": ("node_forks", "Total number of forks.")}
    gauges = {"procs_running": "Number of processes in runnable state.",
              "procs_blocked": "Number of processes blocked waiting for I/O to complete."}
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        name, _, rest = line.partition(" ")
        if name in counters:
            yield CounterMetricFamily(*counters[name], value=int(rest.split()[0]))
        elif name in gauges:
            yield GaugeMetricFamily(f"node_{name}", gauges[name], value=int(rest))
    allocated, _, maximum = Path("/proc/sys/fs/file-nr").read_text("ascii").split()
    yield GaugeMetricFamily("node_filefd_allocated", "File descriptor statistics: allocated.", value=int(allocated))
    yield GaugeMetricFamily("node_filefd_maximum", "File descriptor statistics: maximum.", value=int(maximum))
    for name in ("count", "max"):
        file = Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}")
        if file.exists():
            suffix = "entries" if name == "count" else "entries_limit"
            yield GaugeMetricFamily(f"node_nf_conntrack_{suffix}", "Connections in the kernel's tracking table"
                                    f"{', at most' if name == 'max' else ''}.", value=int(file.read_text("ascii")))


def _pressure() -> Iterator[Metric]:
    """How long work has waited for something (Documentation/accounting/psi.rst); older kernels do not tell."""
    for what in ("cpu", "memory", "io"):
        try:
            text = Path(f"/proc/pressure/{what}").read_text("ascii")
        except OSError:
            continue
        for line in text.splitlines():
            kind, _, rest = line.partition(" ")
            total = int(rest.rpartition("total=")[2]) * _MICRO
            if kind == "some":
                yield CounterMetricFamily(f"node_pressure_{what}_waiting_seconds", "Total time in seconds that "
                                          f"processes have waited for {what}.", value=total)
            elif what != "cpu":
                yield CounterMetricFamily(f"node_pressure_{what}_stalled_seconds", "Total time in seconds no process "
                                          f"could make progress for lack of {what}.", value=total)
