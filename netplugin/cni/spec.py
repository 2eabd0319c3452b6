"""What the CNI specification says: requests from environment and standard input, results and errors as JSON; pure.

Nothing heavy may be imported here: `VERSION` and `STATUS` are asked for often.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = VERSIONS[-1]

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
"""By STATUS: no ADD can be served now."""
INTERNAL = 999
"""Codes from 100 on are a plugin's own; upstream's library uses this one for whatever else failed."""

_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_PROTOCOLS = {name: name for name in ("TCP", "UDP", "SCTP")}
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_INTERFACE = re.compile(r"[^\s/:]{1,15}")


class CniError(Exception):
    """A refusal with its code; `details` may say more."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class Request:
    """What the runtime wants. `arguments` is CNI_ARGS taken apart; `config` the network's configuration."""

    command: str
    container: str
    netns: str
    interface: str
    arguments: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Of the specification, as the configuration has it."""
        return str(self.config.get("cniVersion") or "0.2.0")

    @property
    def name(self) -> str:
        """The network's."""
        return str(self.config.get("name", ""))


def read_request(environment: Mapping[str, str], stdin: str) -> Request:
    """CniError where anything is missing or wrong, with the code that the specification gives it."""
    command = environment.get("CNI_COMMAND", "")
    if command not in _REQUIRED:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}" if command else
                       "required env variables [CNI_COMMAND] missing")
    missing = [name for name in _REQUIRED[command] if not environment.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    container, interface = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if container and not _CONTAINER_ID.fullmatch(container):
        raise CniError(INVALID_ENVIRONMENT, "invalid characters in containerID", container)
    if interface and (not _INTERFACE.fullmatch(interface) or interface in (".", "..")):
        raise CniError(INVALID_ENVIRONMENT, "interface name contains / or : or whitespace characters, or is longer "
                       "than 15", interface)
    request = Request(command, container, environment.get("CNI_NETNS", ""), interface,
                      _arguments(environment.get("CNI_ARGS", "")), _config(stdin))
    if command != "VERSION":
        _check(request)
    return request


def version_result(config: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to VERSION, in the version that was asked in."""
    asked = str(config.get("cniVersion") or LATEST)
    return {"cniVersion": asked if asked in VERSIONS else LATEST, "supportedVersions": list(VERSIONS)}


def error_result(error: CniError, version: str) -> dict[str, Any]:
    """The specification's error object."""
    said = {"cniVersion": version, "code": error.code, "msg": str(error)}
    return {**said, "details": error.details} if error.details else said


def add_result(version: str, interfaces: Sequence[Mapping[str, str]], address: str, gateway: str) -> dict[str, Any]:
    """The answer to ADD: one address on the last of the interfaces, and a way to everywhere by the gateway."""
    ip: dict[str, Any] = {"address": address, "gateway": gateway, "interface": len(interfaces) - 1}
    if version < "1.0.0":
        ip = {"version": "4", **ip}
    return {"cniVersion": version, "interfaces": [dict(one) for one in interfaces], "ips": [ip],
            "routes": [{"dst": "0.0.0.0/0", "gw": gateway}], "dns": {}}


def port_mappings(config: Mapping[str, Any]) -> list[tuple[int, int, str, str]]:
    """Host port, container port, protocol and host address of each of runtimeConfig's portMappings."""
    found = []
    mappings = _mapping(config.get("runtimeConfig") or {}, "runtimeConfig").get("portMappings") or ()
    if not isinstance(mappings, Sequence):
        raise CniError(INVALID_CONFIG, "portMappings is no list")
    for mapping in mappings:
        try:
            protocol = _PROTOCOLS[str(mapping.get("protocol") or "tcp").upper()]
            address = str(mapping.get("hostIP") or "")
            ip_address(address or 0)
            found.append((_port(mapping["hostPort"]), _port(mapping["containerPort"]), protocol, address))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CniError(INVALID_CONFIG, f"invalid port mapping: {mapping}") from error
    return found


def _port(value: Any) -> int:
    if not 0 < int(value) < 65536:
        raise ValueError(value)
    return int(value)


def valid_attachments(config: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Of GC: container and interface of each attachment that is to stay."""
    listed = config.get("cni.dev/valid-attachments")
    if not isinstance(listed, list):
        raise CniError(INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
    try:
        return {(str(one["containerID"]), str(one["ifname"])) for one in listed}
    except (KeyError, TypeError) as error:
        raise CniError(INVALID_CONFIG, "cni.dev/valid-attachments: each needs containerID and ifname") from error


def _check(request: Request) -> None:
    if request.version not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, "incompatible CNI versions",
                       f'config is "{request.version}", plugin supports {json.dumps(VERSIONS)}')
    if request.version < _SINCE.get(request.command, ""):
        raise CniError(INCOMPATIBLE_VERSION, f"config version does not allow {request.command}",
                       f'config is "{request.version}", {request.command} came with {_SINCE[request.command]}')
    if not request.name:
        raise CniError(INVALID_CONFIG, "missing network name")
    if not _CONTAINER_ID.fullmatch(request.name):
        raise CniError(INVALID_CONFIG, "invalid characters found in network name", request.name)
    if request.command == "CHECK" and not request.config.get("prevResult"):
        raise CniError(INVALID_CONFIG, "CHECK needs prevResult, the result of ADD")


def _config(stdin: str) -> Mapping[str, Any]:
    try:
        config = json.loads(stdin)
    except ValueError as error:
        raise CniError(DECODING_FAILURE, f"error unmarshall network config: {error}") from error
    return _mapping(config, "network config")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CniError(DECODING_FAILURE, f"{what} is no JSON object")
    return value


def _arguments(text: str) -> Mapping[str, str]:
    pairs = [part.partition("=") for part in text.split(";") if part]
    if any(not separator for _, separator, _ in pairs):
        raise CniError(INVALID_ENVIRONMENT, "ARGS: invalid pair", text)
    return {key: value for key, _, value in pairs}
