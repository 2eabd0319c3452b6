"""What can be done with a lab: bring it up, switch hosts off and on, cut cables, and take it all away.

Each operation brings things to where they should be from wherever they are, so each may be repeated, and `up` completes
what a crash left half done.
"""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from sampan.cli import trees
from sampan.lab import cluster, engine, needs, processes, shell, state, wires
from sampan.lab.plan import Host, Lab, LabError, Part, check_name, check_nodes, free_subnet, is_free

DOCKER_PID = Path("/run/docker.pid")
STOP_SECONDS = 30.0


class Tell:
    """Prints what has been done, with the time since the beginning: much happens side by side."""

    def __init__(self, out: TextIO = sys.stdout, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._monotonic = monotonic
        self._started = monotonic()

    def __call__(self, text: str) -> None:
        """Print a line."""
        self._out.write(f"{self._monotonic() - self._started:6.1f} s  {text}\n")
        self._out.flush()


async def up(name: str, nodes: int, subnet: str, data: Path | None, tell: Tell) -> Lab:
    """Bring a lab up, or what does not run of one that is there."""
    check_name(name)
    check_nodes(nodes)
    needs.check(nodes - running(name))
    for raised in needs.raise_limits():
        tell(f"raised {raised}")
    with state.alone():
        lab = await prepare(name, nodes, subnet, data, tell)
    with shell.first_error():
        async with asyncio.TaskGroup() as group:
            master = group.create_task(cluster.start_master(lab))
            for host in lab.hosts:
                group.create_task(_bring(lab, host, master, tell))
    return lab


def running(name: str) -> int:
    """How many hosts of a lab run, and so have their memory already."""
    lab = state.find(name)
    return sum(engine.unit(host, "docker").pid > 0 for host in lab.hosts) if lab else 0


async def _bring(lab: Lab, host: Host, master: asyncio.Task[None], tell: Tell) -> None:
    await engine.start_containerd(host)
    await engine.start_docker(host)
    tell(f"{host.name}: Docker Engine answers")
    await asyncio.shield(master)
    if host.master:
        tell(f"{host.name}: API ready at {lab.server}")
    begun = datetime.now(UTC)
    await cluster.start_agent(lab, host)
    if host.name in lab.partitioned:
        tell(f"{host.name}: runs, and is cut off; to join it again: sampan lab heal --name {lab.name}")
        return
    await cluster.until_ready(lab, host, begun)
    tell(f"{host.name}: node is Ready ({host.ip})")


async def prepare(name: str, nodes: int, subnet: str, data: Path | None, tell: Tell) -> Lab:
    """Find the lab, or decide upon it and write that down; then lay its cables."""
    lab = state.find(name)
    if lab is None:
        lab = await plan(name, nodes, subnet, data or state.DATA / name)
        if await take_away(name, [lab.data]):
            tell("removed what an earlier lab of this name had left")
        state.claim(lab)
        state.save(lab)
    elif lab.nodes != nodes:
        raise LabError(f"lab {name} is there, with {lab.nodes} nodes",
                       f"take it down first (sampan lab down --name {name}), or choose another --name")
    if lab.master.name in lab.partitioned:
        raise LabError(f"lab {name} has its master cut off", f"join it again first: sampan lab heal --name {name}")
    lab = turn_on_forwarding(lab)
    await wires.make_namespace(lab.switch)
    await needs.check_kernel(lab)
    await wires.lay_switch(lab)
    for host in lab.hosts:
        await wires.plug_in(lab, host)
        await engine.make_mounts(host)
    tell(f"{len(lab.hosts)} hosts in {lab.subnet}, this machine is {lab.gateway}")
    return lab


async def plan(name: str, nodes: int, subnet: str, data: Path) -> Lab:
    """Choose a subnet that nothing else uses; LabError where the user's choice does not do."""
    taken = [*await wires.used_subnets(), *(other.subnet for other in state.everyone())]
    if not subnet:
        return Lab(name, free_subnet(taken), nodes, state.folder(name), data)
    try:
        chosen = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise LabError(f"--subnet {subnet}: {error}", "give a network such as 192.168.60.0/24") from error
    if chosen.prefixlen != 24:
        raise LabError(f"--subnet {subnet}: must be a /24")
    if not is_free(chosen, taken):
        raise LabError(f"--subnet {subnet}: something on this machine uses it", "see: ip route")
    return Lab(name, chosen, nodes, state.folder(name), data)


def turn_on_forwarding(lab: Lab) -> Lab:
    """Have the machine pass packets on, and remember where that was not so before."""
    if wires.FORWARDING.read_text("utf-8").strip() == "0":
        lab = replace(lab, forwarding=True)
        state.save(lab)
        wires.FORWARDING.write_text("1\n")
    return lab


async def down(name: str, data: Path | None, tell: Tell) -> bool:
    """Take a lab away, or what is left of one; tells whether there was anything."""
    check_name(name)
    with state.alone():
        try:
            lab = state.find(name)
        except LabError as error:
            lab = None
            tell(f"{error}; going by its names")
        places = [state.folder(name), state.DATA / name, *([data] if data else []), *([lab.data] if lab else [])]
        found = await take_away(name, places)
        if lab and lab.forwarding:
            turn_off_forwarding()
    return found or lab is not None


def turn_off_forwarding() -> None:
    """Undo `turn_on_forwarding`; where another lab is up it falls to that one. Docker, if it runs, needs it too."""
    others = state.everyone()
    if others:
        state.save(replace(others[0], forwarding=True))
    elif not DOCKER_PID.exists():
        wires.FORWARDING.write_text("0\n")


async def take_away(name: str, places: Sequence[Path]) -> bool:
    """Remove what goes by a lab's name, and those of these folders that are its own; tells whether there was any."""
    namespaces = sorted(path.name for path in wires.NAMESPACES.glob(f"sampan-{name}-*"))
    present = [path for path in dict.fromkeys(places) if path.is_dir() and state.is_ours(path, name)]
    found = bool(namespaces or present)
    await asyncio.gather(*(processes.end_namespace(namespace) for namespace in namespaces))
    for tree in processes.cgroup_trees(f"sampan-{name}-*"):
        found = True
        await processes.end_cgroup(tree)
    trees.unmount(*present)
    for namespace in namespaces:
        await wires.remove_namespace(namespace)
    await wires.remove_uplink(name)
    await wires.remove_rules(name)
    for path in present:  # the state goes last: a lab half taken away is still known
        if path != state.folder(name):
            remove_folder(path)
    shutil.rmtree(state.folder(name), ignore_errors=True)
    return found


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it; LabError."""
    try:
        trees.remove(path)
    except OSError as error:
        raise LabError(f"{path} cannot be removed: {error}", "see what uses it: mount, lsof") from error


# Hosts.

async def start(lab: Lab, host: Host, part: Part | None) -> None:
    """Switch a host on, or start one part of it; what runs is left alone."""
    await wires.plug_in(lab, host)
    await engine.make_mounts(host)
    for one in _chosen(host, part):
        match one:
            case "containerd":
                await engine.start_containerd(host)
            case "docker":
                await engine.start_containerd(host)  # as docker.service requires it
                await engine.start_docker(host)
            case "master":
                await cluster.start_master(lab)
            case "agent":
                await cluster.start_agent(lab, host)


async def stop(lab: Lab, host: Host, part: Part | None) -> None:
    """Shut a host down, or end one part of it politely."""
    for one in reversed(_chosen(host, part)):
        engine.unit(host, one).stop(STOP_SECONDS)
    if part is None:
        await switch_off(lab, host)


async def kill(lab: Lab, host: Host, part: Part | None) -> None:
    """Cut a host's power, or end one part of it by SIGKILL; its supervisor goes with it."""
    if part is None:
        await switch_off(lab, host)
    else:
        _chosen(host, part)
        engine.unit(host, part).kill()


async def switch_off(lab: Lab, host: Host) -> None:
    """All of the host's processes and kernel state end, and its /run is emptied; its disk stays."""
    await processes.end_namespace(host.namespace)
    for cgroup in (host.docker_cgroup, host.pods_cgroup):
        for tree in processes.cgroup_trees(cgroup.lstrip("/")):
            await processes.end_cgroup(tree)
    trees.unmount(host.paths.run, host.docker_data, host.paths.data)
    await wires.pull_out(lab, host)
    shutil.rmtree(host.paths.run, ignore_errors=True)


def restart(host: Host, part: Part, *, kill_it: bool) -> None:
    """End one part, by SIGKILL if wanted; its supervisor starts it again."""
    _chosen(host, part)
    supervised = engine.unit(host, part)
    if not supervised.pid:
        raise LabError(f"{host.name}: {part} does not run", f"start it: sampan lab start {host.name} {part}")
    supervised.restart(kill=kill_it)


def _chosen(host: Host, part: Part | None) -> tuple[Part, ...]:
    if part is not None and part not in host.parts:
        raise LabError(f"{host.name} runs no {part}", f"it runs {', '.join(host.parts)}")
    return host.parts if part is None else (part,)


async def partition(lab: Lab, hosts: Sequence[Host]) -> Lab:
    """Cut these hosts off from the others and from the machine; none, to join all again."""
    with state.alone():
        cut = replace(state.load(lab.name), partitioned=tuple(host.name for host in hosts))
        state.save(cut)
    for host in lab.hosts:
        if await wires.has_link(lab.switch, host.port):  # a host that is off is plugged in when it is started
            await wires.patch(lab, host, cut_off=host in hosts)
    return cut
