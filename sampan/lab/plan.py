"""What a lab consists of, decided before anything is made: every name and address follows from its name and subnet."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError

VERSION = 1
"""Of the state file."""
Part = Literal["containerd", "docker", "master", "agent"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What runs on a host, in the order in which it is started."""
FIRST_ADDRESS = 10
MOST_NODES = 100
NAME = re.compile(r"[a-z0-9]{1,11}")
"""An interface's name has 15 characters at most, and `lab-` takes four. No dashes: they end the name in longer ones."""
SHORTEST_PREFIX = 8
"""A route to more than a /8 takes no network: it leads out, as the default route, and the halves VPNs cut that into."""
BLOCKS = [ipaddress.IPv4Network(f"192.168.{third}.0/24") for third in (*range(56, 255), *range(56))]
"""The subnets that a lab may take, best first."""


class LabError(CommandError):
    """Something of the lab cannot be done; the message says what, `hint` what to do about it."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host. `namespace` is a name under /run/netns, `port` its place in the switch."""

    name: str
    ip: str
    mac: str
    namespace: str
    port: str
    master: bool
    paths: Paths
    docker_data: Path

    @property
    def parts(self) -> tuple[Part, ...]:
        """What runs on it, in the order of starting."""
        return tuple(part for part in PARTS if self.master or part != "master")

    @property
    def docker_host(self) -> str:
        """What DOCKER_HOST wants."""
        return f"unix://{self.paths.run}/docker.sock"

    @property
    def docker_cgroup(self) -> str:
        """The cgroup of containers that are no pods'."""
        return f"/{self.namespace}"

    @property
    def pods_cgroup(self) -> str:
        """The cgroup of pods."""
        return f"/{self.namespace}-pods"

    @property
    def environment(self) -> dict[str, str]:
        """What the sampan and docker commands need to work on this host."""
        places = {"CONFIG": self.paths.config, "DATA": self.paths.data, "RUN": self.paths.run, "LOG": self.paths.log}
        return {"DOCKER_HOST": self.docker_host, **{f"SAMPAN_{key}_DIR": str(path) for key, path in places.items()}}


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab. `state` is the folder of what goes at a reboot, `data` that of the rest."""

    name: str
    subnet: ipaddress.IPv4Network
    nodes: int
    state: Path
    data: Path
    partitioned: tuple[str, ...] = ()
    """The hosts that are cut off from the others."""
    forwarding: bool = False
    """Whether the machine forwarded no packets before."""

    @property
    def switch(self) -> str:
        """The namespace of the bridge."""
        return f"sampan-{self.name}-switch"

    @property
    def uplink(self) -> str:
        """The interface by which the machine reaches the hosts."""
        return f"lab-{self.name}"

    @property
    def gateway(self) -> str:
        """The machine's address in the lab."""
        return str(self.subnet[1])

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All of them, the master's first."""
        return tuple(self._host(index) for index in range(self.nodes))

    @property
    def master(self) -> Host:
        """The master's host."""
        return self._host(0)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.master.ip}:6443"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.data / "kubeconfig"

    def host(self, name: str) -> Host:
        """A host by its name; LabError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f'lab {self.name} has no host "{name}"', f"it has {', '.join(one.name for one in self.hosts)}")

    def mac(self, index: int) -> str:
        """A fixed, locally administered MAC address, another one in every lab."""
        digest = hashlib.sha256(f"{self.name}/{index}".encode()).digest()
        return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])

    def _host(self, index: int) -> Host:
        name = f"node{index}" if index else "master"
        folder = self.data / name
        paths = Paths(folder / "etc", folder / "lib", self.state / name, folder / "log")
        return Host(name, str(self.subnet[FIRST_ADDRESS + index]), self.mac(index), f"sampan-{self.name}-{name}",
                    f"port{index}", index == 0, paths, folder / "docker")


def check_name(name: str) -> None:
    """LabError where a lab cannot be called so."""
    if not NAME.fullmatch(name):
        raise LabError(f'a lab cannot be called "{name}"', "take up to 11 small letters and digits, such as lab2")


def check_nodes(count: int) -> None:
    """LabError where a lab cannot have so many hosts."""
    if not 1 <= count <= MOST_NODES:
        raise LabError(f"a lab of {count} nodes cannot be made", f"take 1 to {MOST_NODES}")


def is_free(block: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network]) -> bool:
    """Whether a network overlaps none that is in use."""
    return not any(block.overlaps(network) for network in taken if network.prefixlen >= SHORTEST_PREFIX)


def free_subnet(taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first /24 that overlaps nothing that is in use; LabError."""
    for block in BLOCKS:
        if is_free(block, taken):
            return block
    raise LabError("no network 192.168.x.0/24 is free on this machine", "choose one with --subnet")


def to_state(lab: Lab) -> dict[str, Any]:
    """As it is written to the state file."""
    return {"version": VERSION, "name": lab.name, "subnet": str(lab.subnet), "nodes": lab.nodes,
            "data": str(lab.data), "partitioned": list(lab.partitioned), "forwarding": lab.forwarding}


def from_state(state: Mapping[str, Any], folder: Path) -> Lab:
    """From what the state file in this folder holds; LabError where another version wrote it."""
    if state.get("version") != VERSION:
        raise LabError(f"{folder}: made by another version of sampan (format {state.get('version')})",
                       "take the lab down with that version")
    return Lab(str(state["name"]), ipaddress.IPv4Network(state["subnet"]), int(state["nodes"]), folder,
               Path(state["data"]), tuple(state["partitioned"]), bool(state["forwarding"]))
