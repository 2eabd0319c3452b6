"""Hosts with systemd as PID 1, several at once, each with namespaces of its own, on one cable: Debian as users have it.

The file system is the virtual machines' (tests.support.vm) under an overlay, so nothing is built twice. A host can be
rebooted: systemd stops everything, then the host starts anew from its files, with a new network namespace, an empty
/run and no process of before. What containers of one kernel cannot have is left out: module loading, clocks, devices.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sampan.lab.engine import WRAPPER
from tests.support import engine
from tests.support.vm import base_image

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "opt/sampan-source"
"""Where the checkout lies on the hosts, as vagrant/Vagrantfile has it."""
WHEELS = "/opt/wheels"
CHECKOUT = ("sampan", "master", "agent", "netplugin", "proto", "script", "systemd", "vagrant", "examples",
            "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
NETWORK = ipaddress.ip_network("192.168.56.0/24")

BOOT = r"""set -e
root=$1 group=$2
for tree in /sys/fs/cgroup/*/; do
    mkdir -p "$tree$group" 2>/dev/null || continue
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$tree$file" ] || cat "$tree$file" >"$tree$group/$file"
    done
    echo 0 >"$tree$group/cgroup.procs"
done
exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --propagation private /bin/sh -s "$root" <<'INSIDE'
set -e
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
for name in $(cut -d: -f2 proc/self/cgroup); do
    case $name in
    name=*) mkdir sys/fs/cgroup/${name#name=} && mount -t cgroup -o none,$name cgroup sys/fs/cgroup/${name#name=} ;;
    *) mkdir sys/fs/cgroup/$name && mount -t cgroup -o $name cgroup sys/fs/cgroup/$name ;;
    esac
done
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty fuse net/tun; do
    [ -e "/dev/$name" ] || continue
    mkdir -p "dev/$(dirname $name)"; touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
for name in run tmp; do mount -t tmpfs -o mode=755 $name $name; done
chmod 1777 tmp dev/shm
mkdir -p .before
pivot_root . .before
cd /
umount -l .before
exec /usr/bin/env -i container=docker PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init </dev/null >/dev/null 2>&1
INSIDE
"""

ADDRESS_FILE = """[Match]
Name=eth0
[Network]
Address={address}/24
"""

TRIGGER = """[Unit]
Description=Tell udev of the network links; the other devices are those of the machine around
DefaultDependencies=no
After=systemd-udevd-kernel.socket systemd-udevd-control.socket
Wants=systemd-udevd.service
[Service]
Type=oneshot
ExecStart=udevadm trigger --subsystem-match=net
"""


class HostError(AssertionError):
    """A command on a host failed, or did not end in time."""


@dataclass(frozen=True)
class Done:
    """How a command ended; `out` holds both streams."""

    code: int
    out: str


@dataclass
class Cable:
    """A namespace with the bridge that the hosts are plugged into; the tests' own place in the hosts' network."""

    netns: str

    def plug(self, netns: str) -> None:
        """Give a namespace an eth0 on the bridge."""
        name = f"p{os.urandom(5).hex()}"
        engine.run_in(self.netns, ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns",
                                   f"/run/netns/{netns}"])
        engine.run_in(self.netns, ["ip", "link", "set", name, "master", "wire", "up"])


@contextmanager
def cable() -> Iterator[Cable]:
    """Make it, with the address .1."""
    made = Cable(f"sc-{os.getpid()}-{os.urandom(2).hex()}")
    engine.netns_add(made.netns)
    try:
        engine.run_in(made.netns, ["ip", "link", "add", "wire", "type", "bridge"])
        engine.run_in(made.netns, ["ip", "addr", "add", f"{NETWORK[1]}/24", "dev", "wire"])
        engine.run_in(made.netns, ["ip", "link", "set", "wire", "up"])
        yield made
    finally:
        engine.netns_delete(made.netns)


@dataclass
class SystemdHost:
    """One host."""

    name: str
    address: str
    folder: Path
    wire: Cable
    group: str = field(init=False)
    netns: str = field(init=False)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.group = f"sampan-host-{os.getpid()}-{self.folder.name[-8:]}"
        self.netns = f"sh-{os.getpid()}-{self.folder.name[-8:]}"

    @property
    def root(self) -> Path:
        """Its file system, as it is seen from here while no unit has mounts of its own."""
        return self.folder / "root"

    def boot(self, timeout: float = 120) -> None:
        """Start it, and wait until systemd is through."""
        engine.netns_add(self.netns)
        self.wire.plug(self.netns)
        with (self.folder / "boot.log").open("ab") as log:
            enter = ["nsenter", f"--net=/run/netns/{self.netns}"]
            self._process = subprocess.Popen(
                [*enter, "/bin/sh", "-c", BOOT, "boot", str(self.root), self.group],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + timeout
        while self.run("test -S /run/systemd/private", check=False).code != 0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise HostError(f"{self.name} does not boot: {(self.folder / 'boot.log').read_text()}")
            time.sleep(0.1)
        self.run("systemctl is-system-running --wait", check=False, timeout=deadline - time.monotonic())

    @property
    def init(self) -> int:
        """The process id of its systemd, as seen from here; 0 for none."""
        if self._process is None or self._process.poll() is not None:
            return 0
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return 0
        return int(children[0]) if children else 0

    def run(self, command: str, timeout: float = 120, *, check: bool = True) -> Done:
        """Run a shell command on the host, as a login of root's would."""
        if not self.init:
            if check:
                raise HostError(f"{self.name} is off")
            return Done(255, "off")
        words = ["nsenter", "--target", str(self.init), "--all", "--", "/usr/bin/env", "-i", "HOME=/root",
                 "LC_ALL=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                 "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}", "PIP_CONFIG_FILE=/dev/null", "/bin/bash", "-c", command]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, errors="replace", timeout=timeout, check=False)
        except subprocess.TimeoutExpired as late:
            text = late.stdout.decode("utf-8", "replace") if isinstance(late.stdout, bytes) else str(late.stdout)
            raise HostError(f"{self.name}: {command}: not within {timeout:g} s\n{text}") from late
        if check and done.returncode != 0:
            raise HostError(f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}")
        return Done(done.returncode, done.stdout)

    def until(self, command: str, seconds: float = 90) -> str:
        """Run a command until it succeeds."""
        deadline = time.monotonic() + seconds
        while (done := self.run(command, check=False)).code != 0:
            if time.monotonic() > deadline:
                raise HostError(f"{self.name}: not within {seconds:g} s: {command}\n{done.out}\n{self.journal()}")
            time.sleep(0.3)
        return done.out

    def journal(self) -> str:
        """The end of what the services said."""
        return self.run("journalctl -b -o cat -n 60 -u sampan-agent -u sampan-master", check=False).out

    def reboot(self) -> None:
        """An orderly one."""
        assert self._process is not None
        self.run("systemctl reboot", check=False)
        self._process.wait(timeout=150)
        self._clear()
        self.boot()

    def off(self) -> None:
        """End it at once, with all that runs on it."""
        if self._process is not None:
            if init := self.init:
                os.kill(init, 9)
            self._process.kill()
            self._process.wait(timeout=60)
        self._clear()

    def _clear(self) -> None:
        engine.netns_delete(self.netns)
        for tree in Path("/sys/fs/cgroup").iterdir():
            if tree.is_dir():
                engine.end_cgroup_tree(tree / self.group)


@contextmanager
def base_root() -> Iterator[Path]:
    """The virtual machines' file system, to be read."""
    folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/var/tmp"))
    disk = base_image() / "disk.img"
    subprocess.run(["mount", "-o", "loop,ro,noload", str(disk), str(folder)], check=True, timeout=60)
    try:
        yield folder
    finally:
        engine.unmount_under(folder)
        folder.rmdir()


@contextmanager
def systemd_host(name: str, number: int, base: Path, wire: Cable, wheels: Path) -> Iterator[SystemdHost]:
    """Make a host with that name and last part of its address, and boot it. The checkout is on it, Sampan is not."""
    folder = Path(tempfile.mkdtemp(prefix="sh-", dir="/var/tmp"))
    host = SystemdHost(name, str(NETWORK[number]), folder, wire)
    try:
        for part in ("upper", "work", "root", "docker"):
            (folder / part).mkdir()
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={base},upperdir={folder}/upper,workdir={folder}/work", str(host.root)],
                       check=True, timeout=60)
        _prepare(host, wheels)
        host.boot()
        yield host
    finally:
        host.off()
        engine.unmount_under(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(host: SystemdHost, wheels: Path) -> None:
    root = host.root
    (root / "etc/hostname").write_text(f"{host.name}\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/machine-id").write_text("")
    units = root / "etc/systemd/system"
    (units / "multi-user.target.wants/vm-guest.service").unlink()
    (units / "systemd-udev-trigger.service").write_text(TRIGGER)
    (root / "etc/sysctl.d/50-pid-max.conf").symlink_to("/dev/null")  # the kernel is not its own
    (units / "multi-user.target.wants/systemd-networkd.service").symlink_to(
        "/lib/systemd/system/systemd-networkd.service")
    (root / "etc/systemd/network/20-eth0.network").write_text(ADDRESS_FILE.format(address=host.address))
    (root / "usr/local/bin/runc-wrapper").write_text(WRAPPER)
    (root / "usr/local/bin/runc-wrapper").chmod(0o755)
    (root / "etc/docker").mkdir(exist_ok=True)
    (root / "etc/docker/daemon.json").write_text(json.dumps({
        "exec-opts": ["native.cgroupdriver=cgroupfs"], "oom-score-adjust": 0, "default-runtime": "wrapped",
        "runtimes": {"wrapped": {"path": "/usr/local/bin/runc-wrapper"}}}))
    for target, source in (("var/lib/docker", host.folder / "docker"), (WHEELS.lstrip("/"), wheels)):
        (root / target).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(source), str(root / target)], check=True, timeout=60)
    source = root / SOURCE
    source.mkdir()
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".vagrant"))
        else:
            shutil.copy(ROOT / name, source / name)
