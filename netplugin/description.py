"""The node's network in short, in a file: so that the CNI executable gives out addresses of the same network.

It lies beside the address files, in /run, and goes with them at a reboot.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from netplugin.protocol import NetworkError

VERSION = 1
_NAME = "network.json"


@dataclass(frozen=True, slots=True)
class Description:
    """`device`: the one that leads to other nodes' pods, "" where that is the underlay itself."""

    pod_cidr: IPv4Network
    cluster: tuple[IPv4Network, ...]
    device: str
    mtu: int


def write(folder: Path, described: Description) -> None:
    """Replace the file, unless it says this already; NetworkError."""
    text = json.dumps({
        "version": VERSION, "podCIDR": str(described.pod_cidr), "device": described.device, "mtu": described.mtu,
        "clusterCIDRs": [str(network) for network in described.cluster]}) + "\n"
    path = folder / _NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text() == text:
            return
        new = folder / f".{_NAME}.{os.getpid()}"  # the CNI executable may write beside the agent
        new.write_text(text)
        new.replace(path)
    except OSError as error:
        raise NetworkError(f"{path}: {error.strerror}") from error


def read(folder: Path) -> Description | None:
    """None where no network has been set up yet; NetworkError for a file that this program cannot read."""
    path = folder / _NAME
    try:
        data = json.loads(path.read_text())
        if data["version"] > VERSION:
            raise NetworkError(f"{path} has version {data['version']}; this program knows {VERSION}")
        return Description(IPv4Network(data["podCIDR"]), tuple(map(IPv4Network, data["clusterCIDRs"])),
                           data["device"], data["mtu"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"{path}: {error}") from error


def remove(folder: Path) -> None:
    """The network is gone."""
    (folder / _NAME).unlink(missing_ok=True)
