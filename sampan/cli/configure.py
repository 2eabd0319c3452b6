"""What `sampan up` writes: the configuration files of master and agent, and the names that the server goes by."""

from __future__ import annotations

import contextlib
import fcntl
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError
from sampan.pki.files import write_atomically

Tree = dict[str, Any]
OWN_INTERFACES = re.compile(r"^(lo|docker|br-|veth|sampan|smp|cni|flannel|virbr)")
SECURE_PORT = 6443
"""Of the API, unless the configuration says otherwise."""
NODE_NAME_LIMIT = 52
"""Characters (agent/config.py)."""
SIOCGIFADDR = 0x8915
"""ioctl: an interface's IPv4 address (netdevice(7))."""
HEADER = "# Written by `sampan up`; your changes stay. All keys: {program} --help\n"


def server_names(node: str, address: str, service_ip: str) -> list[str]:
    """Everything that clients may call the API server."""
    return [node, "localhost", "127.0.0.1", address, service_ip, "kubernetes", "kubernetes.default",
            "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]


def write_once(path: Path, settings: Tree, program: str) -> bool:
    """Write a configuration file where there is none; tells whether it did."""
    if path.exists():
        return False
    text = HEADER.format(program=program) + yaml.safe_dump(settings, sort_keys=False)
    write_atomically(path, text.encode(), 0o600)
    return True


def read(path: Path) -> Tree:
    """A configuration file's settings; CommandError where they cannot be read."""
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    return loaded if isinstance(loaded, dict) else {}


def server(master: Tree) -> str:
    """The API server's URL, by the master's settings; what they leave out is as sampan-master has it by default."""
    address = master.get("advertise-address") or default_address()
    return f"https://{address}:{master.get('secure-port') or SECURE_PORT}"


def node_name(agent: Tree) -> str:
    """The node's name, by the agent's settings."""
    return str(agent.get("node-name") or socket.gethostname().lower())


def identity_folder(agent: Tree, paths: Paths) -> Path:
    """Where the node's key and certificate are, by the agent's settings."""
    return Path(agent.get("cert-dir") or paths.data / "agent" / "pki")


def default_address() -> str:
    """The address of the default route; on a host without one the first that is not of a container's network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which source address would be used
            return str(probe.getsockname()[0])
        except OSError:
            pass
        for name, found in _addresses(probe):
            if not OWN_INTERFACES.match(name):
                return found
    return "127.0.0.1"


def interface_of(address: str) -> str:
    """The interface whose first address this is; "" where there is none, or loopback has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return next((name for name, found in _addresses(probe) if found == address and name != "lo"), "")


def _addresses(probe: socket.socket) -> Iterator[tuple[str, str]]:
    """The interfaces, and each one's first IPv4 address."""
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError):  # it has none
            request = struct.pack("256s", name.encode()[:15])
            yield name, socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24])


def kubeconfig_current(paths: Paths, content: bytes) -> bool:
    """Write the administrator's kubeconfig where it is missing or another; tells whether it was written."""
    if paths.kubeconfig.exists() and paths.kubeconfig.read_bytes() == content:
        return False
    write_atomically(paths.kubeconfig, content, 0o600)
    return True
