"""What of the network the CNI configuration says, and what the agent's network on this host says for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from netplugin import description, names
from netplugin.cni.spec import INVALID_CONFIG, IO_FAILURE, NOT_AVAILABLE, CniError
from netplugin.protocol import NetworkError

STATE = "/run/sampan/ipam"


@dataclass(frozen=True, slots=True)
class CniSettings:
    """`described` is what the agent's network is like; None on a host without one, where all comes from the config."""

    state: Path
    bridge: str
    pod_cidr: IPv4Network | None
    cluster_cidr: str
    described: description.Description | None


def settings(config: Mapping[str, Any], *, needed: bool = True) -> CniSettings:
    """CniError where the configuration is wrong; where the pod CIDR is not known yet, with `needed`."""
    state = Path(str(config.get("stateDir") or STATE))
    try:
        described = description.read(state)
    except NetworkError as error:
        raise CniError(IO_FAILURE, str(error)) from error
    own = _network(config, "podCIDR")
    if described is not None:
        if own not in (None, described.pod_cidr):
            raise CniError(INVALID_CONFIG, f"podCIDR: this host's network is {described.pod_cidr}",
                           f"as described in {state}, by the agent or since an earlier ADD")
        own = described.pod_cidr
    if own is None and needed:
        raise CniError(NOT_AVAILABLE, "the node has no pod CIDR yet",
                       f"neither podCIDR in the configuration nor a network described in {state}")
    cluster = _network(config, "clusterCIDR")
    return CniSettings(state, str(config.get("bridge") or names.BRIDGE), own, str(cluster) if cluster else "",
                       described)


def _network(config: Mapping[str, Any], key: str) -> IPv4Network | None:
    text = config.get(key)
    if not text:
        return None
    try:
        return IPv4Network(text)
    except (ValueError, TypeError) as error:
        raise CniError(INVALID_CONFIG, f"{key}: {error}") from error
