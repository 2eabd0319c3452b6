"""`sampan join`: make this host a node of a cluster, or say what keeps it from being one. It never waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from sampan import clusterconfig
from sampan.api.errors import ApiError
from sampan.api.resources import LEASES, NODES
from sampan.api.types import core_v1
from sampan.cli import configure, objects, preflight
from sampan.cli.paths import Paths, program
from sampan.cli.progress import CommandError, Progress
from sampan.cli.token import cluster_settings
from sampan.cli.units import Units
from sampan.client.http import HttpClient
from sampan.client.kubeconfig import Connection, KubeconfigError
from sampan.pki import pair
from sampan.pki.files import write_atomically
from sampan.pki.tokens import BootstrapToken

Tree = dict[str, Any]

CERTIFICATE_SECONDS = 330.0
"""Seconds for the certificate; somebody may have to approve the request."""
POLL_SECONDS = 0.25
REQUEST_SECONDS = 5.0
LEASE_NAMESPACE = "kube-node-lease"
NEW_LINE = "get a new join line on the master: sampan token create --print-join-command"


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """What the join line and the user say. `timeout` is in seconds, for the node to become Ready."""

    server: str
    token: str = ""
    ca_hash: str = ""
    node_name: str = ""
    node_ip: str = ""
    node_server: str = ""
    pod_cidr: str = ""
    network_backend: str = ""
    docker_host: str = "unix:///var/run/docker.sock"
    cgroup_root: str = ""
    timeout: float = 120.0

    @property
    def host(self) -> str:
        """The master's name or address."""
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        """The API's port."""
        return urlsplit(self.server).port or 6443

    @property
    def lines(self) -> tuple[str, int]:
        """Where agents connect."""
        url = urlsplit(f"//{self.node_server}")
        return (url.hostname or self.host, url.port or 6444)

    @property
    def name(self) -> str:
        """The node's name."""
        return (self.node_name or socket.gethostname()).lower()


def check(options: JoinOptions) -> JoinOptions:
    """See that the options can be meant; CommandError. Returns them with the server's address made whole."""
    whole = check_server(options)
    try:
        BootstrapToken.parse(options.token)
    except ValueError as error:
        raise CommandError(f"--token: {error}", NEW_LINE) from error
    digest = options.ca_hash.partition("sha256:")[2]
    if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        raise CommandError("--ca-hash: needed to know the master from somebody in between: sha256: and 64 digits",
                           NEW_LINE)
    return whole


def check_server(options: JoinOptions) -> JoinOptions:
    """The options with the server's address made whole; CommandError where it is none."""
    text = options.server if "://" in options.server else f"https://{options.server}"
    url = urlsplit(text)
    try:
        port = 6443 if url.port is None else url.port
    except ValueError:
        port = 0
    if url.scheme != "https" or not url.hostname or url.path not in ("", "/") or not port:
        raise CommandError(f"{options.server!r} is not an API server's address",
                           "it looks like https://192.168.56.10:6443")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    values = {field: getattr(options, field) for field in JoinOptions.__slots__}
    return JoinOptions(**values | {"server": f"https://{host}:{port}"})


async def join(options: JoinOptions, paths: Paths, units: Units, progress: Progress) -> None:
    """Join, step by step; CommandError where a step fails, and then the host is as it was before."""
    options = check(options)
    with progress.step("This host") as outcome:
        preflight.demand(await preflight.look(
            options.docker_host, () if units.status("agent").state == "running" else (preflight.AGENT_PORT,)))
        outcome.unchanged("has what it takes")
    with progress.step("The way to the master") as outcome:
        address = await preflight.reach(options.host, options.port, "the API server")
        await preflight.reach(*options.lines, "the master's node service")
        outcome.unchanged(f"from {options.node_ip or address}")
    before = existing(paths, options)
    if before and await is_ready(options, paths) and units.status("agent").state == "running":
        progress.say(f"This host is node {options.name} already, and Ready.")
        return
    with undone(paths, units):
        with progress.step("Configuration") as outcome:
            units.stop("agent")
            write_configuration(options, address, paths)
            outcome.text = f"in {paths.agent_config}"
        with progress.step("Certificate"):
            await certificate(options, paths, progress)
        with progress.step("The cluster's settings") as outcome:
            outcome.text = await adopt_settings(options, paths) or "none"
    with progress.step(f"Node {options.name}") as outcome:
        begun = datetime.now(UTC)
        units.start("agent", ["--config", str(paths.agent_config)])
        await wait_until_ready(options, paths, units.log_hint("agent"), begun)
        outcome.text = "is Ready"


# The configuration

def existing(paths: Paths, options: JoinOptions) -> bool:
    """Whether this host has an identity already; CommandError where it is another than the one asked for."""
    if not identity(paths).exists():
        return False
    settings = configure.read(paths.agent_config) if paths.agent_config.exists() else {}
    name, server = str(settings.get("node-name", "")), str(settings.get("server", ""))
    if (name, server) != (options.name, options.server):
        raise CommandError(f'this host is node "{name}" of {server or "another cluster"} already',
                           "take it out of there first: sampan reset")
    return True


def identity(paths: Paths) -> Path:
    """The file with the node's key and certificate."""
    return paths.data / "agent" / "pki" / "node.pem"


def write_configuration(options: JoinOptions, address: str, paths: Paths) -> None:
    """The agent's configuration file; settings of yours in one that is there stay."""
    host, port = options.lines
    settings: Tree = {
        "node-name": options.name, "node-ip": options.node_ip or address,
        "node-interface": "" if options.node_ip else configure.interface_of(address), "server": options.server,
        "node-server": f"{host}:{port}", "docker-host": options.docker_host,
        "root-dir": str(paths.data / "agent"), "run-dir": str(paths.run), "cert-dir": str(identity(paths).parent),
        "bootstrap-token-file": str(paths.bootstrap_token),
    }
    chosen = {"cgroup-root": options.cgroup_root, clusterconfig.POD_CIDR: options.pod_cidr,
              clusterconfig.NETWORK_BACKEND: options.network_backend}
    settings |= {key: value for key, value in chosen.items() if value}
    if paths.agent_config.exists():
        settings = configure.read(paths.agent_config) | settings
    _write(settings, paths)


def _write(settings: Tree, paths: Paths) -> None:
    head = configure.HEADER.format(program="sampan-agent")
    write_atomically(paths.agent_config, (head + yaml.safe_dump(settings, sort_keys=False)).encode())


@contextmanager
def undone(paths: Paths, units: Units) -> Iterator[None]:
    """Put configuration, identity and agent back as they were if what is done within fails."""
    files = (paths.agent_config, identity(paths), identity(paths).with_name("ca.crt"))
    ran = units.status("agent").state == "running"
    kept = {path: path.read_bytes() for path in files if path.exists()}
    try:
        yield
    except BaseException:
        for path in files:
            if path in kept:
                write_atomically(path, kept[path])
            else:
                path.unlink(missing_ok=True)
        if ran:
            units.start("agent", ["--config", str(paths.agent_config)])
        raise
    finally:
        paths.bootstrap_token.unlink(missing_ok=True)


# The certificate

async def certificate(options: JoinOptions, paths: Paths, progress: Progress) -> None:
    """Have the agent get its certificate; CommandError with what it says."""
    identity(paths).unlink(missing_ok=True)  # that of a node which was deleted meanwhile is of no use
    write_atomically(paths.bootstrap_token, f"{options.token.strip()} {options.ca_hash}\n".encode())
    process = await asyncio.create_subprocess_exec(
        program("sampan-agent"), "join", "--config", str(paths.agent_config), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    last = ""
    try:
        async with asyncio.timeout(CERTIFICATE_SECONDS):
            async for line in process.stderr:
                if last:
                    progress.note(last)
                last = line.decode("utf-8", "replace").strip()
            code = await process.wait()
    except TimeoutError as error:
        raise CommandError(f"no certificate within {CERTIFICATE_SECONDS:g} s: {last}",
                           "see the requests on the master: kubectl get csr") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if code:
        raise CommandError(last or f"sampan-agent join ended with code {code}")


# The node

async def adopt_settings(options: JoinOptions, paths: Paths) -> str:
    """Add what the cluster tells its nodes to the agent's configuration; what it told, in words. CommandError.

    It is asked with the node's new certificate, so that a token alone lets nobody read anything.
    """
    settings = configure.read(paths.agent_config)
    try:
        async with as_node(options, paths) as client:
            told = await cluster_settings(client)
        missing = clusterconfig.adopt(settings, told)
    except ApiError as error:
        raise CommandError(f"the cluster's settings cannot be read: {error}",
                           f"they are the ConfigMap {clusterconfig.NAMESPACE}/{clusterconfig.NAME}") from error
    except clusterconfig.Contradiction as error:
        raise CommandError(str(error), f"all nodes need the same: leave it away here (option, {paths.agent_config}) or "
                           "change it in /etc/sampan/master.yaml and on every node") from error
    if missing:
        _write(settings | missing, paths)
    return ", ".join(f"{key} {told[key]}" for key in clusterconfig.FOR_NODES if key in told)


@asynccontextmanager
async def as_node(options: JoinOptions, paths: Paths) -> AsyncIterator[HttpClient]:
    """A client with the node's own certificate; CommandError where that cannot be read."""
    place = identity(paths)
    try:
        own = pair.split(place.read_bytes())
        authority = place.with_name("ca.crt").read_bytes()
        async with HttpClient(Connection(options.server, authority, own.certificate, own.key),
                              timeout=REQUEST_SECONDS) as client:
            yield client
    except (OSError, pair.CertificateError, KubeconfigError) as error:
        raise CommandError(f"the node's identity in {place.parent} cannot be used: {error}",
                           "start afresh: sampan reset") from error


async def is_ready(options: JoinOptions, paths: Paths) -> bool:
    """Whether the cluster knows this node by its present certificate, and finds it Ready."""
    try:
        async with as_node(options, paths) as client:
            return objects.is_ready(NODES, await client.get(NODES, options.name))
    except (ApiError, CommandError):
        return False


async def wait_until_ready(options: JoinOptions, paths: Paths, log_hint: str, since: datetime) -> None:
    """Return when the node is Ready; CommandError with what is missing after `options.timeout` seconds.

    A node that was Ready when its agent stopped still looks so for a while: its Lease tells of an agent after `since`.
    """
    deadline = time.monotonic() + options.timeout
    state = "it has not registered"
    async with as_node(options, paths) as client:
        while time.monotonic() < deadline:
            try:
                node = await client.get(NODES, options.name)
                if not objects.is_ready(NODES, node):
                    state = unready(node)
                elif await heard(client, options.name, since):
                    return
                else:
                    state = "its agent has not been heard"
            except ApiError as error:
                state = "it has not registered" if error.is_not_found else str(error)
            await asyncio.sleep(POLL_SECONDS)
    raise CommandError(f"node {options.name} is not Ready after {options.timeout:g} s: {state}",
                       f"the agent goes on trying; see: {log_hint}; sampan reset takes the host out again")


async def heard(client: HttpClient, name: str, since: datetime) -> bool:
    """Whether the node's agent has renewed its Lease after that time."""
    try:
        renewed = (await client.get(LEASES, name, LEASE_NAMESPACE)).spec.renew_time
    except ApiError as error:
        if error.is_not_found:
            return False
        raise
    return renewed is not None and renewed > since


def unready(node: core_v1.Node) -> str:
    """What the node says of itself."""
    for condition in node.status.conditions:
        if condition.type == "Ready":
            return condition.message or condition.reason or f"Ready is {condition.status}"
    return "it has no status yet"
