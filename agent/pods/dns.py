"""A pod's resolv.conf (dnsPolicy, dnsConfig), and the node's own where systemd-resolved hides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.link.protocol import ClusterView
from agent.pods.events import PodEvents
from sampan.api import resources
from sampan.api.types import core_v1
from sampan.clusterdns import NAME, NAMESPACE, cluster_domain, cluster_ips

RESOLVED_STUB = "127.0.0.53"
RESOLVED_FILE = "/run/systemd/resolve/resolv.conf"
MAX_NAMESERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH = 253
"""Characters of one search path: some resolvers abort on longer ones."""
MAX_SEARCH_LINE = 2048
FORMING = "DNSConfigForming"


Problem = tuple[str, str]
"""The reason and message of an event."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """The content of a resolv.conf."""

    nameservers: Sequence[str] = ()
    searches: Sequence[str] = ()
    options: Sequence[str] = ()

    def __str__(self) -> str:
        lines = []
        if self.searches:
            lines.append("search " + " ".join(self.searches))
        lines += [f"nameserver {server}" for server in self.nameservers]
        if self.options:
            lines.append("options " + " ".join(self.options))
        return "".join(f"{line}\n" for line in lines)


class DnsSettings(Protocol):
    """How pods resolve names."""

    @property
    def cluster_servers(self) -> Sequence[str]:
        """The addresses of the cluster's DNS; empty for none."""

    @property
    def cluster_domain(self) -> str:
        """The cluster's domain."""

    def node(self) -> Resolver:
        """The node's own resolver."""

    def resolver(self, pod: core_v1.Pod) -> Resolver:
        """What a pod gets."""


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """DnsSettings that never change."""

    cluster_servers: Sequence[str] = ()
    cluster_domain: str = "cluster.local"
    node: Callable[[], Resolver] = Resolver

    def resolver(self, pod: core_v1.Pod) -> Resolver:
        """What a pod gets."""
        return pod_resolver(pod, self)[0]


@dataclass(frozen=True, slots=True)
class ClusterDns:
    """DnsSettings as the Service kube-dns has them, which the master makes: one setting for all nodes."""

    view: ClusterView
    resolv_conf: str
    events: PodEvents

    @property
    def cluster_servers(self) -> Sequence[str]:
        """The Service's addresses."""
        service = self.view.get(resources.SERVICES, NAME, NAMESPACE)
        return cluster_ips(service) if service else ()

    @property
    def cluster_domain(self) -> str:
        """What the Service's annotation says."""
        return cluster_domain(self.view.get(resources.SERVICES, NAME, NAMESPACE))

    def node(self) -> Resolver:
        """From the node's file."""
        return node_resolver(self.resolv_conf)

    def resolver(self, pod: core_v1.Pod) -> Resolver:
        """What a pod gets; what it cannot have is told by events."""
        found, problems = pod_resolver(pod, self)
        for reason, message in problems:
            self.events.emit(pod, "Warning", reason, message)
        return found


def parse(text: str) -> Resolver:
    """Read a resolv.conf; unknown lines are left out."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search" | "domain", *names]:
                searches = [name if name == "." else name.removesuffix(".") for name in names]
            case ["options", *values]:
                named = {value.partition(":")[0] for value in values}
                options = [option for option in options if option.partition(":")[0] not in named] + values
            case _:
                continue
    return Resolver(servers, searches, options)


def node_resolver(path: str = "/etc/resolv.conf", behind: str = RESOLVED_FILE) -> Resolver:
    """The node's resolver. Where it is systemd-resolved's stub, which a pod cannot reach, the file behind it."""
    resolver = _read(path)
    if RESOLVED_STUB in resolver.nameservers:
        real = _read(behind)
        return real if real.nameservers else resolver
    return resolver


def pod_resolver(pod: core_v1.Pod, dns: DnsSettings) -> tuple[Resolver, list[Problem]]:
    """What a pod gets, and what is wrong with it. Without a cluster DNS, ClusterFirst is as Default."""
    policy = pod.spec.dns_policy or "ClusterFirst"
    cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network)
    problems: list[Problem] = []
    if policy == "None":
        base = Resolver()
    elif cluster and dns.cluster_servers:
        domain = dns.cluster_domain
        own = [f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain]
        base = Resolver(list(dns.cluster_servers), list(dict.fromkeys([*own, *dns.node().searches])), ["ndots:5"])
    else:
        base = dns.node()
        if cluster:
            problems.append(("MissingClusterDNS", (
                f'pod: "{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})". kubelet does not have '
                'ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" '
                "policy.")))
    wanted = _with_config(base, pod.spec.dns_config)
    fitting = _fitting(wanted)
    if len(fitting.nameservers) < len(wanted.nameservers):
        problems.append((FORMING, (
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(fitting.nameservers))))
    if len(fitting.searches) < len(wanted.searches):
        problems.append((FORMING, (
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(fitting.searches))))
    return fitting, problems


def _with_config(base: Resolver, config: core_v1.PodDNSConfig | None) -> Resolver:
    """The pod's dnsConfig adds servers and searches, and its options replace those of the same name."""
    if config is None:
        return base
    added = {option.name or "": f"{option.name}:{option.value}" if option.value else option.name or ""
             for option in config.options}
    kept = [option for option in base.options if option.partition(":")[0] not in added]
    servers = list(dict.fromkeys([*base.nameservers, *config.nameservers]))
    searches = list(dict.fromkeys([*base.searches, *config.searches]))
    return Resolver(servers, searches, [*kept, *added.values()])


def _fitting(wanted: Resolver) -> Resolver:
    """As much of it as resolvers take; what is left out goes from the end."""
    searches = [name for name in wanted.searches[:MAX_SEARCHES] if len(name) <= MAX_SEARCH]
    while len(" ".join(searches)) > MAX_SEARCH_LINE:
        searches.pop()
    return Resolver(list(wanted.nameservers[:MAX_NAMESERVERS]), searches, wanted.options)


def _read(path: str) -> Resolver:
    try:
        return parse(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Resolver()
