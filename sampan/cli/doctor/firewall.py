"""Firewalls that are in the cluster's way: firewalld, ufw, the policy of FORWARD, iptables itself. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence

from sampan.cli.doctor.facts import Facts, Firewalld, Rules, Ufw
from sampan.cli.doctor.findings import Finding, fault, ok, warning
from sampan.cli.doctor.site import Port, Site

FORWARD_CHAIN = "SAMPAN-FORWARD"
"""Where netplugin accepts pods' packets (netplugin/rules.py)."""
BRIDGE, VXLAN = "sampan0", "sampan.1"
OLDEST_IPTABLES = (1, 8, 5)
"""Earlier ones of 1.8 may write a rule twice (k3s-io/k3s#3117)."""


def missing_ports(wanted: Iterable[Port], opened: Collection[Port]) -> list[Port]:
    """Those of the wanted that no opened range holds whole."""
    return [port for port in wanted if not any(
        port.protocol == other.protocol and other.first <= port.first and port.last <= other.last for other in opened)]


def _holds(network: str, address: str) -> bool:
    """Whether an address or network lies within a network; firewalls' other words (MACs, sets) hold nothing."""
    try:
        inner, outer = ipaddress.ip_network(address), ipaddress.ip_network(network, strict=False)
        return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version now
    except ValueError:
        return False


def _lacks(ports: Sequence[Port], pods: str) -> str:
    words = [*(["closed are " + ", ".join(map(str, ports))] if ports else ()), *([f"pods ({pods}) are not let in"]
                                                                               if pods else ())]
    return "; ".join(words)


# firewalld

def check_firewalld(facts: Facts) -> Iterator[Finding]:
    """It drops what no zone allows, whatever other rules say."""
    if (found := facts.firewalld) is None:
        return
    ports = firewalld_ports(found, facts.site)
    pods = "" if any(_holds(source, facts.site.pod_cidr) for source in found.trusted) else facts.site.pod_cidr
    if ports or pods:
        yield fault("firewalld", _lacks(ports, pods), *firewalld_commands(found.zone, ports, pods, facts.site))
    else:
        yield ok("firewalld", f"zone {found.zone} lets the cluster through, pods are trusted")


def firewalld_ports(found: Firewalld, site: Site) -> list[Port]:
    """The ports that are closed; none where all is accepted, or the nodes' own network is trusted."""
    if found.accepts_all or any(_holds(source, site.node_ip) for source in found.trusted):
        return []
    return missing_ports(site.ports, found.ports)


def firewalld_commands(zone: str, ports: Sequence[Port], pods: str, site: Site) -> list[str]:
    """What opens them, now and after a reboot; script/host.sh does the same when a host is set up."""
    commands = []
    if ports:
        commands.append(f"firewall-cmd --permanent --zone={zone} " + " ".join(f"--add-port={port}" for port in ports))
    if pods:
        commands.append(f"firewall-cmd --permanent --zone=trusted --add-source={pods}")
        if site.own_network:
            commands.append(f"firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE} --add-interface={VXLAN}")
    return [*commands, "firewall-cmd --reload"]


# ufw

def check_ufw(facts: Facts) -> Iterator[Finding]:
    """Its default is to let nothing in; what is forwarded to pods is the matter of `check_forward`."""
    if (found := facts.ufw) is None:
        return
    if found.incoming == "allow":
        yield ok("ufw", "lets everything in by default")
        return
    ports = missing_ports(facts.site.ports, ufw_ports(found, facts.site))
    pods = "" if any(let.port is None and _holds(let.source or "0.0.0.0/0", facts.site.pod_cidr)
                     for let in found.let) else facts.site.pod_cidr
    if ports or pods:
        yield fault("ufw", _lacks(ports, pods), *ufw_commands(ports, pods))
    else:
        yield ok("ufw", "lets the cluster through")


def ufw_ports(found: Ufw, site: Site) -> list[Port]:
    """What is open to the other nodes, which are where this one is."""
    everything = [Port(0, 65535, protocol) for protocol in ("tcp", "udp")]
    let = [item for item in found.let if not item.source or _holds(item.source, site.node_ip)]
    return [port for item in let for port in ([item.port] if item.port else everything)]


def ufw_commands(ports: Sequence[Port], pods: str) -> list[str]:
    """What opens them, now and after a reboot."""
    commands = []
    for protocol in ("tcp", "udp"):
        ours = [port for port in ports if port.protocol == protocol]
        if single := ",".join(str(port.first) for port in ours if port.first == port.last):
            commands.append(f"ufw allow {single}/{protocol}")
        commands += [f"ufw allow {port.first}:{port.last}/{protocol}" for port in ours if port.first != port.last]
    return [*commands, *([f"ufw allow from {pods}"] if pods else ())]


# FORWARD

def check_forward(facts: Facts) -> Iterator[Finding]:
    """Docker sets the policy to DROP; the agent's chain accepts pods' packets before it counts (moby#50566)."""
    found, site = facts.iptables, facts.site
    if found is None or not site.own_network:
        return
    if not drops(found.rules, site.pod_cidr):
        before = "" if found.rules.policy == "ACCEPT" else "; pods' packets are accepted before it counts"
        yield ok("FORWARD", f"its policy is {found.rules.policy}{before}")
    elif not site.agent:
        yield ok("FORWARD", "drops packets; the agent will have those of pods accepted")
    elif not facts.units.get("agent"):
        yield fault("FORWARD", "drops pods' packets; the agent, which has them accepted, does not run",
                    site.start("agent"))
    elif not site.accepts_forwarded:
        yield fault("FORWARD", "drops pods' packets, and the agent is told to leave that alone (accept-forwarded)",
                    *(f"iptables -I FORWARD {way} {site.pod_cidr} -j ACCEPT" for way in ("-s", "-d")))
    else:
        yield fault("FORWARD", f"drops pods' packets: {FORWARD_CHAIN}, which accepts them, is not asked. The agent "
                    "puts that right within 30 s; else:", site.log("agent"), site.restart("agent"))


def drops(rules: Rules, pods: str) -> bool:
    """Whether FORWARD drops pods' packets, to them or from them."""
    return not all(_accepted(rules, way, pods) for way in ("-s", "-d"))


def _accepted(rules: Rules, way: str, pods: str, chain: str = "FORWARD") -> bool:
    """Walk a chain as a packet does. Rules with conditions of their own are taken not to match."""
    verdict = _walk(rules, way, pods, chain, depth=0)
    return rules.policy == "ACCEPT" if verdict is None else verdict


def _walk(rules: Rules, way: str, pods: str, chain: str, depth: int) -> bool | None:
    for rule in rules.chains.get(chain, ()):
        match, _, target = rule.rpartition("-j ")
        words = match.replace("-m comment --comment sampan", "").split()
        target = target.split()[0] if target else ""
        if words and not (len(words) == 2 and words[0] == way and _holds(words[1], pods)):
            continue
        if target in ("ACCEPT", "DROP", "REJECT"):
            return target == "ACCEPT"
        if target == "RETURN":
            return None
        if target in rules.chains and depth < len(rules.chains):
            verdict = _walk(rules, way, pods, target, depth + 1)
            if verdict is not None:
                return verdict
    return None


# iptables itself

def check_iptables(facts: Facts) -> Iterator[Finding]:
    """Its version, and whether all who write rules use the same flavour of it."""
    if facts.missing_commands:
        yield fault("iptables", f"not on this host: {', '.join(facts.missing_commands)}",
                    "apt-get install iptables || dnf install iptables-nft")
    if (found := facts.iptables) is None:
        return
    version = ".".join(map(str, found.version))
    if found.version < OLDEST_IPTABLES:
        yield warning("iptables", f"{version} may write rules twice; 1.8.5 or newer is recommended",
                      "apt-get install iptables || dnf upgrade iptables-nft")
    elif found.other.used:
        yield from _two_flavours(facts, found.flavour)
    else:
        yield ok("iptables", f"{version} ({found.flavour})")


def _two_flavours(facts: Facts, ours: str) -> Iterator[Finding]:
    """A packet has to pass the rules of both; the agent's are in one only."""
    assert facts.iptables is not None
    theirs, command = ("legacy", "iptables-legacy") if ours == "nf_tables" else ("nf_tables", "iptables-nft")
    text = f"there are rules of two flavours: `iptables` is {ours}, but somebody wrote rules by {command}"
    if drops(facts.iptables.other, facts.site.pod_cidr):
        yield fault("iptables", f"{text}, and those drop pods' packets", f"{command} -P FORWARD ACCEPT",
                    f"{command} -S FORWARD   # what is left there that drops")
    else:
        yield warning("iptables", f"{text}: see that the {theirs} ones let pods through", f"{command}-save -t filter")
