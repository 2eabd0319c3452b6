"""The master's settings: flags, environment, file; validated once, with errors that name the key.

A flag counts before its environment variable (SAMPAN_MASTER_…), that before the file, the file before the default.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.api.names import dns_subdomain
from sampan.clusterconfig import BACKENDS, NETWORK_BACKEND, NODE_PORT, POD_CIDR
from sampan.clusterdns import DEFAULT_DOMAIN
from sampan.loop.settings import LEVELS, ConfigError, Option, Settings, absolute_path, log_level, optional_path

COMPONENTS = ("apiserver", "scheduler", "controllers", "nodes")

_MAX_SERVICE_BITS = 20
"""ClusterIPs are kept in memory as a bitmap; upstream has the same limit."""
_MAX_NODE_BITS = 16
"""So many bits may number the nodes; upstream has the same limit."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the master may be told. Paths are absolute."""

    data_dir: Path
    pki_dir: Path
    bind_address: str
    advertise_address: str
    secure_port: int
    node_port_grpc: int
    service_cidr: str
    service_node_port_range: tuple[int, int]
    pod_cidr: str
    node_cidr_mask_size: int
    network_backend: str
    cluster_dns: str
    cluster_domain: str
    components: tuple[str, ...]
    kubeconfig: Path | None
    token_auth_file: Path | None
    log_level: str

    @property
    def service_ip(self) -> str:
        """The address of the Service `kubernetes`."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    def for_nodes(self) -> dict[str, str]:
        """What hosts that join are told (`sampan.clusterconfig`)."""
        return {POD_CIDR: self.pod_cidr, NETWORK_BACKEND: self.network_backend, NODE_PORT: str(self.node_port_grpc)}

    def server_names(self) -> list[str]:
        """Everything that clients may call the API server: what its certificate is for."""
        host = socket.gethostname().lower()
        return list(dict.fromkeys([host, "localhost", "127.0.0.1", "::1", *self.own_names()]))

    def own_names(self) -> list[str]:
        """What on the network nobody is called but this master."""
        return [self.advertise_address, self.service_ip, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                f"kubernetes.default.svc.{self.cluster_domain}"]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 <= int(text) <= 65535:
        raise ValueError("must be a port number between 0 and 65535")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address, such as 192.168.1.10") from None


def _domain(text: str) -> str:
    name = text.strip(".").lower()
    if dns_subdomain(name):
        raise ValueError("must be a domain name, such as cluster.local")
    return name


def _tenth(network: str) -> str:
    """Where upstream's tools put the cluster's DNS; the last usable address of a network smaller than that."""
    services = ipaddress.ip_network(network)
    return str(services[min(10, services.num_addresses - 2)])


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"must be a network, such as 10.96.0.0/12 ({error})") from None


def _service_network(text: str) -> str:
    network = ipaddress.ip_network(_network(text))
    bits = network.max_prefixlen - network.prefixlen
    if not 2 <= bits <= _MAX_SERVICE_BITS:
        raise ValueError(f"must have between 4 and {1 << _MAX_SERVICE_BITS} addresses")
    return str(network)


def _port_range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not dash or not 0 < _port(first) <= _port(last):
        raise ValueError("must be two port numbers, such as 30000-32767")
    return _port(first), _port(last)


def _prefix_length(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 30:
        raise ValueError("must be a prefix length between 1 and 30, such as 24")
    return int(text)


def _backend(text: str) -> str:
    if text not in BACKENDS:
        raise ValueError(f"must be {' or '.join(BACKENDS)}")
    return text


def _optional_file(text: str) -> Path | None:
    if not text:
        return None
    path = absolute_path(text)
    if not path.is_file():
        raise ValueError("there is no such file")
    return path


def _components(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in names if name not in COMPONENTS]
    if unknown or not names:
        raise ValueError(f"must be some of {', '.join(COMPONENTS)}"
                         + (f"; {unknown[0]!r} is none" if unknown else ""))
    return tuple(dict.fromkeys(names))


_OPTIONS = (
    Option("data-dir", "/var/lib/sampan/master", "DIR", "where the database and its encryption key are kept",
           absolute_path),
    Option("pki-dir", "", "DIR", "the cluster's keys and certificates, made at first start (default: DATA-DIR/pki)",
           optional_path),
    Option("bind-address", "0.0.0.0", "IP", "the address to listen on", _address),
    Option("advertise-address", "", "IP", "the address by which nodes and pods reach this host (default: that of "
           "the default route)", lambda text: _address(text) if text else default_address()),
    Option("secure-port", "6443", "PORT", "HTTPS: the Kubernetes API", _port),
    Option("node-port-grpc", "6444", "PORT", "mutual TLS: where agents connect", _port),
    Option("service-cidr", "10.96.0.0/12", "CIDR", "the network of the Services' virtual addresses",
           _service_network),
    Option("service-node-port-range", "30000-32767", "FIRST-LAST", "the ports that nodes offer Services",
           _port_range),
    Option("pod-cidr", "10.244.0.0/16", "CIDR", "the network that nodes get their pods' networks from", _network),
    Option("node-cidr-mask-size", "24", "BITS", "the prefix length of each node's part of pod-cidr", _prefix_length),
    Option("network-backend", BACKENDS[0], "NAME", "how nodes reach one another's pods: vxlan, or host-gw where all "
           "share a link; told to hosts that join", _backend),
    Option("cluster-dns", "", "IP", "the address of the cluster's DNS (default: the tenth of service-cidr)",
           lambda text: _address(text) if text else ""),
    Option("cluster-domain", DEFAULT_DOMAIN, "NAME", "the domain of the cluster's names", _domain),
    Option("components", ",".join(COMPONENTS), "LIST", "the parts to run in this process", _components),
    Option("kubeconfig", "", "FILE", "how to reach the API server, when it is not among the components",
           _optional_file),
    Option("token-auth-file", "", "FILE", 'bearer tokens: lines of token,user,uid,"group,..."', _optional_file),
    Option("log-level", "info", "LEVEL", ", ".join(LEVELS), log_level),
)


SETTINGS = Settings(
    "sampan-master", "The master of a Sampan cluster: Kubernetes API, scheduler, controllers, node service.",
    "SAMPAN_MASTER_", _OPTIONS)


def load(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read the settings from everywhere; ConfigError."""
    return resolve(vars(SETTINGS.parser().parse_args(arguments)), environ)


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """The settings from parsed flags, the environment and the file that these name; ConfigError."""
    values = SETTINGS.resolve(flags, environ)
    if values["pki_dir"] is None:
        values["pki_dir"] = values["data_dir"] / "pki"
    if not values["cluster_dns"]:
        values["cluster_dns"] = _tenth(values["service_cidr"])
    config = Config(**values)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    services, pods = ipaddress.ip_network(config.service_cidr), ipaddress.ip_network(config.pod_cidr)
    if services.overlaps(pods):
        raise ConfigError(f"service-cidr: {services} overlaps pod-cidr {pods}")
    if not 0 <= config.node_cidr_mask_size - pods.prefixlen <= _MAX_NODE_BITS:
        raise ConfigError(f"node-cidr-mask-size: {config.node_cidr_mask_size} must be between {pods.prefixlen} and "
                          f"{pods.prefixlen + _MAX_NODE_BITS} for pod-cidr {pods}")
    if ipaddress.ip_address(config.cluster_dns) not in services:
        raise ConfigError(f"cluster-dns: {config.cluster_dns} is not in service-cidr {services}")
    if config.secure_port == config.node_port_grpc != 0:
        raise ConfigError(f"node-port-grpc: {config.node_port_grpc} is secure-port too")
    if "apiserver" not in config.components:
        if config.kubeconfig is None:
            raise ConfigError("kubeconfig: needed when apiserver is not among the components")
        if "nodes" in config.components:
            raise ConfigError("components: nodes needs apiserver in the same process")


def default_address() -> str:
    """The address of the default route, or loopback on a host without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which source address would be used
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
