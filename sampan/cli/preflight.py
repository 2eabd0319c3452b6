"""What a host must have before it becomes a node. `look` gathers facts, `problems` judges them, purely.

A step that fails half-way leaves a host that is neither one thing nor the other, so everything that can be known is
looked at first, and all complaints are told at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.cli import engine
from sampan.cli.progress import CommandError

COMMANDS = ("iptables", "iptables-restore", "iptables-save")
AGENT_PORT = 10250
CONNECT_SECONDS = 5.0
"""Seconds to wait for one connection."""
MODPROBE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps this host from being a node, and what to do about it."""

    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.what}\n       {self.hint}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. `engine` is its own error where it does not answer; ports and modules are those amiss."""

    root: bool
    engine: engine.EngineFacts | Problem
    missing_commands: Sequence[str] = ()
    missing_modules: Sequence[str] = ()
    busy_ports: Sequence[int] = ()


def problems(facts: Facts) -> list[Problem]:
    """Everything that has to be put right."""
    found: list[Problem] = []
    if not facts.root:
        found.append(Problem("this needs root", "run it again with sudo"))
    if isinstance(facts.engine, Problem):
        found.append(facts.engine)
    elif complaint := engine.problem(facts.engine):
        found.append(Problem(*complaint))
    if facts.missing_commands:
        found.append(Problem(f"not on this host: {', '.join(facts.missing_commands)}",
                             "install iptables 1.8.5 or newer with the host's package manager"))
    found += [module_problem(module) for module in facts.missing_modules]
    found += [Problem(f"port {port} is in use",
                      f"see who has it: ss -tlnp 'sport = :{port}'. Another cluster's kubelet or master? Stop it")
              for port in facts.busy_ports]
    return found


def module_problem(module: str) -> Problem:
    """A module that the kernel has not, and modprobe does not find."""
    return Problem(f"the kernel module {module} is neither loaded nor built in, nor found by modprobe",
                   f"install the kernel's extra modules (Ubuntu: linux-modules-extra-{platform.release()}; CentOS: "
                   f"kernel-modules-extra), reboot into the installed kernel, then: modprobe {module}")


def demand(facts: Facts) -> None:
    """CommandError with all problems, where there are any."""
    if found := problems(facts):
        raise CommandError("\n       ".join(["this host is not ready for Sampan:", *(
            line for item in found for line in (f"- {item.what}", f"  {item.hint}"))]))


async def look(docker_host: str, ports: Iterable[int]) -> Facts:
    """Look at this host, and whether somebody has one of the ports."""
    root = os.geteuid() == 0
    try:
        found: engine.EngineFacts | Problem = await engine.facts(docker_host)
    except CommandError as error:
        found = Problem(str(error), error.hint)
    modules = await asyncio.to_thread(missing_modules) if root else ()
    return Facts(root, found, missing_commands(), modules, [port for port in ports if port_is_busy(port)])


def missing_commands() -> list[str]:
    """What netplugin runs, and is not on this host."""
    return [name for name in COMMANDS if shutil.which(name, path=search_path()) is None]


def search_path(environ: Mapping[str, str] = os.environ) -> str:
    """PATH with the system directories, which a user's may miss."""
    return environ.get("PATH", "") + ":/usr/sbin:/sbin"


# The kernel

MODULES: Mapping[str, Path] = {
    "overlay": Path("/sys/module/overlay"),
    "br_netfilter": Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    "nf_conntrack": Path("/proc/sys/net/netfilter/nf_conntrack_max"),
    "vxlan": Path("/sys/module/vxlan"),
}
"""What the kernel must be able to do, and what shows that it can, built in or not."""


def missing_modules(modules: Mapping[str, Path] = MODULES,
                    load: Callable[[str], object] | None = None) -> Sequence[str]:
    """Those that are not there, also after trying to load them."""
    missing = []
    for name, sign in modules.items():
        if not sign.exists():
            (load or modprobe)(name)
        if not sign.exists():
            missing.append(name)
    return missing


def modprobe(name: str, *options: str) -> bool:
    """Load a module if that can be done; whether it was is seen by what it brings. With --dry-run: whether it could."""
    try:
        done = subprocess.run(["modprobe", *options, name], env={**os.environ, "PATH": search_path()},
                              capture_output=True, timeout=MODPROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def port_is_busy(port: int) -> bool:
    """Whether somebody listens on that TCP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
            probe.listen(1)
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


# The way to the master

async def reach(host: str, port: int, what: str) -> str:
    """Connect once; returns this host's address on the way there, CommandError with the cause where there is none."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, family=socket.AF_INET)
    except (OSError, TimeoutError) as error:
        raise unreachable(host, port, what, error) from error
    address: str = writer.get_extra_info("sockname")[0]
    writer.close()
    return address


def unreachable(host: str, port: int, what: str, error: Exception) -> CommandError:
    """What a failed connection tells of the network between here and there."""
    place = f"{what} at {host}:{port}"
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return CommandError(f"the name {host} cannot be resolved: {error.strerror}",
                            "use the master's IP address, or put the name into /etc/hosts")
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return CommandError(f"there is no route to {place}: {os.strerror(number)}",
                            f"see: ip route get {host}; is the master's network up on both hosts?")
    if number == errno.ECONNREFUSED:
        return CommandError(f"nothing listens for {place}",
                            "is the master running (on its host: sampan status), and is the port right?")
    if isinstance(error, TimeoutError):
        return CommandError(f"no answer from {place} within {CONNECT_SECONDS:g} s",
                            f"a firewall may be in the way; on the master's host {port}/tcp must be open")
    return CommandError(f"{place} cannot be reached: {error}", f"see: ip route get {host}")
