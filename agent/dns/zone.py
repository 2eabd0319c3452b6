"""What the cluster's domain says, decided from the index; knows nothing of packets.

Source: Kubernetes DNS-Based Service Discovery, version 1.1.0 of the schema. Where that leaves things open, this does
as CoreDNS in upstream's clusters: an endpoint without a host name is called by its address with dashes, the own name
of a Service or an endpoint has SRV records of all its ports, pods' names are made from the question without looking
for the pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from agent.dns.index import DNS_SERVICE, Index, is_headless
from sampan.api.types.core_v1 import Service
from sampan.clusterdns import cluster_ips

SCHEMA_VERSION = "1.1.0"
TTL = 5
"""Seconds for which clients may keep an answer: short, since the next one is asked for on the same host."""
SRV_WEIGHTS = 100
"""Shared by a name's SRV records."""

LONGEST_LABEL = 63
"""Bytes of a part of a name; an ExternalName may have longer ones, which then lead nowhere."""
_REVERSE_V4 = ("in-addr", "arpa")
_REVERSE_V6 = ("ip6", "arpa")


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record. Names are absolute and without the dot at the end; `value` as in a zone file."""

    name: str
    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to say to a question.

    No records and `exists`: the name has none of that type. `alias` is what the name is another name for.
    """

    records: tuple[Record, ...] = ()
    extra: tuple[Record, ...] = ()
    exists: bool = True
    alias: str = ""


NOTHING = Found(exists=False)
EMPTY = Found()


@dataclass(frozen=True, slots=True)
class _Backend:
    """One address and port behind a headless Service, `port` None for endpoints without ports."""

    hostname: str
    address: str
    port_name: str = ""
    port: int | None = None
    protocol: str = "TCP"


class Zone:
    """Answers from the index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def domain(self) -> str:
        """The cluster's domain."""
        return self._index.domain

    def find(self, labels: Sequence[str], kind: str) -> Found | None:
        """What the cluster says to a name (its labels in lower case) and a record type; None: others may know."""
        domain = tuple(self.domain.split("."))
        if tuple(labels[-len(domain):]) == domain:
            return self._in_domain(tuple(labels[:-len(domain)]), kind)
        address = reverse_address(labels)
        if address:
            return self._reverse(".".join(labels), address, kind)
        return None

    def authority(self, serial: int) -> Record:
        """The domain's SOA record, which also says for how long a negative answer holds."""
        domain = self.domain
        return Record(domain, "SOA", f"ns.dns.{domain}. hostmaster.{domain}. {serial} 7200 1800 86400 {TTL}")

    def _in_domain(self, labels: tuple[str, ...], kind: str) -> Found:
        match labels:
            case ():
                name_server = f"ns.dns.{self.domain}"
                records = (Record(self.domain, "NS", f"{name_server}."),) if kind == "NS" else ()
                return Found(records, tuple(self._name_server()) if records else ())
            case ("dns-version",):
                return self._typed(labels, kind, "TXT", [f'"{SCHEMA_VERSION}"'])
            case ("ns", "dns"):
                return Found(tuple(record for record in self._name_server() if record.type == kind))
            case ("dns",) | ("svc",) | ("pod",) | (_, "pod"):
                return EMPTY  # there are names below it (RFC 8020)
            case (address, namespace, "pod"):
                return self._pod(labels, address, namespace, kind)
            case (*rest, namespace, "svc"):
                return self._in_namespace(tuple(rest), namespace, kind)
            case _:
                return NOTHING

    def _name_server(self) -> Iterator[Record]:
        service = self._index.service(*DNS_SERVICE)
        for address in cluster_ips(service) if service else ():
            yield Record(f"ns.dns.{self.domain}", family(address), address)

    def _typed(self, labels: Sequence[str], kind: str, only: str, values: Sequence[str]) -> Found:
        name = ".".join((*labels, self.domain))
        return Found(tuple(Record(name, only, value) for value in values)) if kind == only else EMPTY

    def _pod(self, labels: Sequence[str], text: str, namespace: str, kind: str) -> Found:
        if "." in text or ":" in text:
            return NOTHING  # within one label
        try:
            address = str(IPv4Address(text.replace("-", ".")))
        except AddressValueError:
            try:
                address = str(IPv6Address(text.replace("-", ":")))
            except AddressValueError:
                return NOTHING
        return self._typed(labels, kind, family(address), [address])

    def _in_namespace(self, labels: tuple[str, ...], namespace: str, kind: str) -> Found:
        if not labels:
            return EMPTY if self._index.has_namespace(namespace) else NOTHING
        service = self._index.service(namespace, labels[-1])
        if service is None:
            return NOTHING
        if service.spec.type == "ExternalName":
            return self._external(service) if len(labels) == 1 else NOTHING
        match labels[:-1]:
            case ():
                return self._service(service, kind)
            case (port, protocol) if port.startswith("_") and protocol.startswith("_"):
                return self._port(service, port[1:], protocol[1:], kind)
            case (protocol,) if protocol.startswith("_"):
                return EMPTY if protocol[1:] in {wire for name, wire in self._ports(service) if name} else NOTHING
            case (hostname,):
                name = f"{hostname}.{self._name(service)}"
                there = [entry for entry in self._backends(service) if entry.hostname == hostname]
                if kind == "SRV" and there:
                    return self._headless_srv(service, name, [entry for entry in there if entry.port is not None])
                return self._addresses(name, [entry.address for entry in there], kind)
            case _:
                return NOTHING

    def _external(self, service: Service) -> Found:
        target = (service.spec.external_name or "").strip(".").lower()
        if is_address(target) or not all(0 < len(label) <= LONGEST_LABEL for label in target.split(".")):
            return NOTHING
        return Found((Record(self._name(service), "CNAME", f"{target}."),), alias=target)

    def _service(self, service: Service, kind: str) -> Found:
        if is_headless(service):
            backends = list(self._backends(service))
            if kind == "SRV" and backends:
                return self._headless_srv(service, self._name(service),
                                          [entry for entry in backends if entry.port is not None])
            return self._addresses(self._name(service), [entry.address for entry in backends], kind)
        if kind == "SRV":
            return self._srv(service, self._name(service), [port.port for port in service.spec.ports])
        return self._addresses(self._name(service), cluster_ips(service), kind, exists=True)

    def _port(self, service: Service, port: str, protocol: str, kind: str) -> Found:
        if (port, protocol) not in self._ports(service):
            return NOTHING
        if kind != "SRV":
            return EMPTY
        name = f"_{port}._{protocol}.{self._name(service)}"
        if is_headless(service):
            return self._headless_srv(service, name, [
                entry for entry in self._backends(service)
                if (entry.port_name.lower(), entry.protocol.lower()) == (port, protocol)])
        return self._srv(service, name, [entry.port for entry in service.spec.ports if (
            (entry.name or "").lower(), (entry.protocol or "TCP").lower()) == (port, protocol)])

    def _ports(self, service: Service) -> set[tuple[str, str]]:
        """Names and protocols in lower case; those of its ready endpoints for a headless Service."""
        if is_headless(service):
            return {(entry.port_name.lower(), entry.protocol.lower()) for entry in self._backends(service)}
        return {((port.name or "").lower(), (port.protocol or "TCP").lower()) for port in service.spec.ports}

    def _srv(self, service: Service, name: str, ports: Sequence[int]) -> Found:
        target = self._name(service)
        weight = max(1, SRV_WEIGHTS // max(1, len(ports)))
        records = tuple(Record(name, "SRV", f"0 {weight} {port} {target}.") for port in ports)
        extra = tuple(Record(target, family(address), address) for address in cluster_ips(service))
        return Found(records, extra if records else ())

    def _headless_srv(self, service: Service, name: str, backends: Sequence[_Backend]) -> Found:
        weight = max(1, SRV_WEIGHTS // max(1, len(backends)))
        domain = self._name(service)
        records = dict.fromkeys(Record(name, "SRV", f"0 {weight} {entry.port} {entry.hostname}.{domain}.")
                                for entry in backends)
        extra = dict.fromkeys(Record(f"{entry.hostname}.{domain}", family(entry.address), entry.address)
                              for entry in backends)
        return Found(tuple(records), tuple(extra))

    def _addresses(self, name: str, addresses: Sequence[str], kind: str, *, exists: bool = False) -> Found:
        """Address records; a name that leads nowhere does not exist, unless it does without them."""
        if not addresses and not exists:
            return NOTHING
        found = dict.fromkeys(Record(name, kind, address) for address in addresses if family(address) == kind)
        return Found(tuple(found))

    def _backends(self, service: Service) -> Iterator[_Backend]:
        """The endpoints of a Service that are ready, or that it publishes all the same; one entry for each port."""
        every = bool(service.spec.publish_not_ready_addresses)
        for item in self._index.slices(service.metadata.namespace, service.metadata.name):
            for endpoint in item.endpoints if item.address_type != "FQDN" else ():
                ready = endpoint.conditions is None or endpoint.conditions.ready is not False
                if not (ready or every):
                    continue
                for address in endpoint.addresses:
                    hostname = (endpoint.hostname or dashed(address)).lower()
                    if not item.ports:
                        yield _Backend(hostname, address)
                    for port in item.ports:
                        yield _Backend(hostname, address, port.name or "", port.port, port.protocol or "TCP")

    def _reverse(self, name: str, address: str, kind: str) -> Found | None:
        targets: dict[str, None] = {}
        for service in self._index.holders(address):
            if address in cluster_ips(service):
                targets[self._name(service)] = None
                continue
            for entry in self._backends(service):
                if entry.address == address:
                    targets[f"{entry.hostname}.{self._name(service)}"] = None
        if targets:
            return Found(tuple(Record(name, "PTR", f"{target}.") for target in targets)) if kind == "PTR" else EMPTY
        return NOTHING if self._index.is_pod_address(address) else None

    def _name(self, service: Service) -> str:
        return f"{service.metadata.name}.{service.metadata.namespace}.svc.{self.domain}"


def family(address: str) -> str:
    """The record type of an address."""
    return "AAAA" if ":" in address else "A"


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def dashed(address: str) -> str:
    """An address as a label."""
    return address.replace(".", "-").replace(":", "-")


def reverse_address(labels: Sequence[str]) -> str:
    """The address that a name below in-addr.arpa or ip6.arpa stands for; "" for none or for part of one."""
    domain, parts = tuple(labels[-2:]), list(reversed(labels[:-2]))
    try:
        if domain == _REVERSE_V4 and len(parts) == 4:
            return str(IPv4Address(".".join(parts)))
        text = "".join(parts)
        if domain == _REVERSE_V6 and len(parts) == len(text) == 32:
            return str(IPv6Address(":".join(text[start:start + 4] for start in range(0, 32, 4))))
    except AddressValueError:
        return ""
    return ""
