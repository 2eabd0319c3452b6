"""Names that are not the cluster's: upstream servers, their failures, the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from agent.dns import forward
from agent.dns.cache import Cache
from agent.dns.forward import lifetime_of
from agent.dns.hosts import HostServers, own_addresses
from agent.dns.index import Index
from agent.dns.messages import Question
from agent.dns.upstream import Server
from agent.dns.wire import to_wire
from agent.pods.dns import Resolver
from sampan.api import resources
from sampan.loop.clock import FakeClock
from tests.support.dns import DNS_IP, Bench, Handler, cluster, endpoints, upstream_answer, values

FIRST, SECOND = "192.0.2.1", "192.0.2.2"


def says(*records: str, **options: Any) -> Handler:
    return lambda question, _stream: upstream_answer(question, *records, **options)


async def test_what_is_not_the_clusters_is_asked_of_the_first_server() -> None:
    bench = Bench()
    bench.exchange.default = says("A 198.51.100.7")
    answer = await bench.ask("www.example.com")
    assert values(answer) == ["www.example.com A 198.51.100.7"]
    assert not answer.flags & dns.flags.AA
    assert [(address, stream) for address, _, stream in bench.exchange.asked] == [(FIRST, False)]


async def test_an_answer_is_kept_for_its_time_to_live_which_runs_down() -> None:
    bench = Bench()
    bench.exchange.default = says("A 198.51.100.7", ttl=60)
    for seconds, ttl in ((0, 60), (0, 60), (0.5, 60), (20, 40), (0.7, 40), (0.5, 39)):
        await bench.clock.advance(seconds)
        assert (await bench.ask("www.example.com")).answer[0].ttl == ttl
    assert (await bench.ask("WWW.Example.com")).answer[0].name.to_text() == "WWW.Example.com."
    assert len(bench.exchange.asked) == 1
    await bench.clock.advance(40)
    await bench.ask("www.example.com")
    assert len(bench.exchange.asked) == 2


async def test_a_negative_answer_is_kept_as_long_as_its_soa_says() -> None:
    bench = Bench()
    bench.exchange.default = says(rcode=dns.rcode.NXDOMAIN, soa="example.com.")
    for seconds, asked in ((0, 1), (19, 1), (2, 2)):
        await bench.clock.advance(seconds)
        answer = await bench.ask("nope.example.com")
        assert answer.rcode() == dns.rcode.NXDOMAIN
        assert answer.authority[0].name.to_text() == "example.com."
        assert len(bench.exchange.asked) == asked


async def test_a_negative_answer_without_soa_is_not_kept() -> None:
    bench = Bench(servers=[FIRST])
    bench.exchange.default = says(rcode=dns.rcode.NXDOMAIN)
    for asked in (1, 2):
        assert (await bench.ask("nope.example.com")).rcode() == dns.rcode.NXDOMAIN
        assert len(bench.exchange.asked) == asked


@pytest.mark.parametrize("handler", [says(rcode=dns.rcode.SERVFAIL), says(rcode=dns.rcode.REFUSED),
                                     lambda _question, _stream: OSError("unreachable")])
async def test_a_failure_is_kept_for_a_second(handler: Handler) -> None:
    bench = Bench(servers=[FIRST])
    bench.exchange.default = handler
    rcode = (await bench.ask("a.example.com")).rcode()
    assert rcode != dns.rcode.NOERROR
    bench.exchange.default = says("A 198.51.100.7")
    await bench.clock.advance(0.9)
    assert (await bench.ask("a.example.com")).rcode() == rcode
    assert values(await bench.ask("b.example.com"))
    await bench.clock.advance(0.2)
    assert values(await bench.ask("a.example.com"))


async def test_the_next_server_is_asked_where_one_refuses_and_the_silent_one_last_from_then_on() -> None:
    bench = Bench()
    bench.exchange.handlers = {FIRST: lambda _question, _stream: OSError("unreachable"),
                               SECOND: says("A 198.51.100.7")}
    assert values(await bench.ask("a.example.com"))
    assert values(await bench.ask("b.example.com"))
    assert [address for address, _, _ in bench.exchange.asked] == [FIRST, SECOND, SECOND]
    await bench.clock.advance(11)
    await bench.ask("c.example.com")
    assert bench.exchange.asked[3][0] == FIRST  # it is given another chance


async def test_a_servers_failure_is_passed_on_if_all_fail() -> None:
    bench = Bench()
    bench.exchange.handlers = {FIRST: says(rcode=dns.rcode.SERVFAIL), SECOND: says(rcode=dns.rcode.REFUSED)}
    assert (await bench.ask("a.example.com")).rcode() == dns.rcode.REFUSED
    bench.exchange.handlers[SECOND] = says("A 198.51.100.7")
    assert values(await bench.ask("b.example.com"))


async def test_without_a_server_there_is_a_failure_at_once() -> None:
    assert (await Bench(servers=[]).ask("a.example.com")).rcode() == dns.rcode.SERVFAIL


async def test_servers_that_nobody_answers_at_make_a_failure() -> None:
    bench = Bench()
    assert (await bench.ask("a.example.com")).rcode() == dns.rcode.SERVFAIL
    assert len(bench.exchange.asked) == 6


async def test_a_truncated_answer_is_fetched_over_tcp() -> None:
    bench = Bench()
    bench.exchange.default = lambda question, stream: upstream_answer(
        question, *[f"A 198.51.100.{number}" for number in range(1, 40 if stream else 2)], truncated=not stream)
    answer = await bench.ask("many.example.com", stream=True)
    assert len(values(answer)) == 39
    assert [stream for _, _, stream in bench.exchange.asked] == [False, True]


@pytest.mark.parametrize("over_tcp", [OSError("refused"), None], ids=["refused", "silent"])
async def test_where_tcp_fails_the_client_is_told_that_it_is_truncated(monkeypatch: pytest.MonkeyPatch,
                                                                       over_tcp: OSError | None) -> None:
    monkeypatch.setattr(forward, "PATIENCE", 0.1)
    bench = Bench()
    bench.exchange.default = lambda question, stream: (
        over_tcp if stream else upstream_answer(question, "A 198.51.100.1", truncated=True))
    for _ in range(2):  # and nothing of it is kept
        assert (await bench.ask("many.example.com")).flags & dns.flags.TC
    assert len(bench.exchange.asked) == 4


async def test_a_server_from_before_edns_is_asked_without() -> None:
    bench = Bench(servers=[FIRST])
    asked: list[int] = []

    class Old:
        async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                      stream: bool) -> dns.message.Message:
            query = dns.message.from_wire(wire)
            asked.append(query.edns)
            if query.edns >= 0:
                complaint = dns.message.Message(id=number)
                complaint.flags |= dns.flags.QR
                complaint.set_rcode(dns.rcode.FORMERR)
                return complaint
            return upstream_answer(question, "A 198.51.100.7")

    bench.forwarder._exchange = Old()
    assert values(await bench.ask("a.example.com"))
    assert asked == [0, -1]


async def test_the_same_question_of_many_is_asked_once() -> None:
    bench = Bench()
    bench.exchange.default = says("A 198.51.100.7")
    answers = await asyncio.gather(*(bench.ask("www.example.com") for _ in range(20)))
    assert all(values(answer) for answer in answers)
    assert len(bench.exchange.asked) == 1


async def test_a_question_that_comes_back_to_us_ends() -> None:
    """An upstream server that asks us again gets no second question from us, and so the loop is none."""
    bench = Bench(servers=[FIRST])
    asked: list[Question] = []

    class Loop:
        async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                      stream: bool) -> dns.message.Message:
            asked.append(question)
            async with asyncio.timeout(0.05):
                return await bench.ask("loop.example.com")

    bench.forwarder._exchange = Loop()
    assert (await bench.ask("loop.example.com")).rcode() == dns.rcode.SERVFAIL
    assert len(asked) == 3  # one a round; each would bring more otherwise, without end


async def test_a_service_outside_is_followed_upstream() -> None:
    bench = Bench()
    bench.exchange.default = says("A 198.51.100.7", ttl=60)
    name = "outside.default.svc.cluster.local"
    for _ in range(2):
        assert values(await bench.ask(name)) == [f"{name} CNAME www.example.com.", "www.example.com A 198.51.100.7"]
    assert len(bench.exchange.asked) == 1
    assert values(await bench.ask(name, "CNAME")) == [f"{name} CNAME www.example.com."]


async def test_where_its_answer_is_truncated_the_client_is_told() -> None:
    bench = Bench()
    bench.exchange.default = lambda question, stream: (
        OSError("refused") if stream else upstream_answer(question, "A 198.51.100.1", truncated=True))
    answer = await bench.ask("outside.default.svc.cluster.local")
    assert len(answer.answer) == 2
    assert answer.flags & dns.flags.TC


async def test_where_its_name_is_not_there_the_answer_says_so() -> None:
    bench = Bench()
    bench.exchange.default = says(rcode=dns.rcode.NXDOMAIN, soa="example.com.")
    answer = await bench.ask("outside.default.svc.cluster.local")
    assert answer.rcode() == dns.rcode.NXDOMAIN  # RFC 6604: of the last name
    assert len(answer.answer) == 1


async def test_a_services_answer_is_forgotten_when_the_service_changes() -> None:
    bench = Bench()
    bench.exchange.default = says("A 198.51.100.7")
    name = "outside.default.svc.cluster.local"
    await bench.ask(name)
    service = bench.view.get(resources.SERVICES, "outside", "default")
    assert service is not None
    bench.view.delete(resources.SERVICES, service)
    assert (await bench.ask(name)).rcode() == dns.rcode.NXDOMAIN


async def test_signatures_are_for_those_who_ask_for_them() -> None:
    bench = Bench()
    bench.exchange.default = says("A 198.51.100.7")
    await bench.ask("www.example.com")
    await bench.ask("www.example.com", want_dnssec=True)
    assert [question.dnssec for _, question, _ in bench.exchange.asked] == [False, True]


@pytest.mark.parametrize("checked", [True, False])
async def test_only_what_a_server_has_checked_is_said_to_be_authentic(checked: bool) -> None:
    """And only to those who asked: by AD, or for the signatures themselves."""
    bench = Bench()

    def answer(question: Question, _stream: bool) -> dns.message.Message:
        made = upstream_answer(question, "A 198.51.100.7")
        made.flags |= dns.flags.AD if checked else 0
        return made

    bench.exchange.default = answer
    asked = [await bench.ask("www.example.com", **options) for options in (
        {"flags": dns.flags.RD}, {"flags": dns.flags.RD | dns.flags.AD}, {"want_dnssec": True})]
    assert [bool(made.flags & dns.flags.AD) for made in asked] == [False, checked, checked]


@pytest.mark.parametrize(("records", "options", "lifetime"), [
    (["A 198.51.100.1"], {"ttl": 60}, 60), (["A 198.51.100.1"], {"ttl": 86400}, 300),
    (["A 198.51.100.1"], {"ttl": 0}, 0),
    ([], {"soa": "example.com.", "ttl": 7}, 7), ([], {"soa": "example.com.", "ttl": 900}, 20), ([], {}, 0),
    (["A 198.51.100.1"], {"truncated": True}, 0), ([], {"rcode": dns.rcode.REFUSED}, 0),
    ([], {"rcode": dns.rcode.SERVFAIL, "soa": "example.com."}, 0),
    (["A 198.51.100.1"], {"rcode": dns.rcode.SERVFAIL}, 0)])
def test_how_long_an_answer_holds(records: list[str], options: dict[str, Any], lifetime: float) -> None:
    question = Question(to_wire("a.example.com"), 1)
    assert lifetime_of(upstream_answer(question, *records, **options)) == lifetime


def test_the_cache_keeps_within_its_bytes_and_drops_what_was_not_asked_for() -> None:
    cache: Cache[int, bytes] = Cache(10_000)
    for number in range(100):
        cache.put(number, b"x" * 600, 600, 0.0, 60.0)
        assert cache.get(0, 0.0) is not None
    assert len(cache) == 10
    assert cache.get(1, 0.0) is None
    cache.put(500, b"x" * 20_000, 20_000, 0.0, 60.0)
    assert cache.get(500, 0.0) is None
    assert cache.get(0, 61.0) is None


async def test_the_hosts_servers_are_followed_and_never_our_own() -> None:
    clock, view = FakeClock(), cluster()
    view.put(resources.ENDPOINTSLICES, endpoints("kube-dns", {"ip": "10.244.9.1"}, namespace="kube-system"))
    index = Index(view)
    file = [Resolver(["10.244.1.1", DNS_IP, FIRST, FIRST, "10.244.9.1"])]
    servers = HostServers(lambda: file[0], lambda: {"10.244.1.1", *own_addresses(index)}, clock)
    assert servers() == [Server(FIRST)]
    file[0] = Resolver([SECOND])
    assert servers() == [Server(FIRST)]
    await clock.advance(2)
    assert servers() == [Server(SECOND)]
