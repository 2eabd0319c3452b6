"""The agent's settings: flags, environment, file; validated once, with errors that name the key.

A flag counts before its environment variable (SAMPAN_AGENT_…), that before the file, the file before the default.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from netplugin.overlay import BACKENDS, VXLAN
from sampan.loop.settings import LEVELS, ConfigError, Option, Settings, absolute_path, log_level, optional_path

NAME_LIMIT = 52
"""A certificate's common name has 64 characters at most, and "system:node:" takes twelve of them."""
_INTERFACE = re.compile(r"^[^\s/:]{1,15}$")
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the agent may be told. Paths are absolute; addresses are ``host:port``."""

    node_name: str
    node_ip: str
    node_interface: str
    server: str
    node_server: tuple[str, ...]
    root_dir: Path
    run_dir: Path
    cert_dir: Path | None
    cgroup_root: str
    docker_host: str
    infra_image: str
    images_dir: Path | None
    bootstrap_token_file: Path | None
    ca_hash: str
    pod_cidr: str
    proxy_healthz_address: str
    cni_conf_dir: Path | None
    cni_bin_dir: tuple[Path, ...]
    network_backend: str
    vxlan_checksum_offload: bool
    accept_forwarded: bool
    max_pods: int
    pod_pids_limit: int
    resolv_conf: Path
    port: int
    log_level: str

    @property
    def images(self) -> Path:
        """Where archives of images are looked for."""
        return self.images_dir or self.root_dir.parent / "images"

    @property
    def certificates(self) -> Path:
        """Where the node's identity is kept."""
        return self.cert_dir or self.root_dir / "pki"


def _node_name(text: str) -> str:
    name = text or socket.gethostname().lower()
    if not _NAME.match(name) or len(name) > NAME_LIMIT:
        raise ValueError(f"must be a DNS name in lower case of at most {NAME_LIMIT} characters, such as node-1")
    return name


def _address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError("must be an IPv4 address, such as 192.168.1.10") from None


def _interface(text: str) -> str:
    if text and not _INTERFACE.match(text):
        raise ValueError("must be the name of an interface, such as eth0")
    return text


def _server(text: str) -> str:
    url = urlsplit(text if "://" in text else f"https://{text}")
    if url.scheme != "https" or not url.hostname or url.path not in ("", "/"):
        raise ValueError("must be the API server's address, such as https://192.168.1.10:6443")
    return _host_port(url.netloc, 6443)


def _host_port(text: str, default_port: int) -> str:
    url = urlsplit(f"//{text}")
    try:
        port = url.port or default_port
    except ValueError:
        raise ValueError("must end in a port number") from None
    if not url.hostname:
        raise ValueError("must be host:port, such as 192.168.1.10:6444")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{host}:{port}"


def _node_servers(text: str) -> tuple[str, ...]:
    return tuple(_host_port(part.strip(), 6444) for part in text.split(",") if part.strip())


def _network(text: str) -> str:
    try:
        return str(ipaddress.IPv4Network(text)) if text else ""
    except ValueError as error:
        raise ValueError(f"must be a network, such as 10.244.0.0/16 ({error})") from None


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return read


def _on(text: str) -> bool:
    return _one_of("on", "off")(text) == "on"


def _number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise ValueError(f"must be a whole number of at least {least}")
        return int(text)

    return read


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 <= int(text) <= 65535:
        raise ValueError("must be a port number between 0 and 65535")
    return int(text)


def _cgroup_root(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("must be a path below /sys/fs/cgroup that begins with /")
    return text.rstrip("/")


def _docker_host(text: str) -> str:
    if not text.startswith("unix:///"):
        raise ValueError("must be a socket on this host, such as unix:///var/run/docker.sock")
    return text


_OPTIONS = (
    Option("node-name", "", "NAME", "this node's name in the cluster (default: the host's)", _node_name),
    Option("node-ip", "", "IP", "the address by which other nodes reach this one (default: that of the default "
           "route)", _address),
    Option("node-interface", "", "NAME", "the interface that the node's address is on; it is followed when it changes, "
           "also where node-ip names the address that there was first", _interface),
    Option("server", "", "URL", "the API server, asked once to join: https://HOST:6443", lambda text: _server(text)
           if text else ""),
    Option("node-server", "", "HOST:PORT", "the masters' node services, separated by commas (default: the server's "
           "host, port 6444)", _node_servers),
    Option("root-dir", "/var/lib/sampan/agent", "DIR", "what has to outlive a reboot: volumes, checkpoint, identity",
           absolute_path),
    Option("run-dir", "/run/sampan", "DIR", "what has to go at a reboot: addresses", absolute_path),
    Option("cert-dir", "", "DIR", "the node's identity (default: ROOT-DIR/pki)", optional_path),
    Option("cgroup-root", "", "PATH", "the cgroup below which pods' cgroups are made (default: the top)",
           _cgroup_root),
    Option("docker-host", "unix:///var/run/docker.sock", "URL", "the Docker Engine's socket", _docker_host),
    Option("infra-image", "", "IMAGE", "the infra (pause) image to use in place of the built-in one", str),
    Option("images-dir", "", "DIR", "archives of images (docker save) in it are loaded, for hosts without a registry "
           "(default: images beside ROOT-DIR)", optional_path),
    Option("bootstrap-token-file", "", "FILE", "the token to join with, and the CA's hash after it",
           optional_path),
    Option("ca-hash", "", "HASH", "the hash of the cluster CA's public key, sha256:…", str),
    Option("pod-cidr", "", "CIDR", "the cluster's pod network, which pods reach without masquerade (default: the "
           "node's own part)", _network),
    Option("cni-conf-dir", "", "DIR", "have CNI plugins make the pods' network, by the first configuration in there "
           "(default: the built-in network)", optional_path),
    Option("cni-bin-dir", "/opt/cni/bin,/usr/lib/cni,/usr/libexec/cni", "DIRS", "where CNI plugins are, separated by "
           "commas", lambda text: tuple(absolute_path(part.strip()) for part in text.split(",") if part.strip())),
    Option("network-backend", VXLAN, "NAME", "how pods of other nodes are reached: vxlan, or host-gw where all nodes "
           "share a link; the same on every node", _one_of(*BACKENDS)),
    Option("vxlan-checksum-offload", "off", "on|off", "leave checksums of VXLAN packets to the network card", _on),
    Option("accept-forwarded", "on", "on|off", "let pods' packets through where the policy of iptables' FORWARD drops "
           "them, as Docker's does; off for those who filter there themselves", _on),
    Option("proxy-healthz-address", "0.0.0.0:10256", "IP:PORT", "where load balancers ask whether Services work on "
           "this node, \"\" for nowhere", lambda text: _host_port(text, 10256) if text else ""),
    Option("max-pods", "110", "N", "how many pods this node takes", _number(1)),
    Option("pod-pids-limit", "0", "N", "processes a pod may have, 0 for no limit", _number(0)),
    Option("resolv-conf", "/etc/resolv.conf", "FILE", "the resolver configuration that pods get", absolute_path),
    Option("port", "10250", "PORT", "HTTPS: metrics and what else others may read of this node; 0 for none", _port),
    Option("log-level", "info", "LEVEL", ", ".join(LEVELS), log_level),
)


SETTINGS = Settings(
    "sampan-agent", "The agent of a Sampan node: runs the pods that the master binds to it, on Docker.",
    "SAMPAN_AGENT_", _OPTIONS)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = SETTINGS.parser()
    result.add_argument("command", nargs="?", choices=("run", "join", "cleanup"), default="run",
                        help="run (the default), only get this node's certificate, or take away all that the agent "
                        "made on this host")
    result.add_argument("--force", action="store_true", help="cleanup goes on where Docker cannot be reached")
    return result


def load(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read the settings from everywhere; ConfigError."""
    return resolve(vars(parser().parse_args(arguments)), environ)


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """The settings from parsed flags, the environment and the file that these name; ConfigError."""
    values = SETTINGS.resolve(flags, environ)
    if not values["node_server"]:
        if not values["server"]:
            raise ConfigError("server: the master's address is needed, such as https://192.168.1.10:6443")
        host = urlsplit(f"//{values['server']}").hostname or ""
        values["node_server"] = (f"[{host}]:6444" if ":" in host else f"{host}:6444",)
    return Config(**values)

