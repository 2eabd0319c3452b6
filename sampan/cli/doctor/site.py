"""What this host is in the cluster, and where its parts listen: from the configuration files of master and agent."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sampan.cli import preflight
from sampan.cli.paths import Paths

Settings = Mapping[str, Any]
Place = tuple[str, int]
"""Host and port."""

API_PORT, LINE_PORT, HEALTH_PORT, VXLAN_PORT = 6443, 6444, 10256, 8472
NODE_PORTS = "30000-32767"
POD_CIDR, SERVICE_CIDR = "10.244.0.0/16", "10.96.0.0/12"
DOCKER = "unix:///var/run/docker.sock"
STANDARD = Paths.from_environment({})


@dataclass(frozen=True, slots=True)
class Port:
    """Ports that others must reach: `first` to `last`, which are the same for a single one."""

    first: int
    last: int
    protocol: str

    def __str__(self) -> str:
        """As firewall-cmd writes them: 6443/tcp, 30000-32767/tcp."""
        return f"{self.first}{'' if self.first == self.last else f'-{self.last}'}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Site:
    """What the configuration says, or would by default on a host that is not in a cluster yet."""

    master: bool = False
    agent: bool = False
    node_ip: str = ""
    node_interface: str = ""
    ports: tuple[Port, ...] = ()
    pod_cidr: str = POD_CIDR
    own_network: bool = True
    """Whether netplugin makes the pods' network; other CNI plugins have rules of their own."""
    accepts_forwarded: bool = True
    server: Place | None = None
    lines: tuple[Place, ...] = ()
    """Where the agent connects: the masters' node services."""
    service_cidr: str = SERVICE_CIDR
    cluster_dns: str = ""
    """Known here on the master's host only; other nodes ask for it."""
    docker_host: str = DOCKER
    folders: tuple[str, ...] = ()
    """What takes the disk's room beside Docker."""
    resolv_conf: str = "/etc/resolv.conf"
    systemd: bool = True
    """Whether the services are units of systemd."""
    paths: Paths = STANDARD

    def start(self, name: str) -> str:
        """The command that has a service run for good."""
        if self.systemd:
            return f"systemctl enable --now sampan-{name}"
        return "sampan up" if self.master else f"sampan-{name} --config {self.paths.config}/{name}.yaml"

    def restart(self, name: str) -> str:
        """The command that restarts a service; where there is no systemd, its supervisor starts it again."""
        return (f"systemctl restart sampan-{name}" if self.systemd
                else f"pkill -P $(cat {self.paths.run}/{name}.pid)")

    def log(self, name: str) -> str:
        """The command that shows the end of a service's log."""
        return f"journalctl -u sampan-{name} -n 30" if self.systemd else f"tail -n 30 {self.paths.log}/{name}.log"


def site(master: Settings | None, agent: Settings | None, paths: Paths = STANDARD, *, systemd: bool = True,
         docker_host: str = DOCKER) -> Site:
    """Read the settings; None where there is no such file. ValueError where one cannot be read."""
    theirs, own = master or {}, agent or {}
    service_cidr = ipaddress.ip_network(str(theirs.get("service-cidr") or SERVICE_CIDR))
    server = _place(str(own.get("server") or ""), API_PORT)
    named = [_place(part, LINE_PORT) for part in _list(own.get("node-server"))]
    lines = [line for line in named if line] or ([(server[0], LINE_PORT)] if server else [])
    ports = [*(_master_ports(theirs) if master is not None else ()),
             *(_node_ports(own, theirs) if agent is not None or master is None else ())]
    return Site(
        master=master is not None, agent=agent is not None,
        node_ip=str(own.get("node-ip") or theirs.get("advertise-address") or ""),
        node_interface=str(own.get("node-interface") or ""),
        ports=tuple(port for port in ports if port.last),
        pod_cidr=str(own.get("pod-cidr") or theirs.get("pod-cidr") or POD_CIDR),
        own_network=not own.get("cni-conf-dir"),
        accepts_forwarded=own.get("accept-forwarded", True) not in (False, "off"),
        server=server, lines=tuple(lines),
        service_cidr=str(service_cidr),
        cluster_dns="" if master is None else str(theirs.get("cluster-dns") or service_cidr[10]),
        docker_host=str(own.get("docker-host") or docker_host),
        folders=tuple(str(folder) for folder in (own.get("root-dir"), theirs.get("data-dir")) if folder),
        resolv_conf=str(own.get("resolv-conf") or "/etc/resolv.conf"), systemd=systemd,
        paths=paths)


def _master_ports(master: Settings) -> list[Port]:
    """docs/hosts.md has the same list as these two; so have the services of firewalld in systemd/firewalld."""
    return [_port(master.get("secure-port", API_PORT)), _port(master.get("node-port-grpc", LINE_PORT))]


def _node_ports(agent: Settings, master: Settings) -> list[Port]:
    health = str(agent.get("proxy-healthz-address", f":{HEALTH_PORT}") or ":0").rpartition(":")[2]
    first, _, last = str(master.get("service-node-port-range") or NODE_PORTS).partition("-")
    vxlan = not agent.get("cni-conf-dir") and agent.get("network-backend", "vxlan") == "vxlan"
    return [_port(agent.get("port", preflight.AGENT_PORT)), _port(health),
            *([_port(VXLAN_PORT, "udp")] if vxlan else ()),
            Port(int(first), int(last), "tcp"), Port(int(first), int(last), "udp")]


def _port(number: Any, protocol: str = "tcp") -> Port:
    return Port(int(number), int(number), protocol)


def _list(value: Any) -> list[str]:
    """A setting of several parts: a list in the file, or with commas between them."""
    return [str(part) for part in value] if isinstance(value, list) else str(value or "").split(",")


def _place(text: str, port: int) -> Place | None:
    """Host and port of an address, with https:// before it or without."""
    parts = urlsplit(text.strip() if "://" in text else f"//{text.strip()}")
    return (parts.hostname, parts.port or port) if parts.hostname else None
