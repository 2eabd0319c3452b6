"""The firewall rules that pods need, as values; pure. `netplugin.kernel.firewall` applies them.

All rules are in chains of ours, which are written whole in one transaction. Docker, firewalld and others own the
built-in chains; there we have only jumps, which are checked and put back one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netplugin.ipam import Lease

FORWARD = "SAMPAN-FORWARD"
INPUT = "SAMPAN-INPUT"
POSTROUTING = "SAMPAN-POSTROUTING"
HOSTPORTS = "SAMPAN-HOSTPORTS"

MARK = "0x2000/0x2000"
"""The packet mark for "masquerade this host port's connection"; kube-proxy uses 0x4000 and 0x8000."""


@dataclass(frozen=True, slots=True)
class Jump:
    """A rule in somebody else's chain that leads to one of ours. `optional`: where that chain exists."""

    table: str
    chain: str
    target: str
    match: tuple[str, ...] = ()
    optional: bool = False

    @property
    def rule(self) -> list[str]:
        """The rule's words, as iptables takes them."""
        return [*self.match, "-m", "comment", "--comment", "sampan", "-j", self.target]


_LOCAL = ("-m", "addrtype", "--dst-type", "LOCAL")

JUMPS = (
    Jump("filter", "FORWARD", FORWARD),
    # Docker evaluates this chain before its own and never touches its content.
    Jump("filter", "DOCKER-USER", FORWARD, optional=True),
    Jump("filter", "INPUT", INPUT),
    Jump("nat", "POSTROUTING", POSTROUTING),
    Jump("nat", "PREROUTING", HOSTPORTS, _LOCAL),
    Jump("nat", "OUTPUT", HOSTPORTS, _LOCAL),
)


@dataclass(frozen=True, slots=True)
class Chain:
    """One of our chains with its rules, each without the leading `-A chain`."""

    table: str
    name: str
    rules: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Table and name."""
        return self.table, self.name


@dataclass(frozen=True, slots=True)
class Firewall:
    """What the rules depend on: the node's and the cluster's pod networks, and the pods' host ports.

    `overlay`: the device by which pods of other nodes are reached, "" where that is the underlay itself. `accept`:
    whether pods' packets are let through against FORWARD's policy.
    """

    pod_cidr: IPv4Network
    cluster: tuple[IPv4Network, ...]
    leases: tuple[Lease, ...] = ()
    overlay: str = ""
    accept: bool = True
    random_fully: bool = True


def chains(wanted: Firewall) -> list[Chain]:
    """All of our chains."""
    return [
        Chain("filter", FORWARD, _forward(wanted)),
        Chain("filter", INPUT, _input()),
        Chain("nat", HOSTPORTS, tuple(_host_ports(wanted))),
        Chain("nat", POSTROUTING, _postrouting(wanted)),
    ]


def restore_input(wanted: Iterable[Chain]) -> str:
    """Input for `iptables-restore --noflush`: naming a chain empties it, in the same transaction that fills it."""
    tables: dict[str, list[Chain]] = {}
    for chain in wanted:
        tables.setdefault(chain.table, []).append(chain)
    lines = []
    for table, members in tables.items():
        lines.append(f"*{table}")
        lines += [f":{chain.name} - [0:0]" for chain in members]
        lines += [f"-A {chain.name} {rule}" for chain in members for rule in chain.rules]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _forward(wanted: Firewall) -> tuple[str, ...]:
    """Docker sets FORWARD's policy to DROP; pods' traffic is ours to accept."""
    if not wanted.accept:
        return ()
    return tuple(f"{way} {network} -j ACCEPT" for network in wanted.cluster for way in ("-s", "-d"))


def _input() -> tuple[str, ...]:
    """What route_localnet would open: others reaching services that listen on 127.0.0.1 (CVE-2020-8558)."""
    return ("! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",)


def _postrouting(wanted: Firewall) -> tuple[str, ...]:
    """Pods speak to each other by their own addresses, also across nodes, and to the world by the node's.

    What this node sends to another node's pod under an address that is not the cluster's (a ClusterIP was asked for,
    and its connection got the underlay's address) leaves under that of the overlay's device: the answer must come
    back the same way.
    """
    masquerade = "-j MASQUERADE --random-fully" if wanted.random_fully else "-j MASQUERADE"
    rules = [f"-m mark --mark {MARK} {masquerade}"]
    rules += [f"-s {wanted.pod_cidr} -d {network} -j RETURN" for network in wanted.cluster]
    rules.append(f"-s {wanted.pod_cidr} ! -d 224.0.0.0/4 {masquerade}")
    if wanted.overlay:
        rules += [f"-s {network} -j RETURN" for network in wanted.cluster]
        rules.append(f"-o {wanted.overlay} {masquerade}")
    return tuple(rules)


def _host_ports(wanted: Firewall) -> Sequence[str]:
    """As the CNI plugin portmap does it: mark what must come back through us, then send it to the pod.

    A connection from this node's pods would otherwise be answered past the node, one from 127.0.0.1 not at all.
    """
    rules = []
    for lease in wanted.leases:
        for port in lease.host_ports:
            try:
                host = IPv4Address(port.host_ip or 0)
            except ValueError:
                continue  # an IPv6 address leads to no pod of ours
            protocol = port.protocol.lower()
            match = f"-p {protocol} -m {protocol} --dport {port.host_port}"
            if int(host):
                match = f"-d {host} {match}"
            comment = f'-m comment --comment "{lease.namespace}/{lease.name}"'
            rules += [f"-s {source} {match} {comment} -j MARK --set-xmark {MARK}"
                      for source in (wanted.pod_cidr, "127.0.0.1/32")]
            rules.append(f"{match} {comment} -j DNAT --to-destination {lease.ip}:{port.container_port}")
    return rules
