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

import yaml

LEVELS = ("debug", "info", "warning", "error")
ENVIRONMENT = "SAMPAN_AGENT_"
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


class ConfigError(Exception):
    """A setting cannot be used; the message names it, and where it came from."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the agent may be told. Paths are absolute; addresses are ``host:port``."""

    node_name: str
    node_ip: str
    server: str
    node_server: tuple[str, ...]
    root_dir: Path
    run_dir: Path
    cert_dir: Path | None
    cgroup_root: str
    docker_host: str
    infra_image: str
    bootstrap_token_file: Path | None
    ca_hash: str
    pod_cidr: str
    max_pods: int
    pod_pids_limit: int
    resolv_conf: Path
    log_level: str

    @property
    def certificates(self) -> Path:
        """Where the node's identity is kept."""
        return self.cert_dir or self.root_dir / "pki"


@dataclass(frozen=True, slots=True)
class _Option:
    key: str
    default: str
    metavar: str
    help: str
    read: Callable[[str], Any]


def _node_name(text: str) -> str:
    name = text or socket.gethostname().lower()
    if not _NAME.match(name):
        raise ValueError("must be a DNS name in lower case, such as node-1")
    return name


def _address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError("must be an IPv4 address, such as 192.168.1.10") from None


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


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _optional_path(text: str) -> Path | None:
    return _path(text) if text else None


def _network(text: str) -> str:
    try:
        return str(ipaddress.IPv4Network(text)) if text else ""
    except ValueError as error:
        raise ValueError(f"must be a network, such as 10.244.0.0/16 ({error})") from None


def _number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise ValueError(f"must be a whole number of at least {least}")
        return int(text)

    return read


def _cgroup_root(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("must be a path below /sys/fs/cgroup that begins with /")
    return text.rstrip("/")


def _docker_host(text: str) -> str:
    if not text.startswith("unix:///"):
        raise ValueError("must be a socket on this host, such as unix:///var/run/docker.sock")
    return text


def _level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text.lower()


_OPTIONS = (
    _Option("node-name", "", "NAME", "this node's name in the cluster (default: the host's)", _node_name),
    _Option("node-ip", "", "IP", "the address by which other nodes reach this one (default: that of the default "
            "route)", _address),
    _Option("server", "", "URL", "the API server, asked once to join: https://HOST:6443", lambda text: _server(text)
            if text else ""),
    _Option("node-server", "", "HOST:PORT", "the masters' node services, separated by commas (default: the server's "
            "host, port 6444)", _node_servers),
    _Option("root-dir", "/var/lib/sampan/agent", "DIR", "what has to outlive a reboot: volumes, checkpoint, identity",
            _path),
    _Option("run-dir", "/run/sampan", "DIR", "what has to go at a reboot: addresses", _path),
    _Option("cert-dir", "", "DIR", "the node's identity (default: ROOT-DIR/pki)", _optional_path),
    _Option("cgroup-root", "", "PATH", "the cgroup below which pods' cgroups are made (default: the top)",
            _cgroup_root),
    _Option("docker-host", "unix:///var/run/docker.sock", "URL", "the Docker Engine's socket", _docker_host),
    _Option("infra-image", "", "IMAGE", "the infra (pause) image to use in place of the built-in one", str),
    _Option("bootstrap-token-file", "", "FILE", "the token to join with, and the CA's hash after it",
            _optional_path),
    _Option("ca-hash", "", "HASH", "the hash of the cluster CA's public key, sha256:…", str),
    _Option("pod-cidr", "", "CIDR", "the cluster's pod network, which pods reach without masquerade (default: the "
            "node's own part)", _network),
    _Option("max-pods", "110", "N", "how many pods this node takes", _number(1)),
    _Option("pod-pids-limit", "0", "N", "processes a pod may have, 0 for no limit", _number(0)),
    _Option("resolv-conf", "/etc/resolv.conf", "FILE", "the resolver configuration that pods get", _path),
    _Option("log-level", "info", "LEVEL", ", ".join(LEVELS), _level),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="sampan-agent", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The agent of a Sampan node: runs the pods that the master binds to it, on Docker.",
        epilog="Each setting can also stand in the configuration file (YAML, same names) or in the environment:\n"
               f"--node-name is {ENVIRONMENT}NODE_NAME. A flag counts before the environment, that before the file.")
    result.add_argument("command", nargs="?", choices=("run", "cleanup"), default="run",
                        help="run (the default), or take away all that the agent made on this host")
    result.add_argument("--config", metavar="FILE", default=None, help="configuration file")
    for option in _OPTIONS:
        shown = f" (default: {option.default})" if option.default else ""
        result.add_argument(f"--{option.key}", metavar=option.metavar, default=None, help=option.help + shown)
    result.add_argument("--version", action="store_true", help="print the version and exit")
    return result


def load(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read the settings from everywhere; ConfigError."""
    return resolve(vars(parser().parse_args(arguments)), environ)


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """The settings from parsed flags, the environment and the file that these name; ConfigError."""
    _check_environment(environ)
    file = flags.get("config") or environ.get(ENVIRONMENT + "CONFIG")
    settings = _read_file(Path(file)) if file else {}
    values = {option.key.replace("-", "_"): _value(option, flags, environ, settings, file) for option in _OPTIONS}
    if not values["node_server"]:
        if not values["server"]:
            raise ConfigError("server: the master's address is needed, such as https://192.168.1.10:6443")
        host = urlsplit(f"//{values['server']}").hostname or ""
        values["node_server"] = (f"[{host}]:6444" if ":" in host else f"{host}:6444",)
    return Config(**values)


def _check_environment(environ: Mapping[str, str]) -> None:
    known = {_variable(option.key) for option in _OPTIONS} | {ENVIRONMENT + "CONFIG"}
    unknown = sorted(name for name in environ if name.startswith(ENVIRONMENT) and name not in known)
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such setting")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {path} is no YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"config: {path} must hold keys and values")
    known = {option.key for option in _OPTIONS}
    unknown = [str(key) for key in loaded if key not in known]
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such setting (in {path}); known are {', '.join(sorted(known))}")
    return loaded


def _value(option: _Option, flags: Mapping[str, Any], environ: Mapping[str, str], settings: Mapping[str, Any],
           file: str | None) -> Any:
    name, variable = option.key.replace("-", "_"), _variable(option.key)
    if flags.get(name) is not None:
        text, source = flags[name], f"--{option.key}"
    elif variable in environ:
        text, source = environ[variable], variable
    elif settings.get(option.key) is not None:
        text, source = settings[option.key], str(file)
    else:
        text, source = option.default, "default"
    if isinstance(text, list):
        text = ",".join(str(item) for item in text)
    try:
        return option.read(str(text))
    except ValueError as error:
        raise ConfigError(f"{option.key}: {error}, not {str(text)!r} (from {source})") from error


def _variable(key: str) -> str:
    return ENVIRONMENT + key.upper().replace("-", "_")
