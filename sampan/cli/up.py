"""`sampan up` and `sampan down`: a one-node cluster on this host."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sampan.api.errors import ApiError
from sampan.api.names import dns_subdomain
from sampan.api.resources import LEASES, NODES, SECRETS
from sampan.cli import configure, objects, preflight, trees
from sampan.cli.paths import Paths, program
from sampan.cli.progress import CommandError, Outcome, Progress
from sampan.cli.units import Name, Units
from sampan.client.http import HttpClient
from sampan.client.kubeconfig import Connection, KubeconfigError
from sampan.clusterconfig import BACKENDS
from sampan.pki import ca, kubeconfig
from sampan.pki.files import write_atomically
from sampan.pki.tokens import NAMESPACE, BootstrapToken, secret_name

READY_SECONDS = 60.0
TOKEN_LIFETIME = timedelta(hours=1)
PROBE_SECONDS = 0.05
LEASE_NAMESPACE = "kube-node-lease"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user may choose when the cluster is first made; later the configuration files count."""

    node_name: str = ""
    node_ip: str = ""
    docker_host: str = "unix:///var/run/docker.sock"
    secure_port: int = configure.SECURE_PORT
    node_port: int = 6444
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/12"
    cgroup_root: str = ""
    network_backend: str = BACKENDS[0]

    @property
    def name(self) -> str:
        """The node's name."""
        return (self.node_name or socket.gethostname()).lower()


async def up(options: UpOptions, paths: Paths, units: Units, progress: Progress) -> None:
    """Bring the cluster up, step by step; each step finds out first whether there is something to do."""
    with progress.step("This host") as outcome:
        refuse_foreign(paths)
        if not paths.agent_config.exists():
            check(options)
        engine = existing(paths.agent_config).get("docker-host") or options.docker_host
        preflight.demand(await preflight.look(engine, wanted_ports(options, paths, units)))
        outcome.unchanged("has what it takes")
    with progress.step("Configuration") as outcome:
        if not write_configuration(options, paths):
            outcome.unchanged(f"in {paths.config}")
    master = configure.read(paths.master_config)
    agent = configure.read(paths.agent_config)
    name = configure.node_name(agent)
    with progress.step("Master") as outcome:
        started = units.start("master", ["--config", str(paths.master_config)])
        await wait_for_master(paths, units, int(master.get("secure-port") or configure.SECURE_PORT))
        if not started:
            outcome.unchanged("is running")
    with progress.step("Kubeconfig") as outcome:
        if not refresh_kubeconfig(paths):
            outcome.unchanged(str(paths.kubeconfig))
    with progress.step("Agent") as outcome:
        if not (configure.identity_folder(agent, paths) / "node.pem").exists():
            await make_token(paths)
        begun = datetime.now(UTC)
        started = units.start("agent", ["--config", str(paths.agent_config)])
        await wait_for_node(paths, units, name, begun if started else None)
        await forget_token(paths)
        if not started:
            outcome.unchanged("is running")
        else:
            outcome.text = f"node {name} is Ready"


def check(options: UpOptions) -> None:
    """See that master and agent will take the options; CommandError. Once they are written, options count no more."""
    if dns_subdomain(options.name) or len(options.name) > configure.NODE_NAME_LIMIT:
        raise CommandError(f'"{options.name}" cannot be a node\'s name: small letters, digits, dashes, dots, at most '
                           f"{configure.NODE_NAME_LIMIT}", "choose another: sampan up --node-name node-1")
    readers: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        ("node-ip", options.node_ip or "127.0.0.1", ipaddress.IPv4Address),
        ("pod-cidr", options.pod_cidr, ipaddress.IPv4Network),
        ("service-cidr", options.service_cidr, ipaddress.IPv4Network))
    for key, text, read in readers:
        try:
            read(text)
        except ValueError as error:
            raise CommandError(f"--{key}: {error}") from error
    for key, port in (("secure-port", options.secure_port), ("node-port", options.node_port)):
        if not 0 < port < 65536:
            raise CommandError(f"--{key}: {port} is no port")


def refuse_foreign(paths: Paths) -> None:
    """CommandError where this host is a node of another host's cluster."""
    agent = existing(paths.agent_config)
    if not paths.master_config.exists() and (configure.identity_folder(agent, paths) / "node.pem").exists():
        raise CommandError(f'this host is node "{configure.node_name(agent)}" of '
                           f"{agent.get('server') or 'another cluster'} already",
                           "take it out of there first: sampan reset")


def existing(config: Path) -> configure.Tree:
    """The settings in a configuration file; none where there is no such file."""
    return configure.read(config) if config.exists() else {}


def wanted_ports(options: UpOptions, paths: Paths, units: Units) -> list[int]:
    """The ports that what does not run yet will listen on."""
    master, agent = existing(paths.master_config), existing(paths.agent_config)
    result = []
    if units.status("master").state == "stopped":
        result += [int(master.get("secure-port", options.secure_port)),
                   int(master.get("node-port-grpc", options.node_port))]
    if units.status("agent").state == "stopped":
        result.append(int(agent.get("port", preflight.AGENT_PORT)))
    return [port for port in result if port]


def write_configuration(options: UpOptions, paths: Paths) -> bool:
    """The two configuration files, where there are none yet."""
    address = options.node_ip or configure.default_address()
    master = {
        "data-dir": str(paths.data / "master"), "pki-dir": str(paths.pki), "advertise-address": address,
        "secure-port": options.secure_port, "node-port-grpc": options.node_port,
        "pod-cidr": options.pod_cidr, "service-cidr": options.service_cidr, "network-backend": options.network_backend,
    }
    agent = {
        "node-name": options.name, "node-ip": address, "server": f"https://{address}:{options.secure_port}",
        "node-server": f"{address}:{options.node_port}", "docker-host": options.docker_host,
        "root-dir": str(paths.data / "agent"), "run-dir": str(paths.run), "cert-dir": str(paths.data / "agent/pki"),
        "bootstrap-token-file": str(paths.bootstrap_token), "pod-cidr": options.pod_cidr,
        "network-backend": options.network_backend,
    }
    if options.cgroup_root:
        agent["cgroup-root"] = options.cgroup_root
    wrote = configure.write_once(paths.master_config, master, "sampan-master")
    return configure.write_once(paths.agent_config, agent, "sampan-agent") or wrote


async def wait_for_master(paths: Paths, units: Units, port: int) -> None:
    """Return when the API server says it is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            async with HttpClient(Connection(f"https://127.0.0.1:{port}", *admin_files(paths))) as client:
                await client.request("GET", "/readyz")
            return
        except (ApiError, KubeconfigError, FileNotFoundError):
            pass  # not yet, or in the middle of a renewal: the deadline decides
        await asyncio.sleep(PROBE_SECONDS)
    raise CommandError(f"the master is not ready after {READY_SECONDS:g} s", f"see: {units.log_hint('master')}")


def refresh_kubeconfig(paths: Paths) -> bool:
    """Bring the administrator's kubeconfig up to the certificates, which the master renews while it runs.

    Tells whether it was written. Does nothing where the certificates are not on this host, or not ours to read.
    """
    if not os.access(paths.pki / "admin.key", os.R_OK) or not os.access(paths.master_config, os.R_OK):
        return False
    server = configure.server(configure.read(paths.master_config))
    return configure.kubeconfig_current(paths, admin_kubeconfig(paths, server))


def admin_kubeconfig(paths: Paths, server: str) -> bytes:
    """The administrator's kubeconfig for a server address."""
    return kubeconfig.render(server, *admin_files(paths))


def admin_files(paths: Paths) -> tuple[bytes, bytes, bytes]:
    """The cluster's CA, the administrator's certificate and key, as PEM."""
    authority, certificate, key = ((paths.pki / name).read_bytes() for name in ("ca.crt", "admin.crt", "admin.key"))
    return authority, certificate, key


async def make_token(paths: Paths) -> None:
    """A short-lived bootstrap token for this host's agent, with the CA's hash beside it."""
    token = BootstrapToken.new()
    async with objects.connect(paths.kubeconfig) as client:
        await client.create(SECRETS, token.to_secret(datetime.now(UTC) + TOKEN_LIFETIME, "made by sampan up"))
    digest = ca.public_key_hash((paths.pki / "ca.crt").read_bytes())
    write_atomically(paths.bootstrap_token, f"{token} {digest}\n".encode())


async def forget_token(paths: Paths) -> None:
    """The token has served: take it back."""
    if not paths.bootstrap_token.exists():
        return
    words = paths.bootstrap_token.read_text("utf-8").split()
    paths.bootstrap_token.unlink()
    if words:
        async with objects.connect(paths.kubeconfig) as client:
            with contextlib.suppress(ApiError):  # it ends by itself
                await client.delete(SECRETS, secret_name(BootstrapToken.parse(words[0]).id), NAMESPACE)


async def wait_for_node(paths: Paths, units: Units, name: str, since: datetime | None) -> None:
    """Return when the node is Ready, and its agent has given a sign of life after `since` where that is given.

    A node that was Ready when its agent stopped still looks so for a while; only the Lease tells.
    """
    deadline, why = time.monotonic() + READY_SECONDS, ""
    async with objects.connect(paths.kubeconfig) as client:
        while time.monotonic() < deadline:
            try:
                nodes = await client.list(NODES, field_selector=f"metadata.name={name}")
                leases = await client.list(LEASES, LEASE_NAMESPACE, field_selector=f"metadata.name={name}")
                alive = since is None or any((lease.spec.renew_time or since) > since for lease in leases.items)
                if alive and any(objects.is_ready(NODES, node) for node in nodes.items):
                    return
                why = ""
            except ApiError as error:  # the master is busy, or starts again
                why = f": {error}"
            await asyncio.sleep(PROBE_SECONDS)
    raise CommandError(f"node {name} is not Ready after {READY_SECONDS:g} s{why}", f"see: {units.log_hint('agent')}")


def down(paths: Paths, units: Units, progress: Progress, *, purge: bool, force: bool = False) -> None:
    """Stop everything and remove containers, bridge and rules; with `purge` the state and configuration too.

    With `force` this goes on where containers cannot be removed, because Docker is gone. CommandError.
    """
    names: tuple[Name, ...] = ("agent", "master")
    for name in names:
        with progress.step(f"Stop the {name}") as outcome:
            if not units.stop(name):
                outcome.unchanged("was not running")
    if paths.agent_config.exists():
        with progress.step("Remove containers, network and volumes") as outcome:
            take_away(paths, outcome, force=force)
    if not purge:
        progress.say(f"State and configuration are kept in {paths.data} and {paths.config}; --purge removes them.")
        return
    with progress.step("Remove state and configuration") as outcome:
        trees.unmount(paths.pods)
        present = [path for path in (paths.config, paths.data, paths.run, paths.log) if path.exists()]
        for path in present:
            trees.remove(path)
        if not present:
            outcome.unchanged()


def take_away(paths: Paths, outcome: Outcome, *, force: bool) -> None:
    """Remove all that the agent made; CommandError where Docker is gone, unless `force` says to leave that behind."""
    try:
        clean_up(paths, force=force)
    except CommandError as error:
        if not force:
            raise CommandError(str(error), "start Docker and run this again, or leave containers behind with --force: "
                               "docker ps -a --filter label=sampan.node") from error
        outcome.text = f"not all of it: {error}"


def clean_up(paths: Paths, *, force: bool = False) -> None:
    """Have the agent take away all of its pods; CommandError, with `force` after what can be done without Docker."""
    command = [program("sampan-agent"), "cleanup", "--config", str(paths.agent_config), *(["--force"] if force else ())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandError("removing the containers takes too long", "see: docker ps -a") from error
    if done.returncode != 0:
        raise CommandError(f"sampan-agent cleanup: {(done.stderr or done.stdout).strip()[-2000:]}",
                           "is Docker running? see: docker ps -a")
