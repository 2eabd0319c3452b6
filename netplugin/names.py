"""What things of ours are called in the kernel, so that they are found again and told from others'."""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv4Address

BRIDGE = "sampan0"
VXLAN = "sampan.1"
"""Ends in the network's number (VNI), as flannel's flannel.1 does."""
POD_INTERFACE = "eth0"
_VETH = "smp"


def veth(sandbox_id: str) -> str:
    """The host's end of a sandbox's veth pair: 15 characters, which is what the kernel allows.

    It carries the first 12 digits of the container's id, the ones that `docker ps` shows.
    """
    digits = sandbox_id[:12]
    if not re.fullmatch("[0-9a-f]{12}", digits):
        digits = hashlib.sha256(sandbox_id.encode()).hexdigest()[:12]
    return _VETH + digits


def is_veth(interface: str) -> bool:
    """Whether the name is one that `veth` gives."""
    return re.fullmatch(f"{_VETH}[0-9a-f]{{12}}", interface) is not None


def pod_mac(ip: IPv4Address) -> str:
    """The MAC address of the pod's end, made from its IP: a later owner of the IP finds neighbours' caches right."""
    return "0a:58:" + ip.packed.hex(":")


def host_mac(ip: IPv4Address) -> str:
    """The MAC address of the host's end. Being set by us, it is left alone by udev and systemd-networkd."""
    return "0e:58:" + ip.packed.hex(":")


def vtep_mac(address: IPv4Address) -> str:
    """The MAC address of the VXLAN device, made from its IP (the first of the node's pod CIDR).

    So it outlives restarts, reboots and a deletion by hand, and other nodes have nothing to learn anew.
    """
    return "0e:59:" + address.packed.hex(":")
