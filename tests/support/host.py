"""A bare host to try the scripts on: this machine's files under an overlay, without Docker, kubectl or Sampan, in a
network namespace of its own, with a package manager that is played and writes down what it is asked.

What the played package manager "installs" is put back from the real machine, so everything after it runs for real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support import engine

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = ("usr/local/bin/docker", "usr/bin/docker", "usr/sbin/dockerd", "usr/bin/kubectl", "usr/local/bin/kubectl",
          "usr/bin/containerd", "usr/sbin/iptables-restore", "usr/bin/apt-get", "usr/bin/dnf")
BRINGS = {"docker.io": ("usr/bin/docker", "usr/sbin/dockerd", "usr/bin/containerd"),
          "docker-ce": ("usr/sbin/dockerd", "usr/bin/containerd"), "docker-ce-cli": ("usr/bin/docker",),
          "iptables": ("usr/sbin/iptables-restore",)}

PLAYED = """#!/bin/bash
echo "{name} $*" >> /record
code=0
for word in "$@"; do
    case $word in
{cases}
    kubectl) echo "no package kubectl" >&2; code=1 ;;
    esac
done
exit $code
"""


@dataclass(frozen=True)
class Host:
    """A folder to chroot into and the network namespace that goes with it."""

    root: Path
    netns: str
    wheels: Path

    def run(self, *command: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command as on that host; nothing outside of it can be downloaded."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                       "LC_ALL": "C.UTF-8", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels),
                       "PIP_CONFIG_FILE": "/dev/null"}
        return subprocess.run(["nsenter", f"--net=/run/netns/{self.netns}", "chroot", str(self.root), *command],
                              env=environment, capture_output=True, text=True, timeout=timeout, check=False)

    @property
    def asked(self) -> list[str]:
        """What the package manager was asked."""
        record = self.root / "record"
        return record.read_text().splitlines() if record.exists() else []


def download_wheels(target: Path) -> Path:
    """Everything that requirements.lock names, so that the installation needs no network."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
                    "--require-hashes", "-r", str(ROOT / "requirements.lock"), "-d", str(target)], check=True,
                   timeout=600, stderr=subprocess.DEVNULL)
    return target


@contextmanager
def bare_host(manager: Literal["apt-get", "dnf"], wheels: Path) -> Iterator[Host]:
    """Make the host, and take it away with everything that still runs in it."""
    base = Path(tempfile.mkdtemp(prefix="host-", dir="/var/tmp"))
    netns = f"st-{os.getpid()}-{base.name[5:]}"
    root = base / "root"
    engine.netns_add(netns)
    try:
        _mount(base, root)
        _prepare(root, manager)
        host = Host(root, netns, wheels)
        for command in ("ip link set lo up", "ip link add host0 type bridge", "ip addr add 192.168.78.10/24 dev host0",
                        "ip link set host0 up"):
            assert host.run(*command.split()).returncode == 0, command
        yield host
    finally:
        _end_processes(root)
        engine.unmount_under(base)
        engine.netns_delete(netns)
        shutil.rmtree(base)


def _mount(base: Path, root: Path) -> None:
    layer, docker = base / "layer", base / "docker"
    for folder in (root, layer, docker):
        folder.mkdir()
    run = lambda *command: subprocess.run(command, check=True, timeout=60)  # noqa: E731 - short, and used right here
    run("mount", "-t", "tmpfs", "tmpfs", str(layer))
    (layer / "upper").mkdir()
    (layer / "work").mkdir()
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work", str(root))
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    run("mount", "--rbind", "/sys", str(root / "sys"))
    run("mount", "--make-rslave", str(root / "sys"))
    run("mount", "--rbind", "/dev", str(root / "dev"))
    run("mount", "--make-rslave", str(root / "dev"))
    for name in ("run", "tmp"):
        run("mount", "-t", "tmpfs", "tmpfs", str(root / name))
    (root / "var/lib/docker").mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", str(docker), str(root / "var/lib/docker"))
    checkout = root / ROOT.relative_to("/")
    if not (checkout / "script").exists():  # it is on another file system
        checkout.mkdir(parents=True, exist_ok=True)
        run("mount", "--rbind", str(ROOT), str(checkout))


def _prepare(root: Path, manager: str) -> None:
    kept = root / "kept"
    kept.mkdir()
    for name in HIDDEN:
        if (root / name).exists():
            shutil.copy(Path("/") / name, kept / Path(name).name)
            (root / name).unlink()
    for name in ("etc/sampan", "opt/sampan", "var/lib/sampan", "var/log/sampan"):  # a cluster on the machine itself
        shutil.rmtree(root / name, ignore_errors=True)
    for link in (root / "usr/local/bin").glob("sampan*"):
        link.unlink()
    cases = "\n".join(f"    {package}) " + "; ".join(f"cp -a /kept/{Path(file).name} /{file}" for file in files) + " ;;"
                      for package, files in BRINGS.items())
    played = root / "usr/bin" / manager
    played.write_text(PLAYED.format(name=manager, cases=cases))
    played.chmod(0o755)
    (root / "etc/yum.repos.d").mkdir(exist_ok=True)


def _end_processes(root: Path) -> None:
    """Everything that has this root; the engine's containers too, which have roots below it."""
    for _ in range(50):
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _root_of(path).startswith(f"{root}")]
        if not pids:
            return
        for pid in pids:
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)


def _root_of(process: Path) -> str:
    try:
        return str((process / "root").readlink())
    except OSError:
        return ""
