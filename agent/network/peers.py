"""What nodes tell each other through annotations of their Nodes: flannel's, so that operators' tools understand them.

See flannel's documentation, "Annotations": `backend-data` is JSON with the VNI and the MAC address of the VXLAN device
(null for backends that have none), `public-ip` the address by which other nodes reach this one. An operator may set
`public-ip-overwrite` where that is another one than the node itself believes, behind NAT for example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

import msgspec

from netplugin.overlay import VNI, VXLAN
from netplugin.protocol import Peer
from sampan.api.types import core_v1

PREFIX = "flannel.alpha.coreos.com/"
BACKEND_TYPE, BACKEND_DATA = f"{PREFIX}backend-type", f"{PREFIX}backend-data"
PUBLIC_IP, OVERWRITE = f"{PREFIX}public-ip", f"{PREFIX}public-ip-overwrite"
SUBNET_MANAGER = f"{PREFIX}kube-subnet-manager"
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class _BackendData(msgspec.Struct, rename={"mac": "VtepMAC"}):
    """The fields that we read; flannel's IPv6 variant has more."""

    mac: str = ""


def announce(announced: Peer | None) -> Mapping[str, str]:
    """What this node's Node says of its network."""
    if announced is None:
        return {}
    data = {"VNI": VNI, "VtepMAC": announced.mac} if announced.backend == VXLAN else None
    return {BACKEND_TYPE: announced.backend, BACKEND_DATA: msgspec.json.encode(data).decode(),
            PUBLIC_IP: announced.address, SUBNET_MANAGER: "true"}


def peer(node: core_v1.Node) -> Peer | None:
    """A Node as a peer; None for one that has no pod CIDR yet, or says nothing of its network that can be used."""
    said = node.metadata.annotations
    subnet = pod_cidr(node)
    address = said.get(OVERWRITE) or said.get(PUBLIC_IP) or _internal_ip(node)
    if not subnet or not _is_address(address) or BACKEND_TYPE not in said:
        return None
    return Peer(node.metadata.name, address, subnet, said[BACKEND_TYPE], _mac(said.get(BACKEND_DATA, "")))


def pod_cidr(node: core_v1.Node) -> str:
    """The node's first IPv4 pod CIDR, "" for none."""
    for cidr in (node.spec.pod_cidr or "", *node.spec.pod_cidrs):
        try:
            return str(IPv4Network(cidr))
        except ValueError:
            continue  # not given out yet, or IPv6
    return ""


def _internal_ip(node: core_v1.Node) -> str:
    return next((item.address for item in node.status.addresses if item.type == "InternalIP"), "")


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _mac(text: str) -> str:
    try:
        data = msgspec.json.decode(text, type=_BackendData | None)
    except (msgspec.DecodeError, ValueError):
        return ""
    mac = data.mac.lower() if data else ""
    return mac if _MAC.fullmatch(mac) else ""
