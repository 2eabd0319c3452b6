"""What a lab needs of the machine: found out before anything is made, and all told at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.cli.paths import program
from sampan.lab import shell
from sampan.lab.engine import CAP_SYS_RESOURCE, has_capability
from sampan.lab.plan import Lab, LabError

PACKAGES = {"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux", "dockerd": "docker.io or docker-ce",
            "containerd": "containerd or containerd.io", "docker": "docker.io or docker-ce-cli", "runc": "runc"}
"""The commands that a lab is made with, and the packages that bring them."""
MEGABYTES = 250
"""Memory that a host takes: engine, containerd, agent, supervisors; the master and some pods take as much again."""
INSTANCES, WATCHES = Path("/proc/sys/fs/inotify/max_user_instances"), Path("/proc/sys/fs/inotify/max_user_watches")
LEAST = {INSTANCES: 8192, WATCHES: 524288}
"""What systemd/sampan.sysctl.conf sets on a host."""
DRIVERS = {"bridge": "link add probe type bridge", "veth": "link add probe type veth peer name probe2",
           "vxlan": "link add probe type vxlan id 9 dstport 0 local 127.0.0.1"}
"""What the kernel must be able to make, and how to find out."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What matters of the machine."""

    root: bool
    commands: Sequence[str]
    snap: bool
    memory: int
    wrapper_needed: bool


def look(which: Callable[[str], str | None] | None = None) -> Machine:
    """See what is there; memory in megabytes, as far as programs can have it."""
    path = shell.environment()["PATH"]
    find = which or (lambda name: shutil.which(name, path=path))
    commands = [name for name in (*PACKAGES, "jq") if find(name)]
    commands += [name for name in ("sampan-master", "sampan-agent") if find(program(name))]
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
    return Machine(os.geteuid() == 0, commands, (find("docker") or "").startswith("/snap/"),
                   int(meminfo["MemAvailable"].split()[0]) // 1024, not has_capability(CAP_SYS_RESOURCE))


def missing(machine: Machine, nodes: int) -> list[str]:
    """What this machine lacks for a lab with so many nodes to be switched on, in words that say what to do."""
    if not machine.root:
        return ["root: namespaces and links can be made by nobody else (sudo sampan lab up)"]
    found = []
    if machine.snap:
        found.append("a Docker that is no snap, which cannot be started in a namespace: snap remove docker, then "
                     "install it from the distribution or from Docker's own repository")
    found += [f"the command {name}: install {package}" for name, package in PACKAGES.items()
              if name not in machine.commands]
    found += [f"the command {name}: install Sampan with its extras [master,agent]"
              for name in ("sampan-master", "sampan-agent") if name not in machine.commands]
    if machine.wrapper_needed and "jq" not in machine.commands:
        found.append("the command jq, needed since root has no CAP_SYS_RESOURCE here: install jq")
    needed = MEGABYTES * (nodes + 1)
    if nodes > 0 and machine.memory < needed:
        found.append(f"memory: {nodes} nodes take about {needed} MB, {machine.memory} MB are free (--nodes 1 takes "
                     f"{2 * MEGABYTES} MB)")
    return found


def check(nodes: int) -> None:
    """LabError with all that is missing."""
    found = missing(look(), nodes)
    if found:
        raise LabError("\n  ".join(["this machine lacks what a lab needs:", *found]))


async def check_kernel(lab: Lab) -> None:
    """Try in the switch's namespace whether the kernel can do what is asked of it; LabError."""
    found = []
    for driver, line in DRIVERS.items():
        await shell.succeeds("ip", "-n", lab.switch, "link", "delete", "probe")  # of a check that was killed
        try:
            await shell.ip(lab.switch, line, "link delete probe")
        except shell.CommandFailed:
            found.append(f"{driver} devices in the kernel: modprobe {driver}, or install the kernel's extra modules")
    try:
        await shell.run("nsenter", f"--net=/run/netns/{lab.switch}", "iptables", "--wait", "10", "-t", "nat", "-S")
    except shell.CommandFailed as error:
        found.append(f"a working iptables: {error}")
    if found:
        raise LabError("\n  ".join(["this machine lacks what a lab needs:", *found]))


def raise_limits() -> list[str]:
    """Engines and agents side by side need more inotify instances than the kernel's default of 128.

    Returns what was raised. It is left so: nothing suffers from it, and other programs may count on it by then.
    """
    raised = []
    for path, least in LEAST.items():
        if int(shell.read_setting(path) or least) < least:
            path.write_text(str(least))
            raised.append(f"fs.inotify.{path.name} = {least}")
    return raised
