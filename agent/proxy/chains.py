"""Names of chains, and rules, the way kube-proxy gives them; pure.

What operators know of kube-proxy's iptables holds here: a packet to a Service's address goes from KUBE-SERVICES to
the port's chain KUBE-SVC-… (all endpoints) or KUBE-SVL-… (this node's), from there by chance to one KUBE-SEP-…, which
sends it to the endpoint. KUBE-EXT-… stands before them for traffic from outside, KUBE-FW-… before that where only
some sources may come.

Rules are written as `iptables-save` prints them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from agent.proxy.model import Choice, Endpoint, ServicePort, choose, endpoints, service_ports
from netplugin.tables import ChainId, Rules
from sampan.api.types.core_v1 import Service
from sampan.api.types.discovery_v1 import EndpointSlice

MARK = "0x4000/0x4000"
_CLEAR_MARK = "0x4000/0x0"

SERVICES = ChainId("nat", "KUBE-SERVICES")
NODE_PORTS = ChainId("nat", "KUBE-NODEPORTS")
POSTROUTING = ChainId("nat", "KUBE-POSTROUTING")
MARK_MASQ = ChainId("nat", "KUBE-MARK-MASQ")
REJECTS = ChainId("filter", "KUBE-SERVICES")
EXTERNAL_REJECTS = ChainId("filter", "KUBE-EXTERNAL-SERVICES")
HEALTH_PORTS = ChainId("filter", "KUBE-NODEPORTS")
FORWARD = ChainId("filter", "KUBE-FORWARD")
SOURCES = ChainId("filter", "KUBE-PROXY-FIREWALL")
LOCALNET = ChainId("filter", "KUBE-FIREWALL")

SHARED = (NODE_PORTS, SERVICES, HEALTH_PORTS, REJECTS, EXTERNAL_REJECTS, SOURCES)
"""Chains to which each Service adds rules, those that are led to first."""
OWN = frozenset({*SHARED, POSTROUTING, MARK_MASQ, FORWARD, LOCALNET})
_KINDS = ("FW", "XLB", "EXT", "SVC", "SVL", "SEP")
"""Of chains of one Service, each before those that it leads to."""
_SERVICE_CHAIN = re.compile(f"KUBE-({'|'.join(_KINDS)})-[A-Z2-7]{{16}}")

LAST = ('-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
        f"-m addrtype --dst-type LOCAL -j {NODE_PORTS.name}")
"""The last rule of KUBE-SERVICES: what is none of the Services' addresses may be a node port."""

_NEW = "-m conntrack --ctstate NEW "
_PORTAL = '-m comment --comment "kubernetes service portals" '
_EXTERNAL_PORTAL = '-m comment --comment "kubernetes externally-visible service portals" '
_HEALTH = '-m comment --comment "kubernetes health check service ports" '
_BALANCER = '-m comment --comment "kubernetes load balancer firewall" '

JUMPS: tuple[tuple[ChainId, str], ...] = (
    (ChainId("filter", "INPUT"), f"{_NEW}{_EXTERNAL_PORTAL}-j {EXTERNAL_REJECTS.name}"),
    (ChainId("filter", "FORWARD"), f"{_NEW}{_EXTERNAL_PORTAL}-j {EXTERNAL_REJECTS.name}"),
    (ChainId("filter", "INPUT"), f"{_HEALTH}-j {HEALTH_PORTS.name}"),
    (ChainId("filter", "FORWARD"), f"{_NEW}{_PORTAL}-j {REJECTS.name}"),
    (ChainId("filter", "OUTPUT"), f"{_NEW}{_PORTAL}-j {REJECTS.name}"),
    (ChainId("filter", "FORWARD"), f'-m comment --comment "kubernetes forwarding rules" -j {FORWARD.name}'),
    (ChainId("filter", "INPUT"), f"{_NEW}{_BALANCER}-j {SOURCES.name}"),
    (ChainId("filter", "OUTPUT"), f"{_NEW}{_BALANCER}-j {SOURCES.name}"),
    (ChainId("filter", "FORWARD"), f"{_NEW}{_BALANCER}-j {SOURCES.name}"),
    (ChainId("filter", "INPUT"), f"-j {LOCALNET.name}"),
    (ChainId("filter", "OUTPUT"), f"-j {LOCALNET.name}"),
    (ChainId("nat", "OUTPUT"), f"{_PORTAL}-j {SERVICES.name}"),
    (ChainId("nat", "PREROUTING"), f"{_PORTAL}-j {SERVICES.name}"),
    (ChainId("nat", "POSTROUTING"), f'-m comment --comment "kubernetes postrouting rules" -j {POSTROUTING.name}'),
)
"""Rules in the kernel's own chains that lead to ours; each is put in front."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the rules of this node depend on. `pod_cidr`: the whole cluster's, "" for not known."""

    name: str
    ip: str = ""
    pod_cidr: str = ""
    zone: str = ""
    random_fully: bool = True


@dataclass(slots=True)
class Rendered:
    """What one port of a Service needs: chains of its own in `nat`, and rules in chains that all share."""

    chains: dict[ChainId, Rules] = field(default_factory=dict)
    shared: list[tuple[ChainId, str]] = field(default_factory=list)

    def add(self, other: Rendered) -> None:
        """Take in another port's."""
        self.chains.update(other.chains)
        self.shared += other.shared


def chain_hash(*parts: str) -> str:
    """Sixteen characters: 28, which iptables allows, less the prefix."""
    return base64.b32encode(hashlib.sha256("".join(parts).encode()).digest()).decode()[:16]


def is_ours(chain: ChainId) -> bool:
    """Whether the chain is one of those that this file gives names to."""
    return chain in OWN or is_service_chain(chain)


def is_service_chain(chain: ChainId) -> bool:
    """Whether it belongs to one Service."""
    return chain.table == "nat" and _SERVICE_CHAIN.fullmatch(chain.name) is not None


def leading_first(chains: Iterable[ChainId]) -> list[ChainId]:
    """Services' chains in an order in which they can be taken away: nothing leads to the first ones."""
    return sorted(chains, key=lambda chain: _KINDS.index(chain.name.split("-")[1]))


def fixed(node: NodeFacts) -> dict[ChainId, Rules]:
    """Chains that depend on no Service."""
    masquerade = '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE'
    established = '-m comment --comment "kubernetes forwarding conntrack rule"'
    localnet = '! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections"'
    return {
        MARK_MASQ: (f"-j MARK --set-xmark {MARK}",),
        POSTROUTING: (
            f"-m mark ! --mark {MARK} -j RETURN",
            f"-j MARK --set-xmark {_CLEAR_MARK}",  # a packet may pass twice, and is masqueraded once
            f"{masquerade} --random-fully" if node.random_fully else masquerade,
        ),
        FORWARD: (
            # What connection tracking takes for a stray would reach the client past the translation and reset it.
            "-m conntrack --ctstate INVALID -j DROP",
            f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {MARK} -j ACCEPT',
            f'{established} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
        ),
        # Node ports on 127.0.0.1 need route_localnet, which would open loopback to neighbours (CVE-2020-8558).
        LOCALNET: (f"{localnet} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",),
    }


def render(port: ServicePort, found: Sequence[Endpoint], node: NodeFacts) -> Rendered:
    """The rules of one port of a Service."""
    choice = choose(port, found, node.zone)
    names = _Names(port)
    result = Rendered(shared=[*_captures(port, choice, names), *_refusals(port, choice, names)])
    if port.health_check_port:
        comment = f'-m comment --comment "{port} health check node port"'
        result.shared.append((HEALTH_PORTS, f"-p tcp {comment} -m tcp --dport {port.health_check_port} -j ACCEPT"))
    if not choice.anywhere:
        return result
    chains = result.chains
    if port.external:
        chains[names.external] = tuple(_external(port, choice, names, node))
        if _has_firewall(port):
            chains[names.firewall] = tuple(_firewall(port, names, node))
    if choice.cluster and port.uses_cluster:
        chains[names.cluster] = (*_outsiders(port, names.cluster, names, node), *_balance(port, choice.cluster, names))
    if choice.local and port.uses_local:
        chains[names.local] = (*_outsiders(port, names.local, names, node), *_balance(port, choice.local, names))
    for endpoint in choice.reachable:
        chains[names.endpoint(endpoint)] = tuple(_endpoint(port, endpoint, names))
    return result


def wanted(services: Iterable[Service], slices: Mapping[tuple[str, str], Sequence[EndpointSlice]],
           node: NodeFacts) -> dict[ChainId, Rules]:
    """All chains of ours; `slices` by the Service's namespace and name."""
    everything = Rendered()
    for service in services:
        for port in service_ports(service):
            everything.add(render(port, endpoints(slices.get(port.service, ()), port, node.name), node))
    return {**fixed(node), **everything.chains, **shared_chains(everything.shared)}


def shared_chains(rules: Iterable[tuple[ChainId, str]]) -> dict[ChainId, Rules]:
    """The shared chains with these rules, each rule once."""
    result: dict[ChainId, dict[str, None]] = {chain: {} for chain in SHARED}
    for chain, rule in rules:
        result[chain][rule] = None
    result[SERVICES][LAST] = None
    return {chain: tuple(members) for chain, members in result.items()}


class _Names:
    """The chains of one port."""

    def __init__(self, port: ServicePort) -> None:
        digest = chain_hash(str(port), port.protocol)
        self.cluster = ChainId("nat", f"KUBE-SVC-{digest}")
        self.local = ChainId("nat", f"KUBE-SVL-{digest}")
        self.external = ChainId("nat", f"KUBE-EXT-{digest}")
        self.firewall = ChainId("nat", f"KUBE-FW-{digest}")
        self.internal = self.local if port.internal_local else self.cluster
        self._port = port
        self._endpoints: dict[Endpoint, ChainId] = {}

    def endpoint(self, endpoint: Endpoint) -> ChainId:
        """The chain of one endpoint."""
        if endpoint not in self._endpoints:
            digest = chain_hash(str(self._port), self._port.protocol, str(endpoint))
            self._endpoints[endpoint] = ChainId("nat", f"KUBE-SEP-{digest}")
        return self._endpoints[endpoint]


def _captures(port: ServicePort, choice: Choice, names: _Names) -> Iterator[tuple[ChainId, str]]:
    """What leads traffic to the port's chains."""
    protocol = port.protocol
    if choice.anywhere and (choice.local or not port.internal_local):
        yield SERVICES, _to(port, port.cluster_ip, "cluster IP", names.internal)
    if not choice.anywhere:
        return
    for ip in port.external_ips:
        yield SERVICES, _to(port, ip, "external IP", names.external)
    for ip in port.load_balancer_ips:
        yield SERVICES, _to(port, ip, "loadbalancer IP", names.firewall if _has_firewall(port) else names.external)
    if port.node_port:
        yield NODE_PORTS, (f'-p {protocol} -m comment --comment "{port}" -m {protocol} --dport {port.node_port} '
                           f"-j {names.external.name}")


def _refusals(port: ServicePort, choice: Choice, names: _Names) -> Iterator[tuple[ChainId, str]]:
    """What is refused at once: a port without any endpoint rejects, one without an endpoint here drops."""
    protocol = port.protocol
    verdict, why = ("DROP", f"{port} has no local endpoints") if choice.anywhere else \
        ("REJECT --reject-with icmp-port-unreachable", f"{port} has no endpoints")
    if not choice.anywhere or (port.internal_local and not choice.local):
        yield REJECTS, _refuse(port, port.cluster_ip, why, verdict)
    if choice.anywhere and _has_firewall(port):
        for ip in port.load_balancer_ips:
            yield SOURCES, _refuse(port, ip, f"{port} traffic not accepted by {names.firewall.name}", "DROP")
    if not choice.anywhere or (port.external_local and not choice.local):
        for ip in (*port.external_ips, *port.load_balancer_ips):
            yield EXTERNAL_REJECTS, _refuse(port, ip, why, verdict)
        if port.node_port:
            yield EXTERNAL_REJECTS, (f'-p {protocol} -m comment --comment "{why}" -m addrtype --dst-type LOCAL '
                                     f"-m {protocol} --dport {port.node_port} -j {verdict}")


def _to(port: ServicePort, ip: str, what: str, chain: ChainId) -> str:
    return f"{_match(port, ip, f'{port} {what}')} -j {chain.name}"


def _refuse(port: ServicePort, ip: str, why: str, verdict: str) -> str:
    return f"{_match(port, ip, why)} -j {verdict}"


def _match(port: ServicePort, ip: str, comment: str) -> str:
    protocol = port.protocol
    return f'-d {ip}/32 -p {protocol} -m comment --comment "{comment}" -m {protocol} --dport {port.port}'


def _external(port: ServicePort, choice: Choice, names: _Names, node: NodeFacts) -> Iterator[str]:
    """Traffic from outside: masqueraded where it may leave the node again, and as the policy says."""
    whom = f"{port} external destinations"
    if not port.external_local:
        yield f'-m comment --comment "masquerade traffic for {whom}" -j {MARK_MASQ.name}'
        yield f"-j {names.cluster.name}"
        return
    # What comes from this node is not held to its endpoints: it would not be on the way through a load balancer.
    if node.pod_cidr:
        yield f'-s {node.pod_cidr} -m comment --comment "pod traffic for {whom}" -j {names.cluster.name}'
    local = "-m addrtype --src-type LOCAL"
    yield f'-m comment --comment "masquerade LOCAL traffic for {whom}" {local} -j {MARK_MASQ.name}'
    yield f'-m comment --comment "route LOCAL traffic for {whom}" {local} -j {names.cluster.name}'
    if choice.local:
        yield f"-j {names.local.name}"


def _has_firewall(port: ServicePort) -> bool:
    return bool(port.load_balancer_ips and port.source_ranges)


def _firewall(port: ServicePort, names: _Names, node: NodeFacts) -> Iterator[str]:
    """Who passes goes on; the rest is dropped by KUBE-PROXY-FIREWALL, since `nat` cannot drop."""
    comment = f'-m comment --comment "{port} loadbalancer IP"'
    networks = [IPv4Network(text, strict=False) for text in port.source_ranges]
    for network in networks:
        # iptables-save does not print a match of everything.
        source = f"-s {network} " if network.prefixlen else ""
        yield f"{source}{comment} -j {names.external.name}"
    if node.ip and any(IPv4Address(node.ip) in network for network in networks):
        # Where the address is the node's own, what the node sends to it comes from it.
        for ip in port.load_balancer_ips:
            yield f"-s {ip}/32 {comment} -j {names.external.name}"
    yield f'-m comment --comment "other traffic to {port} will be dropped by {SOURCES.name}"'


def _outsiders(port: ServicePort, chain: ChainId, names: _Names, node: NodeFacts) -> Iterator[str]:
    """A Service's address is good for whoever routes it to a node, too: the answer must come back through here."""
    if node.pod_cidr and chain == names.internal:
        yield f'! -s {node.pod_cidr} {_match(port, port.cluster_ip, f"{port} cluster IP")} -j {MARK_MASQ.name}'


def _balance(port: ServicePort, chosen: Sequence[Endpoint], names: _Names) -> Iterator[str]:
    """First where the client was before; else by chance, each endpoint as likely as the others."""
    if port.affinity_seconds:
        for endpoint in chosen:
            chain = names.endpoint(endpoint).name
            yield (f'-m comment --comment "{port} -> {endpoint}" -m recent --rcheck --seconds {port.affinity_seconds} '
                   f"--reap --name {chain} --mask 255.255.255.255 --rsource -j {chain}")
    for left, endpoint in zip(range(len(chosen), 0, -1), chosen, strict=True):
        chance = f" -m statistic --mode random --probability {probability(left)}" if left > 1 else ""
        yield f'-m comment --comment "{port} -> {endpoint}"{chance} -j {names.endpoint(endpoint).name}'


def probability(left: int) -> str:
    """One in so many, as the kernel keeps it (in 31 bits) and iptables-save prints it."""
    unit = 1 << 31
    return f"{round(unit / left) / unit:.11f}"


def _endpoint(port: ServicePort, endpoint: Endpoint, names: _Names) -> Iterator[str]:
    protocol, chain = port.protocol, names.endpoint(endpoint).name
    # A pod that reaches itself through its Service must not see its own address as the sender's.
    yield f'-s {endpoint.ip}/32 -m comment --comment "{port}" -j {MARK_MASQ.name}'
    remember = f" -m recent --set --name {chain} --mask 255.255.255.255 --rsource" if port.affinity_seconds else ""
    yield (f'-p {protocol} -m comment --comment "{port}"{remember} -m {protocol} -j DNAT '
           f"--to-destination {endpoint}")
