"""Bridge, veth pairs, addresses and routes, over netlink. All calls block: run them in a pool thread.

A netlink socket is opened per call (0.6 ms): it belongs to the thread and namespace in which it was made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from netplugin import names
from netplugin.kernel import dump
from netplugin.kernel.library import IPRoute, NetlinkError
from netplugin.netns import called, entered
from netplugin.plan import (
    Action,
    AddAddress,
    BridgeSpec,
    Connect,
    CreateBridge,
    DeletePort,
    DropAddress,
    PortSpec,
    Seen,
    SeenBridge,
    SeenPort,
    SetBridge,
)
from netplugin.protocol import NetworkError

_IFF_UP = 1


def observe(bridge: str) -> Seen:
    """The bridge and all veths with names of ours."""
    seen_bridge = None
    ports: dict[str, SeenPort] = {}
    with translated("read the links"):
        for link in dump.links():
            if link.name == bridge:
                seen_bridge = SeenBridge(link.index, link.mac, link.mtu, link.up, dump.addresses(link.index))
            elif names.is_veth(link.name):
                ports[link.name] = SeenPort(link.index, link.master, link.up, link.hairpin)
    return Seen(seen_bridge, ports)


def apply(actions: Iterable[Action]) -> None:
    """Do what `plan` found."""
    with netlink_socket("change the links") as netlink:
        for action in actions:
            _apply(netlink, action)


def default_mtu() -> int:
    """The smallest MTU of the links that a default route leaves by; 1500 without one."""
    with netlink_socket("read the default route") as netlink:
        indices = [route.get("oif") for route in netlink.get_routes(family=2) if route["dst_len"] == 0]
        mtus = [link.get("mtu") for link in netlink.get_links() if link["index"] in indices]
    return min((mtu for mtu in mtus if mtu), default=1500)


def connect(port: PortSpec, bridge: BridgeSpec, where: str) -> None:
    """Join the namespace at that path to the bridge by a veth pair, or repair that; nothing where it is well."""
    with netlink_socket(f"connect {port.ip}") as netlink:
        found = _link(netlink, port.name)
        if found is not None and _inside_is_well(found, port, bridge, where):
            _join_bridge(netlink, port.name, bridge)
            return
        if found is not None:
            _delete(netlink, port.name)
        _create_pair(netlink, port, bridge, where)
        _configure_inside(port, bridge, where)
        _set_hairpin(netlink, port.name)


def is_well(port: PortSpec, bridge: BridgeSpec, where: str) -> bool:
    """Whether `connect` would find nothing to do but for the bridge."""
    with netlink_socket(f"look at {port.ip}") as netlink:
        found = _link(netlink, port.name)
        return found is not None and _inside_is_well(found, port, bridge, where)


def delete(port: str) -> None:
    """Delete a veth pair by the host's end; one that is not there is fine."""
    with netlink_socket(f"delete {port}") as netlink:
        _delete(netlink, port)


def teardown(bridge: str) -> None:
    """Delete the bridge and every veth of ours."""
    with netlink_socket("take the bridge away") as netlink:
        for name in (*observe(bridge).ports, bridge):
            _delete(netlink, name)


def write_sysctl(name: str, value: str, *, missing_ok: bool = False) -> None:
    """Set a kernel parameter (dots between its parts), unless it has the value already."""
    path = Path("/proc/sys", *name.split("."))
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except FileNotFoundError as error:
        if not missing_ok:
            raise NetworkError(f"the kernel has no parameter {name}") from error
    except OSError as error:
        raise NetworkError(f"set {name}={value}: {error}") from error


@contextlib.contextmanager
def netlink_socket(what: str) -> Iterator[Any]:
    """A netlink socket in the thread's namespace, with errors as ours."""
    with translated(what), IPRoute() as netlink:
        yield netlink


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(f"{what}: {error.args[1] if len(error.args) > 1 else error}") from error
    except OSError as error:
        raise NetworkError(f"{what}: {error}") from error


def _apply(netlink: Any, action: Action) -> None:
    match action:
        case CreateBridge(bridge):
            with _already_there():
                netlink.link("add", ifname=bridge.name, kind="bridge", address=bridge.mac)
            _apply(netlink, SetBridge(bridge))
            _apply(netlink, AddAddress(bridge))
        case SetBridge(bridge):
            netlink.link("set", index=_index(bridge.name), address=bridge.mac, mtu=bridge.mtu, state="up")
        case AddAddress(bridge):
            with _already_there():
                netlink.addr("add", index=_index(bridge.name), address=str(bridge.address.ip),
                             prefixlen=bridge.address.network.prefixlen,
                             broadcast=str(bridge.address.network.broadcast_address))
        case DropAddress(bridge, address):
            netlink.addr("del", index=_index(bridge.name), address=str(address.ip),
                         prefixlen=address.network.prefixlen)
        case Connect(port, bridge):
            with _already_gone():  # its sandbox was detached since we looked
                _join_bridge(netlink, port, bridge)
        case DeletePort(port):
            _delete(netlink, port)


def _create_pair(netlink: Any, port: PortSpec, bridge: BridgeSpec, where: str) -> None:
    """Both ends in one request, each where it belongs: there is no half of a pair to lose."""
    try:
        there = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkError(f"{called(where)}, which was to be connected: {error.strerror}") from error
    try:
        netlink.link("add", ifname=port.name, kind="veth", address=names.host_mac(port.ip), mtu=bridge.mtu,
                     master=_index(bridge.name), state="up",
                     peer={"ifname": port.inside, "address": names.pod_mac(port.ip), "mtu": bridge.mtu,
                           "net_ns_fd": there})
    finally:
        os.close(there)


def _configure_inside(port: PortSpec, bridge: BridgeSpec, where: str) -> None:
    with entered(where), netlink_socket(f"set up {port.inside} of {port.ip}") as inside:
        inside.link("set", index=1, state="up")  # loopback always is number 1
        index = _index(port.inside)
        inside.addr("add", index=index, address=str(port.ip), prefixlen=bridge.address.network.prefixlen,
                    broadcast=str(bridge.address.network.broadcast_address))
        inside.link("set", index=index, state="up")
        inside.route("add", dst="default", gateway=str(bridge.address.ip), oif=index)


def _inside_is_well(found: Any, port: PortSpec, bridge: BridgeSpec, where: str) -> bool:
    """Whether the host's end leads to that namespace's eth0, and that has its address and a way out."""
    with entered(where), netlink_socket(f"look at {port.inside} of {port.ip}") as inside:
        link = _link(inside, port.inside)
        if link is None or link["index"] != found.get("link") or link.get("address") != names.pod_mac(port.ip):
            return False
        wanted = IPv4Interface((port.ip, bridge.address.network.prefixlen))
        gateways = [route.get("gateway") for route in inside.get_routes(family=2) if route["dst_len"] == 0]
        return _is_up(link) and wanted in dump.addresses(link["index"]) and str(bridge.address.ip) in gateways


def _join_bridge(netlink: Any, name: str, bridge: BridgeSpec) -> None:
    netlink.link("set", index=_index(name), master=_index(bridge.name), state="up")
    _set_hairpin(netlink, name)


def _set_hairpin(netlink: Any, name: str) -> None:
    netlink.brport("set", index=_index(name), mode=1)


def _delete(netlink: Any, name: str) -> None:
    with _already_gone():
        netlink.link("del", index=_index(name))


def _link(netlink: Any, name: str) -> Any | None:
    try:
        return netlink.link("get", ifname=name)[0]
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def _index(name: str) -> int:
    """In the thread's namespace. The C library asks for it with an ioctl: microseconds, where netlink takes 0.3 ms."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise NetlinkError(errno.ENODEV, f"there is no interface {name}") from error


def _is_up(link: Any) -> bool:
    return bool(link["flags"] & _IFF_UP)


@contextlib.contextmanager
def _already_there() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


@contextlib.contextmanager
def _already_gone() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
