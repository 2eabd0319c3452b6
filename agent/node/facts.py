"""What this host has and how it is, read through psutil and a few files."""

from __future__ import annotations

import os
import platform
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.node.address import follow, interfaces

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PODS_DEFAULT = 110
OWN_INTERFACES = re.compile(r"^(lo|docker|br-|veth|sampan|cni|flannel|virbr)")


class FactsError(Exception):
    """The host cannot be described; the message says what is missing and which option helps."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while the host is up. Amounts in bytes."""

    hostname: str
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str
    cpus: int
    memory: int


@dataclass(frozen=True, slots=True)
class Health:
    """How the host is now. Amounts in bytes; inodes and process ids as counts."""

    memory_available: int
    disk_total: int
    disk_available: int
    inodes_total: int
    inodes_free: int
    pids_max: int
    pids_used: int


def host_facts() -> HostFacts:
    """Read what the kernel and the distribution say of this host."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    machine = platform.machine()
    return HostFacts(
        hostname=socket.gethostname().lower(),
        machine_id=_first_line("/etc/machine-id", "/var/lib/dbus/machine-id"),
        system_uuid=_first_line("/sys/class/dmi/id/product_uuid", "/etc/machine-id"),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=release.get("PRETTY_NAME", "Linux"),
        architecture=ARCHITECTURES.get(machine, machine),
        cpus=psutil.cpu_count() or 1,
        memory=psutil.virtual_memory().total)


def health(disk: Path) -> Health:
    """Measure now; `disk` is a directory on the file system that holds images and volumes."""
    while not disk.exists():
        disk = disk.parent
    usage = psutil.disk_usage(str(disk))
    inodes = _inodes(disk)
    return Health(
        memory_available=psutil.virtual_memory().available,
        disk_total=usage.total, disk_available=usage.free,
        inodes_total=inodes[0], inodes_free=inodes[1],
        pids_max=int(_first_line("/proc/sys/kernel/pid_max") or 32768),
        pids_used=len(psutil.pids()))


def node_address(wanted: str = "", interface: str = "") -> str:
    """The IPv4 address by which other hosts reach this one: `wanted`, or that of `interface` where the host no longer
    has `wanted`; else the default route's, else the first.

    A host without a default route is fine (an air-gapped one); FactsError where there is no address at all.
    """
    if wanted or interface:
        if found := follow(wanted, interface, interfaces()):
            return found
        raise FactsError(f"the interface {interface} is not there or has no IPv4 address; give one with --node-ip")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which source address would be used
            return str(probe.getsockname()[0])
        except OSError:
            pass  # no default route
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        for address in addresses:
            if address.family == socket.AF_INET and not OWN_INTERFACES.match(name):
                return str(address.address)
    raise FactsError("this host has no IPv4 address; give one with --node-ip")


def _inodes(disk: Path) -> tuple[int, int]:
    stat = os.statvfs(disk)
    return stat.f_files, stat.f_ffree


def _first_line(*names: str) -> str:
    for name in names:
        try:
            return Path(name).read_text("utf-8").strip().lower()
        except OSError:
            continue  # not every host has each of them
    return ""
