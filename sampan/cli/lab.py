"""`sampan lab`: a cluster of several nodes on this machine, to try and to learn on."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sampan.cli.progress import CommandError
from sampan.lab.plan import PARTS, Host, Lab, Part

if TYPE_CHECKING:
    from sampan.lab.operations import Tell

DESCRIPTION = """\
A cluster of several nodes on this machine, without virtual machines: each host is a network namespace with its own
containerd and Docker Engine, joined by a bridge in a namespace of its own. The real master and agents run inside,
started as a host would start them.

  sudo sampan lab up                     three nodes: master, node1, node2
  eval "$(sudo sampan lab env)"          so that kubectl finds it
  sudo sampan lab exec node1 -- docker ps
  sudo sampan lab kill node2             cut its power; `start` switches it on again
  sudo sampan lab partition node1        cut its cable; `heal` joins it again
  sudo sampan lab down                   take everything away
"""
PLACES = """\
The state is in /run/sampan-lab/NAME, the hosts' disks are in /var/lib/sampan-lab/NAME (--dir moves them).
Each host's logs are in NAME/HOST/log there.
"""
WHAT = "one part of it: %(choices)s (default: all)"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    lab = commands.add_parser("lab", help="a cluster of several nodes on this machine, without virtual machines",
                              description=DESCRIPTION, epilog=PLACES,
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = lab.add_subparsers(dest="action", required=True, metavar="COMMAND")

    def action(name: str, text: str, *, dir_too: bool = False) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.add_argument("--name", default="lab", help="the lab's name (default: %(default)s)")
        if dir_too:
            made.add_argument("--dir", type=Path, help="the folder of the hosts' disks; not on a tmpfs (default: "
                                                       "/var/lib/sampan-lab/NAME)")
        return made

    up = action("up", "bring a lab up, or what does not run of it", dir_too=True)
    up.add_argument("--nodes", type=int, default=3, help="hosts, the master's among them (default: %(default)s)")
    up.add_argument("--subnet", default="", metavar="CIDR",
                    help="the hosts' network, a /24 (default: the first free one from 192.168.56.0/24 on)")
    status = action("status", "show the lab's hosts and what runs on them")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    action("env", "print the shell line by which kubectl finds the lab")
    actions.add_parser("list", help="list the labs on this machine")
    run = action("exec", "run a command in a host's network, with DOCKER_HOST set to its engine")
    run.add_argument("node", metavar="NODE")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="default: a shell")
    load = action("load", "copy images into every node's engine")
    load.add_argument("images", nargs="+", metavar="IMAGE",
                      help="an image of this machine's engine or of one of the nodes, or a tar file of docker save")
    for name, text in (("kill", "cut a host's power, or end a part of it by SIGKILL; it stays so until `start`"),
                       ("stop", "shut a host down, or end a part of it politely; it stays so until `start`"),
                       ("start", "switch a host on, or start a part of it")):
        power = action(name, text)
        power.add_argument("node", metavar="NODE")
        power.add_argument("part", nargs="?", choices=(*PARTS, "all"), default="all", help=WHAT)
    restart = action("restart", "end a part of a host, whose supervisor starts it again with the sockets it has kept")
    restart.add_argument("node", metavar="NODE")
    restart.add_argument("part", nargs="?", choices=PARTS, default="agent", help="%(choices)s (default: %(default)s)")
    restart.add_argument("--kill", action="store_true", help="by SIGKILL")
    cut = action("partition", "cut hosts off from the others and from this machine; among themselves they are joined")
    cut.add_argument("nodes", nargs="+", metavar="NODE")
    action("heal", "join all hosts again")
    action("down", "take the lab away, or what a crash has left of it", dir_too=True)


def run(arguments: argparse.Namespace) -> int:
    """Carry a command out; returns the exit code."""
    from sampan.lab import operations, state  # noqa: PLC0415 - `sampan version` need not load it

    if os.geteuid() != 0:
        raise CommandError("sampan lab needs root", "run it with sudo")
    tell = operations.Tell()
    match arguments.action:
        case "up":
            made = asyncio.run(operations.up(arguments.name, arguments.nodes, arguments.subnet,
                                             _absolute(arguments.dir), tell))
            print(f"\nexport KUBECONFIG={made.kubeconfig}")
        case "down":
            found = asyncio.run(operations.down(arguments.name, _absolute(arguments.dir), tell))
            tell(f"lab {arguments.name} is gone" if found else f"there is no lab {arguments.name}")
        case "list":
            for lab in state.everyone():
                print(f"{lab.name}\t{lab.subnet}\t{lab.nodes} nodes")
        case _:
            return _with_lab(state.load(arguments.name), arguments, tell)
    return 0


def _with_lab(lab: Lab, arguments: argparse.Namespace, tell: Tell) -> int:
    from sampan.lab import images, operations, status  # noqa: PLC0415 - `sampan version` need not load it

    match arguments.action:
        case "status":
            print(status.render(lab, arguments.output))
        case "env":
            print(f"export KUBECONFIG={lab.kubeconfig}")
        case "exec":
            _exec(lab, lab.host(arguments.node), arguments.argv)
        case "load":
            asyncio.run(images.load(lab, arguments.images, tell))
        case "kill" | "stop" | "start" as how:
            host = lab.host(arguments.node)
            asyncio.run(getattr(operations, how)(lab, host, _part(arguments.part)))
        case "restart":
            operations.restart(lab.host(arguments.node), arguments.part, kill_it=arguments.kill)
        case "partition":
            asyncio.run(operations.partition(lab, [lab.host(name) for name in arguments.nodes]))
        case "heal":
            asyncio.run(operations.partition(lab, []))
    return 0


def _part(name: str) -> Part | None:
    return next((part for part in get_args(Part) if part == name), None)


def _absolute(path: Path | None) -> Path | None:
    return path.resolve() if path else None


def _exec(lab: Lab, host: Host, argv: list[str]) -> None:
    """Become the command; CommandError where that cannot be."""
    from sampan.lab.engine import enter  # noqa: PLC0415 - as above
    from sampan.lab.wires import is_namespace  # noqa: PLC0415 - as above

    if not is_namespace(host.namespace):
        raise CommandError(f"{host.name} is off", f"switch it on: sampan lab start {host.name} --name {lab.name}")
    command = argv[1:] if argv[:1] == ["--"] else argv
    command = command or [os.environ.get("SHELL", "/bin/sh")]
    tools = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = {**os.environ, **host.environment, "PATH": tools, "KUBECONFIG": str(lab.kubeconfig)}
    sys.stdout.flush()
    try:
        os.execvpe("nsenter", [*enter(host), *command], environment)  # noqa: S606 - the user's command
    except OSError as error:
        raise CommandError(f"nsenter: {error.strerror}") from error
