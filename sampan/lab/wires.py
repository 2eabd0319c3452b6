"""The lab's cables: a switch (a bridge in a namespace of its own), a cable to each host, and one to the machine.

Hosts that are cut off are plugged into a second bridge of the switch: they keep their link and see one another, as when
the cable between two rooms is cut. Everything here may be done again and completes what is half done.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.lab import shell
from sampan.lab.plan import Host, Lab

NAMESPACES = Path("/run/netns")
LAN, CUT_OFF, TO_MACHINE, CARD = "lan", "cut", "machine", "eth0"
"""Names inside the lab's own namespaces: the two bridges, the switch's port to the machine, a host's interface."""
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in the machine's own firewall."""

    table: str
    chain: str
    words: tuple[str, ...]


async def make_namespace(name: str) -> None:
    """A network namespace with its loopback up."""
    if not is_namespace(name):
        await remove_namespace(name)  # a plain file, left by a command that was killed
        await shell.run("ip", "netns", "add", name)
    await shell.ip(name, "link set lo up")


def is_namespace(name: str) -> bool:
    """Whether there is such a namespace: a mount of the kernel's own file system on a file."""
    path = NAMESPACES / name
    return path.exists() and path.stat().st_dev != NAMESPACES.stat().st_dev


async def lay_switch(lab: Lab) -> None:
    """The switch, and the cable from it to the machine."""
    await make_namespace(lab.switch)
    for bridge in (LAN, CUT_OFF):
        if not await has_link(lab.switch, bridge):
            await shell.ip(lab.switch, f"link add {bridge} address {lab.mac(200 if bridge == LAN else 201)} "
                                       "type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    # A switch does not look into packets.
    await shell.run("nsenter", f"--net={NAMESPACES / lab.switch}", "sh", "-c",
                    shell.write_setting(BRIDGE_FILTER, "0"))
    if not await has_link("", lab.uplink):
        await shell.ip("", f"link add {lab.uplink} address {lab.mac(202)} type veth "
                           f"peer name {TO_MACHINE} netns {lab.switch}")
    await shell.ip(lab.switch, f"link set {LAN} up", f"link set {CUT_OFF} up",
                   f"link set {TO_MACHINE} master {LAN} up")
    await shell.ip("", f"addr replace {lab.gateway}/{lab.subnet.prefixlen} dev {lab.uplink}",
                   f"link set {lab.uplink} up")
    for rule in outward(lab):
        await ensure_rule(rule)


async def plug_in(lab: Lab, host: Host) -> None:
    """The host's namespace, and the cable from its interface to the switch."""
    await make_namespace(host.namespace)
    if not await has_link(lab.switch, host.port):
        await shell.ip(lab.switch, f"link add {host.port} type veth peer name {CARD} address {host.mac} "
                                   f"netns {host.namespace}")
    await patch(lab, host, cut_off=host.name in lab.partitioned)
    await shell.ip(host.namespace, f"addr replace {host.ip}/{lab.subnet.prefixlen} dev {CARD}", f"link set {CARD} up",
                   f"route replace default via {lab.gateway}")


async def pull_out(lab: Lab, host: Host) -> None:
    """Take the host's cable and namespace away; the kernel removes what else was in it."""
    if (NAMESPACES / lab.switch).exists():
        await remove_link(lab.switch, host.port)
    await remove_namespace(host.namespace)


async def patch(lab: Lab, host: Host, *, cut_off: bool) -> None:
    """Plug the host's cable into the bridge of all, or into that of those cut off."""
    await shell.ip(lab.switch, f"link set {host.port} master {CUT_OFF if cut_off else LAN} up")


async def remove_namespace(name: str) -> None:
    """Take a namespace away; nothing happens where there is none."""
    if (NAMESPACES / name).exists():
        await shell.run("ip", "netns", "delete", name)


async def remove_uplink(name: str) -> None:
    """Take the machine's interface to a lab away."""
    await remove_link("", f"lab-{name}")


async def remove_link(namespace: str, name: str) -> None:
    """Take an interface away. There may be none, or none any more: when a namespace goes, the kernel takes both ends of
    its cables away a little later.
    """
    where = ("-n", namespace) if namespace else ()
    try:
        await shell.run("ip", *where, "link", "delete", name)
    except shell.CommandFailed:
        if await has_link(namespace, name):
            raise


async def has_link(namespace: str, name: str) -> bool:
    """Whether there is such an interface."""
    where = ("-n", namespace) if namespace else ()
    return await shell.succeeds("ip", *where, "link", "show", name)


def outward(lab: Lab) -> Sequence[Rule]:
    """The rules by which hosts reach what the machine reaches, also where its firewall forwards nothing else."""
    mark = ("-m", "comment", "--comment", comment(lab.name))
    return (Rule("nat", "POSTROUTING", ("-s", str(lab.subnet), "!", "-o", lab.uplink, *mark, "-j", "MASQUERADE")),
            Rule("filter", "FORWARD", ("-i", lab.uplink, *mark, "-j", "ACCEPT")),
            Rule("filter", "FORWARD", ("-o", lab.uplink, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", *mark,
                                       "-j", "ACCEPT")))


def comment(name: str) -> str:
    """What marks a lab's rules."""
    return f"sampan-lab-{name}"


async def ensure_rule(rule: Rule) -> None:
    """Put a rule before others, where it is not there yet."""
    start = ("iptables", "--wait", "10", "-t", rule.table)
    if not await shell.succeeds(*start, "-C", rule.chain, *rule.words):
        await shell.run(*start, "-I", rule.chain, *rule.words)


async def remove_rules(name: str) -> None:
    """Take the lab's rules away, found by their mark."""
    for table in ("nat", "filter"):
        start = ("iptables", "--wait", "10", "-t", table)
        for line in (await shell.run(*start, "-S")).splitlines():
            if comment(name) in line.split():
                await shell.run(*start, "-D", *line.split()[1:])


async def used_subnets() -> list[ipaddress.IPv4Network]:
    """The networks that the machine has a route or an address in."""
    routes = json.loads(await shell.run("ip", "-4", "-j", "route", "show", "table", "all"))
    links = json.loads(await shell.run("ip", "-4", "-j", "addr"))
    found = [route["dst"] for route in routes if route["dst"] != "default"]
    found += [f"{entry['local']}/{entry['prefixlen']}" for link in links for entry in link.get("addr_info", ())]
    return [ipaddress.IPv4Network(network, strict=False) for network in found]
