"""`sampan status`: how the services, the node and the pods are."""

from __future__ import annotations

import json
from typing import Any

from sampan.api.errors import ApiError
from sampan.api.resources import NODES, PODS
from sampan.cli import configure, join, objects
from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError
from sampan.cli.units import Name, Units

Tree = dict[str, Any]


async def collect(paths: Paths, units: Units) -> Tree:
    """Everything that the status tells, as a tree; `error` says why the cluster could not be asked.

    A host that has joined another's cluster runs no master, and may ask for its own node and pods only.
    """
    joined = paths.agent_config.exists() and not paths.master_config.exists()
    names: tuple[Name, ...] = ("agent",) if joined else ("master", "agent")
    services = {name: units.status(name) for name in names}
    result: Tree = {
        "kubeconfig": str(paths.kubeconfig) if paths.kubeconfig.exists() else "",
        "services": {name: {"state": status.state, "pid": status.pid, "manager": status.manager,
                            "log": units.log_hint(name)} for name, status in services.items()}}
    try:
        if joined:
            options = own(paths)
            async with join.as_node(options, paths) as client:
                nodes = [await client.get(NODES, options.name)]
                pods = (await client.list(PODS, field_selector=f"spec.nodeName={options.name}")).items
        else:
            async with objects.connect(paths.kubeconfig) as client:
                nodes = (await client.list(NODES)).items
                pods = (await client.list(PODS)).items
    except (ApiError, CommandError) as error:
        return result | {"error": str(error)}
    phases: dict[str, int] = {}
    for pod in pods:
        phases[pod.status.phase or "Unknown"] = phases.get(pod.status.phase or "Unknown", 0) + 1
    return result | {
        "nodes": [{"name": node.metadata.name, "ready": objects.is_ready(NODES, node)} for node in nodes],
        "pods": phases}


def own(paths: Paths) -> join.JoinOptions:
    """What this host joined, and as which node; CommandError."""
    agent = configure.read(paths.agent_config)
    return join.check_server(join.JoinOptions(str(agent.get("server") or ""), node_name=configure.node_name(agent)))


def render(status: Tree, output: str) -> str:
    """The status as text or JSON."""
    if output == "json":
        return json.dumps(status, indent=2)
    lines = []
    for name, service in status["services"].items():
        detail = f"pid {service['pid']}, {service['manager']}; log: {service['log']}"
        lines.append(f"{name:<8} {service['state']:<8} {detail if service['pid'] else ''}".rstrip())
    if status.get("error"):
        lines.append(f"cluster  not reachable: {status['error']}")
    lines += [f"node     {'Ready' if node['ready'] else 'NotReady':<8} {node['name']}"
              for node in status.get("nodes", ())]
    if "pods" in status:
        counts = ", ".join(f"{count} {phase}" for phase, count in sorted(status["pods"].items())) or "none"
        lines.append(f"pods     {counts}")
    if status["kubeconfig"]:
        lines.append(f"\nkubectl --kubeconfig {status['kubeconfig']} get pods -A")
    return "\n".join(lines)


def healthy(status: Tree) -> bool:
    """Whether services run and all nodes are Ready."""
    running = all(service["state"] == "running" for service in status["services"].values())
    return running and not status.get("error") and all(node["ready"] for node in status["nodes"])
