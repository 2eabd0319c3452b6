"""The commands for hosts that join a cluster and leave it: token, join, reset, certs, doctor."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError, Progress
from sampan.clusterconfig import BACKENDS

COMMANDS = ("token", "join", "reset", "certs", "doctor")
Commands = Any  # argparse keeps the type of its subparsers to itself


def add_parsers(commands: Commands) -> None:
    """Their command lines."""
    _token_parser(commands.add_parser("token", help="tokens with which hosts join the cluster"))
    _join_parser(commands.add_parser(
        "join", help="make this host a node of a cluster",
        description="Make this host a node of a cluster. On the master, `sampan token create --print-join-command` "
        "prints the whole line."))
    reset = commands.add_parser("reset", help="undo sampan join on this host",
                                description="Stop the agent and remove all that it made: containers, network, rules, "
                                "volumes, identity, configuration.")
    reset.add_argument("--force", action="store_true", help="go on where Docker cannot be reached")
    certs = commands.add_parser("certs", help="list this host's certificates, or renew them",
                                description="List this host's certificates and when they end. They are renewed in time "
                                "while master and agent run.")
    certs.add_argument("action", nargs="?", choices=("list", "renew"), default="list")
    certs.add_argument("name", nargs="*", help="which to renew (default: all that this host can renew)")
    certs.add_argument("-o", "--output", choices=("text", "json"), default="text")
    doctor = commands.add_parser(
        "doctor", help="look for what breaks clusters on this host",
        description="Look for what breaks clusters on this host (firewalls, kernel settings, Docker, disks, clock, "
        "certificates, DNS), and print the commands that mend it. Changes nothing. Exits 1 where there is a fault.")
    doctor.add_argument("-o", "--output", choices=("text", "json"), default="text")
    doctor.add_argument("--docker-host", default=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
                        help="the Docker Engine's socket, where the host is in no cluster yet (default: $DOCKER_HOST, "
                        "else %(default)s)")


def _token_parser(token: argparse.ArgumentParser) -> None:
    actions = token.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token, and print it")
    create.add_argument("token", nargs="?", default="", help="the token (default: a random one)")
    create.add_argument("--ttl", default="24h", help="how long it lasts, 0 for ever (default: %(default)s)")
    create.add_argument("--description", default="", help="what it is for")
    create.add_argument("--print-join-command", action="store_true", help="print the line to run on the new host")
    show = actions.add_parser("list", help="list the tokens")
    show.add_argument("-o", "--output", choices=("text", "json"), default="text")
    delete = actions.add_parser("delete", help="delete tokens")
    delete.add_argument("token", nargs="+", help="a token or its id, the part before the dot")
    for parser in (create, show, delete):
        add_kubeconfig(parser)


def add_kubeconfig(parser: argparse.ArgumentParser) -> None:
    """The option of all commands that speak to a cluster as its administrator."""
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE",
                        help="an administrator's (default: $KUBECONFIG, else that of this host's cluster)")


def _join_parser(join: argparse.ArgumentParser) -> None:
    join.add_argument("server", metavar="URL", help="the API server: https://MASTER:6443")
    join.add_argument("--token", default="", help="a bootstrap token")
    join.add_argument("--ca-hash", "--discovery-token-ca-cert-hash", default="", metavar="sha256:HEX",
                      help="the hash of the cluster CA's public key")
    join.add_argument("--node-name", default="", help="the node's name (default: the host's name)")
    join.add_argument("--node-ip", default="", help="the node's address (default: that of the way to the master)")
    join.add_argument("--node-server", default="", metavar="HOST:PORT",
                      help="the master's port for agents (default: the server's host, 6444)")
    join.add_argument("--pod-cidr", default="", help="the cluster's pod network (default: as the cluster tells)")
    join.add_argument("--network-backend", default="", choices=("", *BACKENDS), metavar="NAME",
                      help=f"{' or '.join(BACKENDS)} (default: as the cluster tells)")
    join.add_argument("--docker-host", default=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
                      help="the Docker Engine's socket (default: $DOCKER_HOST, else %(default)s)")
    join.add_argument("--cgroup-root", default="", help="the cgroup under which pods run (default: the root)")
    join.add_argument("--timeout", type=float, default=120, metavar="SECONDS",
                      help="how long to wait for the node to become Ready (default: %(default)s)")


def run(arguments: argparse.Namespace, paths: Paths) -> int:
    """Carry one of them out; returns the exit code."""
    commands: dict[str, Callable[[argparse.Namespace, Paths], int]] = {
        "token": _token, "join": _join, "reset": _reset, "certs": _certs, "doctor": _doctor}
    return commands[arguments.command](arguments, paths)


def _token(arguments: argparse.Namespace, paths: Paths) -> int:
    print(asyncio.run(_token_action(arguments, paths)))
    return 0


async def _token_action(arguments: argparse.Namespace, paths: Paths) -> str:
    from sampan.cli import objects, token  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.client.http import HttpClient  # noqa: PLC0415 - as above
    from sampan.pki.tokens import BootstrapToken  # noqa: PLC0415 - as above

    connection = objects.connection(*paths.kubeconfigs(arguments.kubeconfig))
    async with HttpClient(connection) as client:
        if arguments.action == "list":
            return token.render(await token.tokens(client), datetime.now(UTC), arguments.output)
        if arguments.action == "delete":
            return "\n".join([await token.delete(client, name) for name in arguments.token])
        try:
            made = BootstrapToken.parse(arguments.token) if arguments.token else BootstrapToken.new()
            ttl: timedelta | None = token.lifetime(arguments.ttl)
        except ValueError as error:
            raise CommandError(str(error), "see: sampan token create --help") from error
        line = str(made)
        if arguments.print_join_command:
            line = await token.join_command(client, made, connection)
        await token.create(client, made, ttl, arguments.description)
        return line


def _join(arguments: argparse.Namespace, paths: Paths) -> int:
    from sampan.cli.join import JoinOptions, join  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.units import units  # noqa: PLC0415 - as above

    options = JoinOptions(**{name: getattr(arguments, name) for name in JoinOptions.__slots__})
    asyncio.run(join(options, paths, units(paths), Progress()))
    return 0


def _reset(arguments: argparse.Namespace, paths: Paths) -> int:
    from sampan.cli.reset import reset  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.units import units  # noqa: PLC0415 - as above

    _need_root("reset")
    reset(paths, units(paths), Progress(), force=arguments.force)
    return 0


def _certs(arguments: argparse.Namespace, paths: Paths) -> int:
    from sampan.cli import certs  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.units import units  # noqa: PLC0415 - as above

    _need_root("certs")
    now = datetime.now(UTC)
    if arguments.action == "renew":
        for line in certs.renew(paths, units(paths), arguments.name):
            print(line)
        return 0
    found = certs.collect(paths)
    print(certs.render(found, now, arguments.output))
    return 1 if any(item.expires <= now for item in found) else 0


def _doctor(arguments: argparse.Namespace, paths: Paths) -> int:
    from sampan.cli.doctor import checks, findings  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.doctor.gather import Gatherer  # noqa: PLC0415 - as above
    from sampan.cli.units import units  # noqa: PLC0415 - as above

    _need_root("doctor")
    found = checks.judge(asyncio.run(Gatherer(paths, units(paths), arguments.docker_host).facts()))
    print(findings.render(found, arguments.output))
    return 1 if findings.faulty(found) else 0


def _need_root(command: str) -> None:
    if os.geteuid() != 0:
        raise CommandError(f"sampan {command} needs root", f"run: sudo sampan {command}")
