"""Entry point of the `sampan` command."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import fields
from pathlib import Path

from sampan import __version__
from sampan.api.errors import ApiError
from sampan.cli import hosts, lab
from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError, Progress
from sampan.client.kubeconfig import KubeconfigError
from sampan.clusterconfig import BACKENDS
from sampan.pki.ca import CertificateError

EPILOG = """\
Places: /etc/sampan (configuration, admin.kubeconfig), /var/lib/sampan (state), /run/sampan, /var/log/sampan.
SAMPAN_CONFIG_DIR, SAMPAN_DATA_DIR, SAMPAN_RUN_DIR and SAMPAN_LOG_DIR move them.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="sampan", description="Kubernetes for Docker hosts.", epilog=EPILOG,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _up_parser(commands.add_parser("up", help="bring a one-node cluster up on this host",
                                   description="Bring a one-node cluster up on this host: master and agent, as "
                                   "systemd units or as background processes. Changes only what is not as it "
                                   "should be. The options count when the cluster is made; afterwards edit "
                                   "/etc/sampan/*.yaml."))
    down = commands.add_parser("down", help="take the cluster away",
                               description="Stop master and agent; remove containers, bridge, rules and volumes.")
    down.add_argument("--purge", action="store_true", help="remove state, configuration and logs too")
    down.add_argument("--force", action="store_true", help="go on where Docker cannot be reached")
    status = commands.add_parser("status", help="show how services, node and pods are",
                                 description="Show how services, node and pods are. Exits 1 if anything is wrong.")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    config = commands.add_parser("kubeconfig", help="print the administrator's kubeconfig")
    config.set_defaults(command="kubeconfig")
    hosts.add_parsers(commands)
    lab.add_parser(commands)
    _object_parsers(commands)
    commands.add_parser("version", help="print the version")
    return top


def _up_parser(up: argparse.ArgumentParser) -> None:
    up.add_argument("--node-name", default="", help="the node's name (default: the host's name)")
    up.add_argument("--node-ip", default="", help="the node's address (default: that of the default route)")
    up.add_argument("--docker-host", default=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
                    help="the Docker Engine's socket (default: $DOCKER_HOST, else %(default)s)")
    up.add_argument("--secure-port", type=int, default=6443, help="the API's HTTPS port (default: %(default)s)")
    up.add_argument("--node-port", type=int, default=6444, help="the port for agents (default: %(default)s)")
    up.add_argument("--pod-cidr", default="10.244.0.0/16", help="the pods' addresses (default: %(default)s)")
    up.add_argument("--network-backend", default=BACKENDS[0], choices=BACKENDS,
                    help="how nodes reach one another's pods (default: %(default)s)")
    up.add_argument("--service-cidr", default="10.96.0.0/12", help="the Services' addresses (default: %(default)s)")
    up.add_argument("--cgroup-root", default="", help="the cgroup under which pods run (default: the root)")
    up.add_argument("--progress-only", action="store_true", help="do not say at the end how to go on")


def _object_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    get = commands.add_parser("get", help="list objects, for hosts without kubectl")
    get.add_argument("resource", help="pods, nodes, deployments, services, …")
    get.add_argument("-n", "--namespace", default="default")
    get.add_argument("-A", "--all-namespaces", action="store_true")
    get.add_argument("-l", "--selector", default="", help="a label selector")
    get.add_argument("-o", "--output", choices=("table", "json", "ip"), default="table")
    apply = commands.add_parser("apply", help="create or change what a file describes, for hosts without kubectl")
    apply.add_argument("-f", "--filename", type=Path, required=True, help="a YAML file, - for standard input")
    apply.add_argument("-n", "--namespace", default="default")
    wait = commands.add_parser("wait", help="wait until a deployment, pod or node is ready")
    wait.add_argument("target", help="such as deployment/hello")
    wait.add_argument("-n", "--namespace", default="default")
    wait.add_argument("--timeout", type=float, default=60, help="seconds (default: %(default)s)")
    for parser in (get, apply, wait):
        hosts.add_kubeconfig(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry a command out; returns the exit code."""
    paths = Paths.from_environment()
    match arguments.command:
        case "version":
            print(f"sampan {__version__} (Kubernetes API v1.32)")
        case "kubeconfig":
            print(_kubeconfig(paths), end="")
        case "up":
            _up(arguments, paths)
        case "down":
            _down(arguments, paths)
        case "status":
            return _status(arguments, paths)
        case "lab":
            return lab.run(arguments)
        case command if command in hosts.COMMANDS:
            return hosts.run(arguments, paths)
        case _:
            print(asyncio.run(_objects(arguments, paths)))
    return 0


def _kubeconfig(paths: Paths) -> str:
    from sampan.cli.up import refresh_kubeconfig  # noqa: PLC0415 - `sampan version` need not load it

    try:
        refresh_kubeconfig(paths)
        return paths.kubeconfig.read_text("utf-8")
    except FileNotFoundError as error:
        raise CommandError(f"there is no {paths.kubeconfig}", "bring the cluster up first: sudo sampan up") from error
    except PermissionError as error:
        raise CommandError(f"{paths.kubeconfig} is root's", "run: sudo sampan kubeconfig") from error


def _up(arguments: argparse.Namespace, paths: Paths) -> None:
    from sampan.cli.units import units  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.up import UpOptions, up  # noqa: PLC0415 - as above

    _need_root("up")
    options = UpOptions(**{item.name: getattr(arguments, item.name) for item in fields(UpOptions)})
    progress = Progress()
    asyncio.run(up(options, paths, units(paths), progress))
    if not arguments.progress_only:
        progress.say("" if progress.changed else "Nothing had to be changed.")
        progress.say(f"kubectl --kubeconfig {paths.kubeconfig} get pods -A")


def _down(arguments: argparse.Namespace, paths: Paths) -> None:
    from sampan.cli.units import units  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.up import down  # noqa: PLC0415 - as above

    _need_root("down")
    down(paths, units(paths), Progress(), purge=arguments.purge, force=arguments.force)


def _status(arguments: argparse.Namespace, paths: Paths) -> int:
    from sampan.cli import status  # noqa: PLC0415 - `sampan version` need not load it
    from sampan.cli.units import units  # noqa: PLC0415 - as above

    found = asyncio.run(status.collect(paths, units(paths)))
    print(status.render(found, arguments.output))
    return 0 if status.healthy(found) else 1


async def _objects(arguments: argparse.Namespace, paths: Paths) -> str:
    from sampan.cli import objects  # noqa: PLC0415 - `sampan version` need not load it

    async with objects.connect(*paths.kubeconfigs(arguments.kubeconfig)) as client:
        if arguments.command == "get":
            namespace = "" if arguments.all_namespaces else arguments.namespace
            return await objects.get(client, arguments.resource, namespace, selector=arguments.selector,
                                     output=arguments.output)
        if arguments.command == "apply":
            return "\n".join(await objects.apply(client, arguments.filename, arguments.namespace))
        return await objects.wait(client, arguments.target, arguments.namespace, arguments.timeout)


def _need_root(command: str) -> None:
    if os.geteuid() != 0:
        raise CommandError(f"sampan {command} needs root", f"run: sudo sampan {command}")


def main() -> int:
    """Parse, run, and turn what goes wrong into one clear message and exit code 1."""
    arguments = parser().parse_args()
    try:
        return run(arguments)
    except CommandError as error:
        print(f"error: {error}" + (f"\n       {error.hint}" if error.hint else ""), file=sys.stderr)
    except (ApiError, CertificateError, KubeconfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1
