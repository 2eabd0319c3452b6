"""VXLAN device, routes, neighbours and forwarding entries in the kernel. All calls block: run them in a pool thread."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import Any

from netplugin.kernel import dump, ethtool
from netplugin.kernel.library import NetlinkError
from netplugin.kernel.links import netlink_socket, translated
from netplugin.overlay import (
    Action,
    CreateDevice,
    DeleteDevice,
    Device,
    DropAddress,
    DropForwarding,
    DropNeighbour,
    DropRoute,
    Route,
    Seen,
    SeenDevice,
    SetDevice,
    SetForwarding,
    SetNeighbour,
    SetRoute,
    Underlay,
)
from netplugin.protocol import NetworkError

log = logging.getLogger(__name__)

PROTOCOL = 83
"""Marks routes as ours ("protocol 83" in `ip route`), so that those that are no longer wanted are found again."""
_DEFAULT_MTU = 1500
_BROADCAST, _LOCAL_TABLE = 3, 255
_PERMANENT, _NOARP = 0x80, 0x40
_SELF = 2  # the device's own table, not that of a bridge which it might be a port of


def underlay(node_ip: IPv4Address) -> Underlay:
    """The link that has the node's IP; of an address that no link has (behind NAT), nothing but a usual MTU."""
    with translated(f"look for {node_ip}"):
        for index, address in list(dump.all_addresses()):
            if address.ip == node_ip:
                link, _ = dump.link(index)
                return Underlay(link.name, link.mtu)
    return Underlay("", _DEFAULT_MTU)


def observe(device: str) -> Seen:
    """The device with its tables, and our routes."""
    with translated("read the overlay"):
        index = _index(device)
        routes = frozenset(_route(found) for found in dump.routes(PROTOCOL))
        if index == 0:
            return Seen(None, routes)
        try:
            link, vxlan = dump.link(index)
        except OSError as error:
            if error.errno == errno.ENODEV:  # it went in between
                return Seen(None, routes)
            raise
        kind = vxlan.kind, vxlan.vni, vxlan.port, vxlan.local, vxlan.learning
        seen = SeenDevice(kind, link.mac, link.mtu, link.up, ethtool.checksum_offload(device), dump.addresses(index))
        neighbours = {found.address: found.mac for found in dump.neighbours(index)
                      if found.address is not None and found.permanent}
        return Seen(seen, routes, neighbours, {found.mac: found.address for found in dump.forwarding(index)})


def apply(actions: Iterable[Action]) -> None:
    """Do what `plan` found. One that fails does not keep the others from being done; NetworkError tells of it."""
    failed: list[str] = []
    with netlink_socket("change the overlay") as netlink:
        for action in actions:
            try:
                _apply(netlink, action)
            except NetlinkError as error:
                failed.append(f"{action}: {error.args[1] if len(error.args) > 1 else error}")
            except OSError as error:
                failed.append(f"{action}: {error}")
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise NetworkError(f"{failed[0]}{more}")


def teardown(device: str) -> None:
    """Delete the device and every route of ours."""
    with netlink_socket("take the overlay away") as netlink:
        for found in list(dump.routes(PROTOCOL)):
            _apply(netlink, DropRoute(_route(found)))
        _apply(netlink, DeleteDevice(device))


def _apply(netlink: Any, action: Action) -> None:
    match action:
        case CreateDevice(device):
            _create(netlink, device)
            _set(netlink, device)
        case SetDevice(device):
            _set(netlink, device)
        case DeleteDevice(name):
            with _unless(errno.ENODEV):
                netlink.link("del", index=_there(name))
        case DropAddress(name, address):
            with _unless(errno.EADDRNOTAVAIL):
                netlink.addr("del", index=_there(name), address=str(address.ip), prefixlen=address.network.prefixlen)
        case SetForwarding(name, mac, node):
            netlink.fdb("replace", ifindex=_there(name), lladdr=mac, dst=str(node), flags=_SELF,
                        state=_PERMANENT | _NOARP)
        case DropForwarding(name, mac, node):
            with _unless(errno.ENOENT):
                netlink.fdb("del", ifindex=_there(name), lladdr=mac, **({"dst": str(node)} if node else {}))
        case SetNeighbour(name, address, mac):
            netlink.neigh("replace", ifindex=_there(name), dst=str(address), lladdr=mac, state=_PERMANENT)
        case DropNeighbour(name, address):
            with _unless(errno.ENOENT):
                netlink.neigh("del", ifindex=_there(name), dst=str(address))
        case SetRoute(route):
            netlink.route("replace", **_words(route))
        case DropRoute(route):
            with _unless(errno.ESRCH, errno.ENODEV):
                netlink.route("del", **_words(route))


def _create(netlink: Any, device: Device) -> None:
    try:
        with _unless(errno.EEXIST):  # it has come meanwhile, and is looked at again
            netlink.link("add", ifname=device.name, kind="vxlan", address=device.mac, mtu=device.mtu,
                         vxlan_id=device.vni, vxlan_port=device.port, vxlan_local=str(device.local), vxlan_learning=0)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            raise NetworkError("the kernel has no VXLAN: its module `vxlan` is missing or may not be loaded") from error
        raise
    if _index(device.name) == 0:
        raise NetworkError(f"another VXLAN device on this host has VNI {device.vni} and UDP port {device.port}; is "
                           "flannel or another cluster's network left here?")


def _set(netlink: Any, device: Device) -> None:
    """Offload goes off before the device comes up: not one packet leaves otherwise."""
    index = _there(device.name)
    ethtool.set_checksum_offload(device.name, device.checksum_offload)
    netlink.link("set", index=index, address=device.mac, mtu=device.mtu)
    with _unless(errno.EEXIST):
        netlink.addr("add", index=index, address=str(device.address.ip), prefixlen=32)
    # Before Linux 5.14 a network's first address was its broadcast address, too: the bridge has it as such.
    with _unless(errno.ESRCH):
        netlink.route("del", dst=f"{device.address.ip}/32", table=_LOCAL_TABLE, type=_BROADCAST)
    netlink.link("set", index=index, state="up")


def _words(route: Route) -> dict[str, Any]:
    onlink: dict[str, Any] = {"flags": ["onlink"]} if route.onlink else {}
    return {"dst": str(route.subnet), "gateway": str(route.gateway), "oif": _there(route.link), "proto": PROTOCOL,
            **onlink}


def _route(found: dump.Route) -> Route:
    try:
        name = socket.if_indextoname(found.link)
    except OSError:
        name = ""
    return Route(found.subnet, found.gateway, name, found.onlink)


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _there(name: str) -> int:
    index = _index(name)
    if index == 0:
        raise NetlinkError(errno.ENODEV, f"there is no interface {name}")
    return index


@contextlib.contextmanager
def _unless(*codes: int) -> Iterator[None]:
    """These errors only say that there is nothing to do."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise
