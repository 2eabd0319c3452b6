"""A virtual machine as users' hosts are: Debian with systemd, cgroup v2, Docker with the systemd driver.

Built with debootstrap, booted by qemu under software emulation (the machines that run the tests have no KVM). The
built disk is kept under a name made from what went into it; each machine works on a copy-on-write overlay.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("SAMPAN_VM_CACHE", "/var/tmp/sampan-vm"))
PACKAGES = ("systemd-sysv", "dbus", "udev", "kmod", "iproute2", "iptables", "conntrack", "python3", "docker.io",
            "busybox-static", "linux-image-cloud-amd64", "procps", "ca-certificates", "apparmor",
            "python3-venv", "jq", "selinux-policy-default")
LATER = ("firewalld",)
"""What debootstrap cannot configure (polkitd wants users that systemd makes): installed once the rest is there."""
PROJECT = ("sampan", "master", "agent", "netplugin")
DISK_MIB = 3072
MEMORY_MIB = 2048
VENV = "opt/sampan/venv"
OUTPUT = "/dev/virtio-ports/sampan.out"
ENFORCING = "security=selinux selinux=1 enforcing=1 audit=1"
"""For the kernel's command line: SELinux decides, where AppArmor would. The disk wants labels for that, see `label`."""

GUEST_UNIT = """[Unit]
Description=Commands from the tests
After=docker.service
Wants=docker.service
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/vm_guest.py
Restart=always
[Install]
WantedBy=multi-user.target
"""

SCRIPT = """#!/{venv}/bin/python
import sys
from {module} import main
sys.exit(main())
"""


class VmError(RuntimeError):
    """The machine did not do what was asked; the message ends with its console."""


@dataclass(frozen=True)
class Result:
    """How a command in the machine ended; `out` holds both streams."""

    code: int
    out: str


def base_image() -> Path:
    """The folder with disk.img, vmlinuz and initrd, built where it is not there yet (about two minutes)."""
    recipe = json.dumps([PACKAGES, LATER, DISK_MIB, GUEST_UNIT, (ROOT / "tests/support/vm_guest.py").read_text()])
    folder = CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if (folder / "disk.img").exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=CACHE, prefix="building-"))
    try:
        _build(building)
        for old in CACHE.iterdir():
            if old not in (building, folder) and not old.name.startswith("building-"):
                shutil.rmtree(old, ignore_errors=True)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return folder


def _build(folder: Path) -> None:
    root = folder / "root"
    _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", str(root), timeout=900)
    _run("chroot", str(root), "apt-get", "update", "-q", timeout=300)
    _run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y",
         "--no-install-recommends", *LATER, timeout=300)
    (root / "etc/fstab").write_text("/dev/vda / ext4 rw,relatime 0 1\n")
    (root / "etc/hostname").write_text("vm-1\n")
    (root / "usr/local/lib/vm_guest.py").write_text((ROOT / "tests/support/vm_guest.py").read_text())
    (root / "etc/systemd/system/vm-guest.service").write_text(GUEST_UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    (wants / "vm-guest.service").symlink_to("/etc/systemd/system/vm-guest.service")
    for name in ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer"):
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    for link in (wants / "firewalld.service", root / "etc/systemd/system/dbus-org.fedoraproject.FirewallD1.service"):
        link.unlink(missing_ok=True)  # there for the tests that want it
    boot = root / "boot"
    shutil.copy(next(boot.glob("vmlinuz-*")), folder / "vmlinuz")
    shutil.copy(next(boot.glob("initrd.img-*")), folder / "initrd")
    for unneeded in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / unneeded, ignore_errors=True)
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(folder / "disk.img"), f"{DISK_MIB}M", timeout=300)
    shutil.rmtree(root)


def with_project(base: Path, folder: Path) -> Path:
    """A copy of the disk with this project installed in it, in a virtual environment as script/up makes it."""
    disk = folder / "disk.img"
    copy_disk(base / "disk.img", disk)
    with mounted(disk) as root:
        _install(root)
    return disk


def copy_disk(source: Path, target: Path) -> None:
    """Copy a disk without its holes."""
    _run("cp", "--sparse=always", str(source), str(target), timeout=120)


@contextmanager
def mounted(disk: Path) -> Iterator[Path]:
    """The disk of a machine that is off, as a folder; what a crash left half-done is settled by the file system."""
    folder = Path(tempfile.mkdtemp(prefix="sampan-vm-"))
    _run("mount", "-o", "loop", str(disk), str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))
        folder.rmdir()


def label(root: Path) -> None:
    """Give all files of a machine that is off the labels that its policy has for them."""
    _run("mount", "-t", "proc", "proc", str(root / "proc"))  # setfiles names files by their descriptors
    try:
        _run("chroot", str(root), "setfiles", "-F", "/etc/selinux/default/contexts/files/file_contexts", "/")
    finally:
        _run("umount", str(root / "proc"))


def _install(root: Path) -> None:
    site = root / VENV / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (root / VENV / "bin").mkdir()
    (root / VENV / "bin/python").symlink_to("/usr/bin/python3")
    (root / VENV / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    mine = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    unwanted = shutil.ignore_patterns("__pycache__", "mypy*", "pip", "grpc_tools", "kubernetes*",
                                      "hypothesis*", "ruff*", "pytest*")
    shutil.copytree(mine, site, ignore=unwanted, dirs_exist_ok=True, symlinks=True)
    for stale in site.glob("*sampan*.pth"):
        stale.unlink()
    for package in PROJECT:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, module in (("sampan", "sampan.cli.main"), ("sampan-master", "master.main"),
                         ("sampan-agent", "agent.main")):
        script = root / VENV / "bin" / name
        script.write_text(SCRIPT.format(venv=VENV, module=module))
        script.chmod(0o755)
        (root / "usr/local/bin" / name).symlink_to(f"/{VENV}/bin/{name}")
    for unit in (ROOT / "systemd").glob("*.service"):
        shutil.copy(unit, root / "etc/systemd/system" / unit.name)
    shutil.copy(ROOT / "systemd/sampan.sysctl.conf", root / "etc/sysctl.d/60-sampan.conf")
    shutil.copytree(ROOT / "examples", root / "opt/sampan/examples")
    shutil.copy(ROOT / "tests/vm/store_writer.py", root / "opt/sampan/store_writer.py")


class Vm:
    """One machine on one disk. `boot`, `run`, `reboot`, `power_cut`, `stop`."""

    def __init__(self, base: Path, disk: Path, folder: Path, kernel: str = "") -> None:
        self._base = base
        self._kernel = kernel  # further words for its command line
        self.disk = disk
        self._folder = folder
        self._ids = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._pending = b""
        self.api_port = _free_port()
        """A port of this host's loopback that leads to the machine's port 6443."""
        self.output = folder / "output.log"
        """What the machine writes to OUTPUT is appended here at once, so that it outlives a power cut."""

    def boot(self, timeout: float = 240) -> None:
        """Start the machine, and wait until it takes commands."""
        port = self._folder / "port.sock"
        port.unlink(missing_ok=True)
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
            "-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none",
            "-kernel", str(self._base / "vmlinuz"), "-initrd", str(self._base / "initrd"),
            "-append", f"root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off {self._kernel}",
            "-drive", f"file={self.disk},format=raw,if=virtio,cache=writeback",
            "-serial", f"file:{self._folder / 'console.log'}",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=c0,path={port},server=on,wait=off",
            "-device", "virtserialport,chardev=c0,name=sampan.test",
            "-chardev", f"file,id=c1,path={self.output},append=on",
            "-device", "virtserialport,chardev=c1,name=sampan.out",
            "-device", "virtio-rng-pci", "-device", "virtio-net-pci,netdev=n0",
            "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self.api_port}-:6443"]
        with (self._folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        self._connect(port, time.monotonic() + timeout)
        self._answer(lambda message: bool(message.get("hello")), timeout)

    def run(self, command: str, timeout: float = 120, *, check: bool = True) -> Result:
        """Run a shell command in the machine."""
        assert self._socket is not None
        number = next(self._ids)
        self._socket.sendall(json.dumps({"id": number, "command": command, "timeout": timeout}).encode() + b"\n")
        message = self._answer(lambda answer: answer.get("id") == number, timeout + 30)
        result = Result(int(message["code"]), str(message["out"]))
        if check and result.code != 0:
            raise VmError(f"{command}: exit {result.code}\n{result.out}")
        return result

    def reboot(self) -> None:
        """An orderly reboot: systemd stops everything, then the machine starts anew from its disk."""
        assert self._socket is not None
        request = {"id": next(self._ids), "command": "systemctl reboot --no-block", "timeout": 30}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        assert self._process is not None
        self._process.wait(timeout=180)  # -no-reboot ends qemu instead
        self._close()
        self.boot()

    def power_cut(self) -> None:
        """End the machine between two instructions: what its kernel had not written to the disk is lost."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=60)
        self._close()

    def stop(self) -> None:
        """End the machine for good."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=60)
        self._close()

    def send(self, command: str) -> None:
        """Have a command started without waiting for its end, for those that a power cut will interrupt."""
        self.run(f"nohup setsid bash -c {json.dumps(command)} >/dev/null 2>&1 & disown")

    def console(self) -> str:
        """The end of the serial console's output."""
        with suppress(OSError):
            return (self._folder / "console.log").read_text("utf-8", "replace")[-4000:]
        return ""

    def _connect(self, port: Path, deadline: float) -> None:
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(port))
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                    raise VmError(f"qemu: {(self._folder / 'qemu.log').read_text()}") from error
                time.sleep(0.05)
            else:
                self._socket = connection
                return

    def _answer(self, wanted: object, timeout: float) -> dict[str, object]:
        assert self._socket is not None
        assert callable(wanted)
        deadline = time.monotonic() + timeout
        while True:
            while b"\n" in self._pending:
                line, self._pending = self._pending.split(b"\n", 1)
                message = json.loads(line)
                if wanted(message):
                    return dict(message)
            self._socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError as late:
                raise VmError(f"no answer within {timeout:g} s\n{self.console()}") from late
            if not data:
                raise VmError(f"the machine ended\n{self.console()}")
            self._pending += data

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._pending = None, b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*command: str, timeout: float = 60) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise VmError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
