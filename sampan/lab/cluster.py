"""The cluster on the lab's hosts: the real master and agents, configured and joined as on any host."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sampan.api.codec import to_tree
from sampan.api.errors import ApiError
from sampan.api.resources import LEASES, NODES, SECRETS
from sampan.api.types import coordination_v1, core_v1
from sampan.cli import configure, objects
from sampan.cli.paths import program
from sampan.client.http import HttpClient
from sampan.client.kubeconfig import KubeconfigError
from sampan.client.protocol import Patch
from sampan.lab import engine
from sampan.lab.plan import Host, Lab, LabError
from sampan.pki import ca, kubeconfig
from sampan.pki.files import write_atomically
from sampan.pki.tokens import BootstrapToken

READY_SECONDS = 120.0
PAUSE = 0.1
TOKEN_LIFETIME = timedelta(hours=1)
LEASE_NAMESPACE = "kube-node-lease"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
MASTER_LABELS = {CONTROL_PLANE: "", "node.kubernetes.io/exclude-from-external-load-balancers": ""}
"""What kubeadm gives a control plane's node."""


def write_configuration(lab: Lab, host: Host) -> None:
    """The host's configuration files, where there are none yet."""
    paths = host.paths
    agent: dict[str, Any] = {
        "node-name": host.name, "node-ip": host.ip, "server": lab.server, "node-server": f"{lab.master.ip}:6444",
        "docker-host": host.docker_host, "root-dir": str(paths.data / "agent"), "run-dir": str(paths.run),
        "cert-dir": str(paths.data / "agent/pki"), "bootstrap-token-file": str(paths.bootstrap_token),
        "cgroup-root": host.pods_cgroup, "pod-cidr": "10.244.0.0/16",
    }
    configure.write_once(paths.agent_config, agent, "sampan-agent")
    if host.master:
        master = {"data-dir": str(paths.data / "master"), "pki-dir": str(paths.pki), "advertise-address": host.ip}
        configure.write_once(paths.master_config, master, "sampan-master")


async def start_master(lab: Lab) -> None:
    """Start the master, and return when its API is ready and there is a kubeconfig for it."""
    host = lab.master
    write_configuration(lab, host)
    await engine.start_unit(host, "master", [program("sampan-master"), "--config", str(host.paths.master_config)])

    async def ready() -> bool:
        return write_kubeconfig(lab) and await api_answers(lab)

    await engine.until(host, "master", ready, READY_SECONDS)


def write_kubeconfig(lab: Lab) -> bool:
    """Bring the administrator's kubeconfig up to the certificates; tells whether these are there."""
    places = [lab.master.paths.pki / name for name in ("ca.crt", "admin.crt", "admin.key")]
    try:
        content = kubeconfig.render(lab.server, *(place.read_bytes() for place in places), cluster=lab.name)
    except FileNotFoundError:
        return False
    if not lab.kubeconfig.exists() or lab.kubeconfig.read_bytes() != content:
        write_atomically(lab.kubeconfig, content)
    return True


async def api_answers(lab: Lab) -> bool:
    """Whether the API server says it is ready."""
    try:
        async with asyncio.timeout(5), objects.connect(lab.kubeconfig) as client:
            await client.request("GET", "/readyz")
    except (ApiError, KubeconfigError, TimeoutError):
        return False
    return True


async def start_agent(lab: Lab, host: Host) -> None:
    """Start the agent; one that has not joined yet gets a token for it."""
    write_configuration(lab, host)
    if not joined(host):
        await give_token(lab, host)
    await engine.start_unit(host, "agent", [program("sampan-agent"), "--config", str(host.paths.agent_config)])


def joined(host: Host) -> bool:
    """Whether the host has the certificate of a node."""
    return (host.paths.data / "agent/pki/node.pem").exists()


async def give_token(lab: Lab, host: Host) -> None:
    """A bootstrap token of the host's own, with the hash of the CA beside it."""
    token = BootstrapToken.new()
    async with objects.connect(lab.kubeconfig) as client:
        secret = token.to_secret(datetime.now(UTC) + TOKEN_LIFETIME, f"for {host.name} of lab {lab.name}")
        await client.create(SECRETS, secret)
    digest = ca.public_key_hash((lab.master.paths.pki / "ca.crt").read_bytes())
    write_atomically(host.paths.bootstrap_token, f"{token} {digest}\n".encode())


async def until_ready(lab: Lab, host: Host, since: datetime) -> None:
    """Return when the node is Ready, and the master's is marked as such; its token goes.

    A node that has lost its agent, or its way to the master, is Ready for 40 s yet. So the agent must run, and have
    renewed the node's Lease after `since`. Where the master's host is the only one, nothing keeps ordinary pods off it.
    """
    marked = not host.master or lab.nodes == 1
    async with objects.connect(lab.kubeconfig) as client:

        async def ready() -> bool:
            nonlocal marked
            try:
                if not renewed(await client.get(LEASES, host.name, LEASE_NAMESPACE), since):
                    return False
                node = await client.get(NODES, host.name)
                if not marked:
                    await mark_master(client, node)
                    marked = True
            except ApiError:  # not there yet, changed meanwhile, or the master is busy: the deadline decides
                return False
            return objects.is_ready(NODES, node) and engine.unit(host, "agent").child > 0

        await engine.until(host, "agent", ready, READY_SECONDS, PAUSE)
        await forget_token(client, host.paths.bootstrap_token)


def renewed(lease: coordination_v1.Lease, since: datetime) -> bool:
    """Whether a node has given a sign of life after that time."""
    return lease.spec.renew_time is not None and lease.spec.renew_time > since


async def mark_master(client: HttpClient, node: core_v1.Node) -> None:
    """The labels and the taint by which upstream knows the control plane's node."""
    missing = {key: value for key, value in MASTER_LABELS.items() if key not in node.metadata.labels}
    tainted = any(taint.key == CONTROL_PLANE for taint in node.spec.taints)
    if not missing and tainted:
        return
    body: dict[str, Any] = {"metadata": {"labels": MASTER_LABELS, "resourceVersion": node.metadata.resource_version}}
    if not tainted:  # the list is replaced as a whole; others' taints stay
        taints = [*node.spec.taints, core_v1.Taint(key=CONTROL_PLANE, effect="NoSchedule")]
        body["spec"] = {"taints": [to_tree(taint) for taint in taints]}
    await client.patch(NODES, node.metadata.name, Patch("strategic", body))


async def forget_token(client: HttpClient, path: Path) -> None:
    """A token that has served is taken back."""
    token = take_token(path)
    if token is None:
        return
    try:
        await client.delete(SECRETS, f"bootstrap-token-{token.id}", "kube-system")
    except ApiError as error:
        if not error.is_not_found:
            raise LabError(f"the join token of {path.parent} cannot be removed: {error}") from error


def take_token(path: Path) -> BootstrapToken | None:
    """The token in a file, which goes; None where there is none."""
    if not path.exists():
        return None
    words = path.read_text("utf-8").split()
    path.unlink()
    return BootstrapToken.parse(words[0]) if words else None
