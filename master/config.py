"""The master's settings: flags, environment, file; validated once, with errors that name the key.

A flag counts before its environment variable (SAMPAN_MASTER_…), that before the file, the file before the default.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPONENTS = ("apiserver", "scheduler", "controllers", "nodes")
LEVELS = ("debug", "info", "warning", "error")
ENVIRONMENT = "SAMPAN_MASTER_"

_MAX_SERVICE_BITS = 20
"""ClusterIPs are kept in memory as a bitmap; upstream has the same limit."""


class ConfigError(Exception):
    """A setting cannot be used; the message names it, and where it came from."""


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
    pod_cidr: str
    components: tuple[str, ...]
    kubeconfig: Path | None
    token_auth_file: Path | None
    log_level: str

    @property
    def service_ip(self) -> str:
        """The address of the Service `kubernetes`."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    def server_names(self) -> list[str]:
        """Everything that clients may call the API server: what its certificate is for."""
        host = socket.gethostname().lower()
        return list(dict.fromkeys([
            host, "localhost", "127.0.0.1", "::1", self.advertise_address, self.service_ip, "kubernetes",
            "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]))


@dataclass(frozen=True, slots=True)
class _Option:
    key: str
    default: str
    metavar: str
    help: str
    read: Callable[[str], Any]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 <= int(text) <= 65535:
        raise ValueError("must be a port number between 0 and 65535")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address, such as 192.168.1.10") from None


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


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _optional_file(text: str) -> Path | None:
    if not text:
        return None
    path = _path(text)
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


def _level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text.lower()


_OPTIONS = (
    _Option("data-dir", "/var/lib/sampan/master", "DIR", "where the database and its encryption key are kept", _path),
    _Option("pki-dir", "", "DIR", "the cluster's keys and certificates, made at first start (default: DATA-DIR/pki)",
            lambda text: _path(text) if text else None),
    _Option("bind-address", "0.0.0.0", "IP", "the address to listen on", _address),
    _Option("advertise-address", "", "IP", "the address by which nodes and pods reach this host (default: that of "
            "the default route)", lambda text: _address(text) if text else default_address()),
    _Option("secure-port", "6443", "PORT", "HTTPS: the Kubernetes API", _port),
    _Option("node-port-grpc", "6444", "PORT", "mutual TLS: where agents connect", _port),
    _Option("service-cidr", "10.96.0.0/12", "CIDR", "the network of the Services' virtual addresses",
            _service_network),
    _Option("pod-cidr", "10.244.0.0/16", "CIDR", "the network that nodes get their pods' networks from", _network),
    _Option("components", ",".join(COMPONENTS), "LIST", "the parts to run in this process", _components),
    _Option("kubeconfig", "", "FILE", "how to reach the API server, when it is not among the components",
            _optional_file),
    _Option("token-auth-file", "", "FILE", 'bearer tokens: lines of token,user,uid,"group,..."', _optional_file),
    _Option("log-level", "info", "LEVEL", ", ".join(LEVELS), _level),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="sampan-master", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The master of a Sampan cluster: Kubernetes API, scheduler, controllers, node service.",
        epilog="Each setting can also stand in the configuration file (YAML, same names) or in the environment:\n"
               f"--secure-port is {ENVIRONMENT}SECURE_PORT. A flag counts before the environment, that before the "
               "file.")
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
    if values["pki_dir"] is None:
        values["pki_dir"] = values["data_dir"] / "pki"
    config = Config(**values)
    _check_together(config)
    return config


def _check_environment(environ: Mapping[str, str]) -> None:
    known = {ENVIRONMENT + option.key.upper().replace("-", "_") for option in _OPTIONS} | {ENVIRONMENT + "CONFIG"}
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
    name, variable = option.key.replace("-", "_"), ENVIRONMENT + option.key.upper().replace("-", "_")
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


def _check_together(config: Config) -> None:
    services, pods = ipaddress.ip_network(config.service_cidr), ipaddress.ip_network(config.pod_cidr)
    if services.overlaps(pods):
        raise ConfigError(f"service-cidr: {services} overlaps pod-cidr {pods}")
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
