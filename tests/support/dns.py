"""A cluster's Services in a view, questions to the resolver, and upstream servers that answer as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import msgspec

from agent.dns.forward import Forwarder
from agent.dns.index import Index
from agent.dns.messages import Question
from agent.dns.resolver import Resolver
from agent.dns.upstream import Server
from sampan.api import resources
from sampan.api.types import core_v1, discovery_v1
from sampan.clusterdns import NAME, NAMESPACE
from sampan.loop.clock import FakeClock
from tests.support.pods import FakeView

DNS_IP = "10.96.0.10"
Handler = Callable[[Question, bool], "dns.message.Message | Exception | None"]


def service(name: str, ip: str = "", namespace: str = "default", ports: Sequence[Mapping[str, Any]] = (),
            **spec: Any) -> core_v1.Service:
    """A Service; `ip` "None" for a headless one."""
    tree = {"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"protocol": "TCP", **port} for port in ports], **spec}}
    return msgspec.convert(tree, core_v1.Service)


def endpoints(service_name: str, *entries: Mapping[str, Any], namespace: str = "default", name: str = "",
              ports: Sequence[Mapping[str, Any]] = (), family: str = "IPv4") -> discovery_v1.EndpointSlice:
    """An EndpointSlice of a Service; an entry is an endpoint's `ip`, `hostname`, `ready`."""
    found = []
    for entry in entries:
        endpoint: dict[str, Any] = {"addresses": [entry["ip"]], "conditions": {"ready": entry.get("ready", True)}}
        if entry.get("hostname"):
            endpoint["hostname"] = entry["hostname"]
        found.append(endpoint)
    tree = {"metadata": {"name": name or f"{service_name}-1", "namespace": namespace,
                         "labels": {"kubernetes.io/service-name": service_name}},
            "addressType": family, "endpoints": found,
            "ports": [{"protocol": "TCP", **port} for port in ports]}
    return msgspec.convert(tree, discovery_v1.EndpointSlice)


def node(name: str, cidr: str) -> core_v1.Node:
    """A Node with its pod network."""
    return msgspec.convert({"metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}, core_v1.Node)


def kube_dns(domain: str = "") -> core_v1.Service:
    """The Service that leads to the cluster's DNS."""
    made = service(NAME, DNS_IP, NAMESPACE, [{"name": "dns", "port": 53, "protocol": "UDP"},
                                             {"name": "dns-tcp", "port": 53}])
    annotations = {"sampan.cluster-domain": domain} if domain else {}
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, annotations=annotations))


def cluster() -> FakeView:
    """A view with one of everything that has names."""
    view = FakeView()
    http = {"name": "http", "port": 80}
    for obj in (kube_dns(), service("kubernetes", "10.96.0.1", ports=[{"name": "https", "port": 443}]),
                service("web", "10.96.7.7", ports=[http, {"name": "dns", "port": 53, "protocol": "UDP"}]),
                service("plain", "10.96.8.8", ports=[{"port": 8080}]),
                service("dual", "10.96.9.9", clusterIPs=["10.96.9.9", "fd00::9"], ports=[http]),
                service("db", "None", ports=[{"name": "sql", "port": 5432}]),
                service("none-ready", "None", ports=[http]),
                service("peers", "None", ports=[http], publishNotReadyAddresses=True),
                service("outside", type="ExternalName", externalName="www.example.com"),
                service("inside", type="ExternalName", externalName="web.default.svc.cluster.local"),
                service("circle", type="ExternalName", externalName="circle.default.svc.cluster.local"),
                service("outside-the-rules", type="ExternalName", externalName=f"{'x' * 64}.example.com"),
                service("number", type="ExternalName", externalName="192.0.2.1")):
        view.put(resources.SERVICES, obj)
    sql = [{"name": "sql", "port": 15432}]
    for item in (endpoints("web", {"ip": "10.244.1.9"}, ports=[{"name": "http", "port": 8080}]),
                 endpoints("db", {"ip": "10.244.1.5", "hostname": "db-0"}, {"ip": "10.244.2.6", "hostname": "db-1"},
                           {"ip": "10.244.2.7"}, {"ip": "10.244.2.8", "hostname": "db-9", "ready": False}, ports=sql),
                 endpoints("none-ready", {"ip": "10.244.1.7", "ready": False}, ports=[{"name": "http", "port": 80}]),
                 endpoints("peers", {"ip": "10.244.1.8", "hostname": "peer-0", "ready": False},
                           ports=[{"name": "http", "port": 80}])):
        view.put(resources.ENDPOINTSLICES, item)
    view.put(resources.NODES, node("node-1", "10.244.1.0/24"))
    return view


class FakeExchange:
    """Upstream servers: `handler(question, stream)` makes the answer, an error to raise, or None for silence."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.asked: list[tuple[str, Question, bool]] = []
        self.handlers: dict[str, Handler] = {}
        self.default = handler or (lambda _question, _stream: OSError("nobody is there"))

    async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                  stream: bool) -> dns.message.Message:
        """See agent.dns.upstream.Exchange."""
        self.asked.append((server.address, question, stream))
        result = self.handlers.get(server.address, self.default)(question, stream)
        if result is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(result, Exception):
            raise result
        assert result is not None
        await asyncio.sleep(0)
        return result


def upstream_answer(question: Question, *records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, ttl: int = 60,
                    soa: str = "", truncated: bool = False) -> dns.message.Message:
    """What an upstream server says: records as ``TYPE value`` of the question's name."""
    name = dns.name.from_wire(question.name, 0)[0]
    query = dns.message.make_query(name, question.kind, use_edns=True)
    answer = dns.message.make_response(query, recursion_available=True)
    answer.set_rcode(rcode)
    answer.flags |= dns.flags.TC if truncated else 0
    for record in records:
        kind, value = record.split(" ", 1)
        answer.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, value))
    if soa:
        answer.authority.append(dns.rrset.from_text(soa, ttl, "IN", "SOA", f"ns.{soa} root.{soa} 1 2 3 4 20"))
    return dns.message.from_wire(answer.to_wire())


class Bench:
    """A resolver over a view, an exchange that a test fills, and a clock that it moves."""

    def __init__(self, view: FakeView | None = None, servers: Collection[str] = ("192.0.2.1", "192.0.2.2")) -> None:
        self.view = view or cluster()
        self.clock = FakeClock()
        self.exchange = FakeExchange()
        self.servers = [Server(address) for address in servers]
        self.forwarder = Forwarder(lambda: self.servers, self.exchange, self.clock)
        self.resolver = Resolver(Index(self.view), self.forwarder, self.clock)

    async def ask(self, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
        """One question as a client asks it, and the answer read back."""
        stream = options.pop("stream", False)
        wire = dns.message.make_query(name, kind, **options).to_wire()
        answer = self.resolver.quick(wire, stream=stream)
        if not isinstance(answer, bytes):
            answer = await self.resolver.resolve(answer)
        assert answer[:2] == wire[:2]
        return dns.message.from_wire(answer)


def values(answer: dns.message.Message) -> list[str]:
    """The answer section as ``name TYPE value``, sorted."""
    return sorted(f"{rrset.name.to_text(omit_final_dot=True)} {rrset.rdtype.name} {rdata.to_text()}"
                  for rrset in answer.answer for rdata in rrset)
