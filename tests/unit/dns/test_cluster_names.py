"""What the cluster's own names lead to: the Kubernetes DNS specification 1.1.0, line by line."""

from __future__ import annotations

from collections import Counter

import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from sampan.api import resources
from tests.support.dns import Bench, endpoints, kube_dns, service, values

ZONE = "svc.cluster.local"
NOERROR, NXDOMAIN = dns.rcode.NOERROR, dns.rcode.NXDOMAIN

FOUND: list[tuple[str, str, list[str]]] = [
    ("dns-version.cluster.local", "TXT", ['"1.1.0"']),
    (f"web.default.{ZONE}", "A", ["10.96.7.7"]),
    (f"kubernetes.default.{ZONE}", "A", ["10.96.0.1"]),
    (f"dual.default.{ZONE}", "AAAA", ["fd00::9"]),
    (f"dual.default.{ZONE}", "A", ["10.96.9.9"]),
    (f"_http._tcp.web.default.{ZONE}", "SRV", [f"0 100 80 web.default.{ZONE}."]),
    (f"_dns._udp.web.default.{ZONE}", "SRV", [f"0 100 53 web.default.{ZONE}."]),
    (f"_https._tcp.kubernetes.default.{ZONE}", "SRV", [f"0 100 443 kubernetes.default.{ZONE}."]),
    (f"web.default.{ZONE}", "SRV", [f"0 50 53 web.default.{ZONE}.", f"0 50 80 web.default.{ZONE}."]),
    (f"plain.default.{ZONE}", "SRV", [f"0 100 8080 plain.default.{ZONE}."]),
    ("7.7.96.10.in-addr.arpa", "PTR", [f"web.default.{ZONE}."]),
    ("9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "PTR", [f"dual.default.{ZONE}."]),
    (f"db.default.{ZONE}", "A", ["10.244.1.5", "10.244.2.6", "10.244.2.7"]),
    (f"db-0.db.default.{ZONE}", "A", ["10.244.1.5"]),
    (f"10-244-2-7.db.default.{ZONE}", "A", ["10.244.2.7"]),
    (f"_sql._tcp.db.default.{ZONE}", "SRV",
     [f"0 33 15432 10-244-2-7.db.default.{ZONE}.", f"0 33 15432 db-0.db.default.{ZONE}.",
      f"0 33 15432 db-1.db.default.{ZONE}."]),
    (f"db-0.db.default.{ZONE}", "SRV", [f"0 100 15432 db-0.db.default.{ZONE}."]),
    ("5.1.244.10.in-addr.arpa", "PTR", [f"db-0.db.default.{ZONE}."]),
    ("7.2.244.10.in-addr.arpa", "PTR", [f"10-244-2-7.db.default.{ZONE}."]),
    ("9.1.244.10.in-addr.arpa", "PTR", [f"10-244-1-9.web.default.{ZONE}."]),
    (f"peers.default.{ZONE}", "A", ["10.244.1.8"]),
    (f"peer-0.peers.default.{ZONE}", "A", ["10.244.1.8"]),
    ("10-244-3-4.default.pod.cluster.local", "A", ["10.244.3.4"]),
    ("fd00--1-5.default.pod.cluster.local", "AAAA", ["fd00::1:5"]),
    (f"WeB.dEfAuLt.{ZONE.upper()}", "A", ["10.96.7.7"]),
    ("ns.dns.cluster.local", "A", ["10.96.0.10"]),
    ("cluster.local", "NS", ["ns.dns.cluster.local."]),
]


@pytest.mark.parametrize(("name", "kind", "wanted"), FOUND)
async def test_what_is_there(name: str, kind: str, wanted: list[str]) -> None:
    answer = await Bench().ask(name, kind)
    assert answer.rcode() == NOERROR
    assert values(answer) == [f"{name} {kind} {value}" for value in wanted]
    assert answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RA
    assert all(5 <= rrset.ttl <= 30 for rrset in answer.answer)


NOT_FOUND = [
    (f"missing.default.{ZONE}", NXDOMAIN), (f"web.missing.{ZONE}", NXDOMAIN), (f"missing.{ZONE}", NXDOMAIN),
    (f"none-ready.default.{ZONE}", NXDOMAIN), (f"db-9.db.default.{ZONE}", NXDOMAIN),
    (f"_nope._tcp.web.default.{ZONE}", NXDOMAIN), (f"_http._udp.web.default.{ZONE}", NXDOMAIN),
    (f"_udp.plain.default.{ZONE}", NXDOMAIN), (f"a.b.c.web.default.{ZONE}", NXDOMAIN),
    (f"number.default.{ZONE}", NXDOMAIN), (f"x.outside.default.{ZONE}", NXDOMAIN),
    ("1-2-3.default.pod.cluster.local", NXDOMAIN), ("nonsense.cluster.local", NXDOMAIN),
    ("google.com.default.svc.cluster.local", NXDOMAIN), ("google.com.cluster.local", NXDOMAIN),
    ("200.1.244.10.in-addr.arpa", NXDOMAIN),
    (f"default.{ZONE}", NOERROR), (ZONE, NOERROR), ("cluster.local", NOERROR), ("pod.cluster.local", NOERROR),
    ("default.pod.cluster.local", NOERROR), (f"outside-the-rules.default.{ZONE}", NXDOMAIN),
    (f"_tcp.web.default.{ZONE}", NOERROR), (f"_http._tcp.web.default.{ZONE}", NOERROR),
    ("dns-version.cluster.local", NOERROR),
]


@pytest.mark.parametrize(("name", "rcode"), NOT_FOUND)
async def test_what_is_not_there_is_told_apart_from_what_has_no_such_record(name: str, rcode: dns.rcode.Rcode) -> None:
    answer = await Bench().ask(name, "A")
    assert answer.rcode() == rcode
    assert not answer.answer
    (soa,) = answer.authority
    assert soa.rdtype.name == "SOA"
    assert soa.name.to_text() == "cluster.local."
    assert soa[0].minimum <= 30  # for so long is a negative answer believed (RFC 2308)


@pytest.mark.parametrize("kind", ["AAAA", "MX", "TXT", "CNAME", "ANY", "HTTPS"])
async def test_a_type_that_a_service_has_no_record_of_is_no_error(kind: str) -> None:
    answer = await Bench().ask(f"web.default.{ZONE}", kind)
    assert (answer.rcode(), answer.answer, len(answer.authority)) == (NOERROR, [], 1)


@pytest.mark.parametrize("label", [b"10.244.3.4", b"fd00::1"])
def test_an_address_within_one_label_is_no_pods_name(label: bytes) -> None:
    name = dns.name.Name([label, b"default", b"pod", b"cluster", b"local", b""])
    answer = Bench().resolver.quick(dns.message.make_query(name, "A").to_wire())
    assert isinstance(answer, bytes)
    assert dns.message.from_wire(answer).rcode() == NXDOMAIN


async def test_the_domain_has_an_soa_record_whose_serial_grows() -> None:
    bench = Bench()
    first = (await bench.ask("cluster.local", "SOA")).answer[0][0]
    bench.view.put(resources.SERVICES, service("new", "10.96.5.5"))
    second = (await bench.ask("cluster.local", "SOA")).answer[0][0]
    assert second.serial > first.serial


async def test_srv_answers_bring_the_addresses_along() -> None:
    answer = await Bench().ask(f"_sql._tcp.db.default.{ZONE}", "SRV")
    assert sorted((rrset.name.to_text(), rrset[0].to_text()) for rrset in answer.additional) == [
        (f"10-244-2-7.db.default.{ZONE}.", "10.244.2.7"), (f"db-0.db.default.{ZONE}.", "10.244.1.5"),
        (f"db-1.db.default.{ZONE}.", "10.244.2.6")]
    for name, kind, address in ((f"_http._tcp.web.default.{ZONE}", "SRV", "10.96.7.7"),
                                ("cluster.local", "NS", "10.96.0.10")):
        (rrset,) = (await Bench().ask(name, kind)).additional
        assert rrset[0].to_text() == address


async def test_of_a_headless_service_s_ports_each_has_its_own_srv_records() -> None:
    bench = Bench()
    bench.view.put(resources.SERVICES, service("two", "None"))
    bench.view.put(resources.ENDPOINTSLICES, endpoints(
        "two", {"ip": "10.244.1.5", "hostname": "a"}, ports=[{"name": "sql", "port": 1}, {"name": "http", "port": 2}]))
    name = f"_http._tcp.two.default.{ZONE}"
    assert values(await bench.ask(name, "SRV")) == [f"{name} SRV 0 100 2 a.two.default.{ZONE}."]
    whole = f"two.default.{ZONE}"
    assert values(await bench.ask(whole, "SRV")) == [f"{whole} SRV 0 50 1 a.{whole}.", f"{whole} SRV 0 50 2 a.{whole}."]


@pytest.mark.parametrize("name", ["7.7.96.10.example.com", "7.7.96.10.ip6.arpa", "7.96.10.in-addr.arpa",
                                  ".".join([*"9" + "0" * 29 + "df", "example.com"])])
async def test_what_only_looks_like_an_address_is_asked_of_others(name: str) -> None:
    bench = Bench()
    await bench.ask(name, "PTR")
    assert bench.exchange.asked


async def test_an_address_is_the_service_s_own_before_it_is_an_endpoint() -> None:
    bench = Bench()
    bench.view.put(resources.ENDPOINTSLICES, endpoints("web", {"ip": "10.96.8.8"}, name="by-hand"))
    answer = await bench.ask("8.8.96.10.in-addr.arpa", "PTR")
    assert values(answer) == [f"8.8.96.10.in-addr.arpa PTR plain.default.{ZONE}."]


async def test_the_question_comes_back_in_its_own_letters() -> None:
    answer = await Bench().ask(f"wEb.DEFAULT.{ZONE}", "A")
    assert answer.question[0].name.to_text() == f"wEb.DEFAULT.{ZONE}."
    assert answer.answer[0].name.to_text() == f"wEb.DEFAULT.{ZONE}."


async def test_a_service_that_is_another_name_is_followed_in_the_cluster() -> None:
    answer = await Bench().ask(f"inside.default.{ZONE}", "A")
    assert values(answer) == [f"inside.default.{ZONE} CNAME web.default.{ZONE}.", f"web.default.{ZONE} A 10.96.7.7"]
    only = await Bench().ask(f"inside.default.{ZONE}", "CNAME")
    assert values(only) == [f"inside.default.{ZONE} CNAME web.default.{ZONE}."]


async def test_a_circle_of_names_ends() -> None:
    answer = await Bench().ask(f"circle.default.{ZONE}", "A")
    assert answer.rcode() == NOERROR
    assert values(answer) == [f"circle.default.{ZONE} CNAME circle.default.{ZONE}."]


async def test_changes_are_seen_at_once() -> None:
    bench = Bench()
    name = f"later.default.{ZONE}"
    assert (await bench.ask(name)).rcode() == NXDOMAIN
    bench.view.put(resources.SERVICES, service("later", "None"))
    assert (await bench.ask(name)).rcode() == NXDOMAIN
    slice_ = endpoints("later", {"ip": "10.244.1.77"})
    bench.view.put(resources.ENDPOINTSLICES, slice_)
    assert values(await bench.ask(name)) == [f"{name} A 10.244.1.77"]
    assert values(await bench.ask("77.1.244.10.in-addr.arpa", "PTR"))
    bench.view.delete(resources.ENDPOINTSLICES, slice_)
    assert (await bench.ask(name)).rcode() == NXDOMAIN
    assert (await bench.ask("77.1.244.10.in-addr.arpa", "PTR")).rcode() == NXDOMAIN
    bench.view.put(resources.SERVICES, service("later", "10.96.1.1"))
    assert values(await bench.ask(name)) == [f"{name} A 10.96.1.1"]


async def test_an_address_in_two_slices_stays_as_long_as_one_has_it() -> None:
    bench = Bench()
    one, two = (endpoints("db", {"ip": "10.244.1.50"}, name=name) for name in ("db-a", "db-b"))
    for item in (one, two):
        bench.view.put(resources.ENDPOINTSLICES, item)
    bench.view.delete(resources.ENDPOINTSLICES, one)
    assert values(await bench.ask("50.1.244.10.in-addr.arpa", "PTR"))


async def test_the_domain_may_be_another_one() -> None:
    bench = Bench()
    bench.view.put(resources.SERVICES, kube_dns("k8s.example.org"))
    answer = await bench.ask("web.default.svc.k8s.example.org")
    assert values(answer) == ["web.default.svc.k8s.example.org A 10.96.7.7"]
    assert (await bench.ask(f"web.default.{ZONE}")).rcode() == dns.rcode.SERVFAIL  # nobody upstream knows it


@pytest.mark.parametrize("stream", [False, True])
async def test_each_of_many_addresses_comes_first_as_often_as_the_others(stream: bool) -> None:
    bench = Bench()
    firsts = Counter([(await bench.ask(f"db.default.{ZONE}", stream=stream)).answer[0][0].to_text()
                      for _ in range(300)])
    assert len(firsts) == 3
    assert max(firsts.values()) - min(firsts.values()) <= 8
