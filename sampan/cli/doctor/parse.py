"""From what commands and files say to facts; pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from xml.etree import ElementTree as ET

from sampan.cli.doctor.facts import Firewalld, Let, Rules, Ufw, Version
from sampan.cli.doctor.site import Port

# iptables

def iptables_version(text: str) -> tuple[Version, str]:
    """From `iptables v1.8.9 (nf_tables)`; before 1.8 there was one flavour, unnamed. ValueError."""
    match = re.search(r"v(\d+)\.(\d+)(?:\.(\d+))?(?: \((\w+)\))?", text)
    if match is None:
        raise ValueError(f"iptables --version printed {text.strip()[:100]!r}")
    return (int(match[1]), int(match[2]), int(match[3] or 0)), match[4] or "legacy"


def filter_table(saved: str) -> Rules:
    """From what `iptables-save -t filter` prints, of either flavour."""
    policy, chains = "ACCEPT", dict[str, list[str]]()
    for line in saved.splitlines():
        if line.startswith(":"):
            name, value, *_ = line[1:].split()
            chains[name] = []
            if name == "FORWARD":
                policy = value
        elif line.startswith("-A "):
            name, _, rule = line.removeprefix("-A ").partition(" ")
            chains.setdefault(name, []).append(rule)
    return Rules(policy, chains)


# firewalld

def firewalld(zone: str, trusted: str, service: Callable[[str], Sequence[Port]]) -> Firewalld:
    """From `firewall-cmd --zone=Z --list-all` of the interface's zone and of zone `trusted`."""
    values, trusting = _listed(zone), _listed(trusted)
    ports = [port for text in values.get("ports", "").split() if (port := _port(text))]
    ports += [port for text in values.get("services", "").split() for port in service(text)]
    name = zone.split(maxsplit=1)[0] if zone.strip() else ""
    return Firewalld(name, ports, values.get("target") == "ACCEPT", trusting.get("sources", "").split())


def _listed(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\s+([a-z-]+):[ \t]*(.*)$", text, re.MULTILINE))


def firewalld_service(xml: str) -> list[Port]:
    """The ports of a service's file. Its <include>s are left out: none of those that concern us has one."""
    try:
        tree = ET.fromstring(xml)  # noqa: S314 - root's own files
    except ET.ParseError:
        return []
    found = [_port(f"{item.get('port')}/{item.get('protocol')}") for item in tree.iter("port")]
    return [port for port in found if port]


# ufw

def ufw(status: str) -> Ufw | None:
    """From `ufw status verbose`; None where it is not active. Rules for single interfaces, and those that deny, are not
    looked at.
    """
    if not re.search(r"^Status: active", status, re.MULTILINE):
        return None
    incoming = re.search(r"^Default: (\w+) \(incoming\)", status, re.MULTILINE)
    let: list[Let] = []
    for line in status.splitlines():
        match = re.match(r"(.+?)\s+(?:ALLOW|LIMIT) IN\s+(\S+)\s*(?:#.*)?$", line)
        if match and " on " not in match[1]:
            source = "" if match[2] == "Anywhere" else match[2]
            let += [Let(source)] if match[1] == "Anywhere" else [Let(source, port) for port in _ufw_ports(match[1])]
    return Ufw(incoming[1] if incoming else "deny", let)


def _ufw_ports(text: str) -> list[Port]:
    """22/tcp, 6443,6444/tcp, 30000:32767/udp, and 6443 for both protocols; application profiles are not known."""
    numbers, _, protocol = text.partition("/")
    found = [_port(f"{part.replace(':', '-')}/{name}") for part in numbers.split(",")
             for name in ([protocol] if protocol else ["tcp", "udp"])]
    return [port for port in found if port]


def _port(text: str) -> Port | None:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?/(\w+)", text)
    return Port(int(match[1]), int(match[2] or match[1]), match[3]) if match else None


# Names

def nameservers(text: str) -> list[str]:
    """The servers of a resolv.conf."""
    return re.findall(r"^\s*nameserver\s+([^\s#;]+)", text, re.MULTILINE)


def dns_question(number: int, name: str) -> bytes:
    """A question for a name's IPv4 addresses (RFC 1035, section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def dns_problem(number: int, answer: bytes) -> str:
    """What is wrong with an answer; "" where it holds at least one record."""
    if len(answer) < 12:
        return "the answer is too short"
    found, flags, _, records = struct.unpack(">4H", answer[:8])
    if found != number or not flags & 0x8000:
        return "that is no answer to the question"
    if flags & 0xF:
        return f"the answer is an error (code {flags & 0xF})"
    return "" if records else "the answer is empty"
