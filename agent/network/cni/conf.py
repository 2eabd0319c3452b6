"""Network configurations of CNI (https://www.cni.dev/docs/spec/, section 1), and what each plugin is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplugin.protocol import HostPort, NetworkError

SUFFIXES = (".conf", ".conflist", ".json")
PREVIOUS_SINCE, GC_SINCE = (0, 4, 0), (1, 1, 0)
"""The versions of the specification that brought prevResult for DEL, and GC and STATUS."""


@dataclass(frozen=True, slots=True)
class NetworkConf:
    """A list of plugins that make one network, in the order in which they are added."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]

    @property
    def number(self) -> tuple[int, ...]:
        """The version as a number."""
        return tuple(int(part) if part.isdigit() else 0 for part in self.version.split("."))


def load(folder: Path) -> NetworkConf:
    """The network of the first file by name, as every runtime takes it; NetworkError where there is none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except OSError as error:
        raise NetworkError(f"no CNI network: {folder}: {error.strerror}") from error
    if not files:
        raise NetworkError(f"no CNI network: there is no file *.conflist or *.conf in {folder}")
    try:
        return parse(json.loads(files[0].read_text()))
    except (OSError, ValueError) as error:
        raise NetworkError(f"CNI network {files[0]}: {error}") from error


def parse(tree: Any) -> NetworkConf:
    """A list, or one plugin's configuration by itself; ValueError."""
    if not isinstance(tree, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - as json.loads has it
    plugins = tree.get("plugins", [tree])
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("plugins: must be a list with a plugin in it")
    for plugin in plugins:
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise ValueError("plugins: each needs a type")
        if "/" in plugin["type"]:
            raise ValueError(f"plugins: {plugin['type']} is no name of a file")
    name = tree.get("name")
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError("name: must be the network's name")
    return NetworkConf(name, str(tree.get("cniVersion") or "0.2.0"), tuple(plugins))


def as_tree(network: NetworkConf) -> dict[str, Any]:
    """What `parse` reads."""
    return {"name": network.name, "cniVersion": network.version, "plugins": list(network.plugins)}


def request(network: NetworkConf, plugin: Mapping[str, Any], offered: Mapping[str, Any],
            previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """A plugin's standard input: its own part, the network's name and version, what it is capable of of what is
    offered, and the result of the plugins before it.
    """
    capable = plugin.get("capabilities")
    wanted = [key for key, able in capable.items() if able is True] if isinstance(capable, dict) else []
    runtime = {key: offered[key] for key in wanted if key in offered}
    told = {key: value for key, value in plugin.items() if key not in ("capabilities", "prevResult")}
    told |= {"name": network.name, "cniVersion": network.version}
    if runtime:
        told["runtimeConfig"] = runtime
    if previous is not None:
        told["prevResult"] = previous
    return told


def offers(pod_cidr: str, host_ports: Sequence[HostPort]) -> dict[str, Any]:
    """The capabilities that the agent serves, with their arguments (the conventions' CONVENTIONS.md)."""
    mappings = [{"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol.lower(),
                 **({"hostIP": port.host_ip} if port.host_ip else {})} for port in host_ports]
    found: dict[str, Any] = {"portMappings": mappings} if mappings else {}
    if pod_cidr:
        found["ipRanges"] = [[{"subnet": pod_cidr}]]
    return found
