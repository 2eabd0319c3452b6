"""How a lab is."""

from __future__ import annotations

import json
from typing import Any

from sampan.lab import engine
from sampan.lab.plan import Host, Lab

Tree = dict[str, Any]


def collect(lab: Lab) -> Tree:
    """What `sampan lab status -o json` prints. `processes` are those that run now."""
    return {"name": lab.name, "kubeconfig": str(lab.kubeconfig), "server": lab.server, "subnet": str(lab.subnet),
            "gateway": lab.gateway, "nodes": [_node(lab, host) for host in lab.hosts]}


def _node(lab: Lab, host: Host) -> Tree:
    running = {part: engine.unit(host, part).child for part in host.parts}
    paths = host.paths
    return {"name": host.name, "ip": host.ip, "namespace": host.namespace, "docker_host": host.docker_host,
            "roles": ["control-plane"] if host.master else [], "partitioned": host.name in lab.partitioned,
            "processes": {part: pid for part, pid in running.items() if pid},
            "directories": {"config": str(paths.config), "data": str(paths.data), "run": str(paths.run),
                            "log": str(paths.log), "docker": str(host.docker_data / "docker")}}


def render(lab: Lab, output: str) -> str:
    """As JSON or for people."""
    found = collect(lab)
    if output == "json":
        return json.dumps(found, indent=2)
    lines = [f"Lab {lab.name} in {lab.subnet}, API at {lab.server}", f"export KUBECONFIG={lab.kubeconfig}", ""]
    rows = [("NODE", "IP", "ROLES", "PROCESSES", "DOCKER_HOST")]
    for node in found["nodes"]:
        running = " ".join(f"{part}:{pid}" for part, pid in node["processes"].items()) or "(off)"
        rows.append((node["name"], node["ip"], ",".join(node["roles"]) or "<none>",
                     running + (" (cut off)" if node["partitioned"] else ""), node["docker_host"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
