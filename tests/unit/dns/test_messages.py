"""What is on the wire: sizes, EDNS, truncation, and what no client should send."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.messages import Question
from agent.dns.resolver import OVERHEAD
from agent.dns.upstream import NotAnAnswer, read_answer
from agent.dns.wire import to_wire
from sampan.api import resources
from tests.support.dns import Bench, endpoints, service, values

NAME = "web.default.svc.cluster.local"
MANY = "many.default.svc.cluster.local"


def bench_with_many(count: int = 90) -> Bench:
    bench = Bench()
    bench.view.put(resources.SERVICES, service("many", "None"))
    bench.view.put(resources.ENDPOINTSLICES, endpoints("many", *({"ip": f"10.244.5.{n}"} for n in range(1, count + 1))))
    return bench


@pytest.mark.parametrize(("payload", "least", "most"), [(-1, 25, 512), (512, 25, 512), (100, 25, 512),
                                                        (1232, 70, 1232), (65535, 70, 1232)])
async def test_an_answer_fits_what_the_client_takes(payload: int, least: int, most: int) -> None:
    bench = bench_with_many()
    query = dns.message.make_query(MANY, "A", use_edns=payload >= 0, payload=payload if payload >= 0 else None)
    wire = bench.resolver.quick(query.to_wire())
    assert isinstance(wire, bytes)
    answer = dns.message.from_wire(wire)
    assert len(wire) <= most
    assert answer.flags & dns.flags.TC
    assert least <= len(values(answer)) < 90  # what fits is there, for clients that know no TCP


async def test_over_tcp_it_is_complete() -> None:
    answer = await bench_with_many().ask(MANY, stream=True)
    assert len(values(answer)) == 90
    assert not answer.flags & dns.flags.TC


async def test_what_is_left_out_of_the_additional_section_is_no_truncation() -> None:
    bench = Bench()
    bench.view.put(resources.SERVICES, service("s", "None", ports=[{"name": "p", "port": 1}]))
    bench.view.put(resources.ENDPOINTSLICES, endpoints("s", *({"ip": f"10.244.5.{n}"} for n in range(1, 8)),
                                                       ports=[{"name": "p", "port": 1}]))
    answer = await bench.ask("_p._tcp.s.default.svc.cluster.local", "SRV")
    assert len(values(answer)) == 7
    assert len(answer.additional) < 7
    assert not answer.flags & dns.flags.TC


async def test_edns_is_answered_with_edns_and_only_then() -> None:
    bench = Bench()
    assert (await bench.ask(NAME)).edns == -1
    answer = await bench.ask(NAME, use_edns=0)
    assert (answer.edns, answer.payload) == (0, 1232)


@pytest.mark.parametrize("wanted", [True, False])
async def test_who_asks_for_signatures_is_told_that_this_was_heard(wanted: bool) -> None:
    answer = await Bench().ask(NAME, use_edns=0, want_dnssec=wanted)
    assert bool(answer.ednsflags & dns.flags.DO) is wanted
    assert values(answer)


async def test_an_unknown_version_of_edns_is_refused() -> None:
    answer = await Bench().ask(NAME, use_edns=1)
    assert answer.rcode() == dns.rcode.BADVERS
    assert answer.edns == 0


async def test_cookies_and_other_options_are_passed_over() -> None:
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    answer = await Bench().ask(NAME, use_edns=0, options=[cookie])
    assert values(answer)
    assert not answer.options


@pytest.mark.parametrize("rd", [True, False])
@pytest.mark.parametrize("cd", [True, False])
async def test_flags_of_the_client_come_back(rd: bool, cd: bool) -> None:
    flags = (dns.flags.RD if rd else 0) | (dns.flags.CD if cd else 0)
    answer = await Bench().ask(NAME, flags=flags)
    assert bool(answer.flags & dns.flags.RD) == rd
    assert bool(answer.flags & dns.flags.CD) == cd


def query(**changes: object) -> bytes:
    message = dns.message.make_query(NAME, "A", id=4711)
    for name, value in changes.items():
        setattr(message, name, value)
    return message.to_wire()


def several_questions() -> bytes:
    wire = bytearray(query())
    wire[5] = 2
    return bytes(wire) + wire[12:]


def no_question() -> bytes:
    return query()[:4] + bytes(8)


def opcode(number: int) -> bytes:
    wire = bytearray(query())
    wire[2] |= number << 3
    return bytes(wire)


@pytest.mark.parametrize(("data", "rcode"), [
    (several_questions(), dns.rcode.FORMERR), (no_question(), dns.rcode.FORMERR), (query()[:-1], dns.rcode.FORMERR),
    (query()[:12], dns.rcode.FORMERR), (query()[:12] + b"\xc0\x0c\0\1\0\1", dns.rcode.FORMERR),
    (query()[:12] + b"\x40" + query()[13:], dns.rcode.FORMERR),
    (opcode(dns.opcode.STATUS), dns.rcode.NOTIMP), (opcode(dns.opcode.NOTIFY), dns.rcode.NOTIMP),
    (opcode(dns.opcode.UPDATE), dns.rcode.NOTIMP), (opcode(15), dns.rcode.NOTIMP),
    (dns.message.make_query(NAME, "AXFR", id=4711).to_wire(), dns.rcode.NOTIMP),
    (dns.message.make_query("version.bind.", "TXT", dns.rdataclass.CH, id=4711).to_wire(), dns.rcode.REFUSED)])
def test_what_cannot_be_answered_is_refused(data: bytes, rcode: dns.rcode.Rcode) -> None:
    answer = Bench().resolver.quick(data)
    assert isinstance(answer, bytes)
    assert answer[:2] == (4711).to_bytes(2, "big")
    assert answer[2] & 0x80
    assert answer[3] & 15 == rcode


@pytest.mark.parametrize("data", [b"", b"x", query()[:11], query(flags=dns.flags.QR)])
def test_what_must_not_be_answered_is_not(data: bytes) -> None:
    assert Bench().resolver.quick(data) == b""


BENCH = Bench()
VALID = [query(), several_questions(), dns.message.make_query(NAME, "SRV", use_edns=0).to_wire(),
         dns.message.make_query("7.7.96.10.in-addr.arpa", "PTR").to_wire()]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 8))):
        where = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                data[where] = draw(st.integers(0, 255))
            case 1:
                data[where:where] = draw(st.binary(max_size=20))
            case _ if len(data) > 1:
                del data[where]
    return bytes(data)


@settings(max_examples=800, deadline=None)
@given(st.one_of(damaged(), st.binary(max_size=600)), st.booleans())
def test_no_bytes_whatever_stop_it(data: bytes, stream: bool) -> None:
    answer = BENCH.resolver.quick(data, stream=stream)
    assert BENCH.resolver.counters.failures == 0  # nothing was unforeseen
    if isinstance(answer, bytes) and answer:
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        dns.message.from_wire(answer, ignore_trailing=False)


LABEL = st.binary(min_size=1, max_size=63)


@settings(max_examples=300, deadline=None)
@given(st.lists(LABEL, max_size=3), st.sampled_from([
    "", "cluster.local", "svc.cluster.local", "default.svc.cluster.local", NAME, "default.pod.cluster.local",
    "in-addr.arpa", "ip6.arpa"]), st.integers(1, 65535))
def test_no_name_whatever_stops_it(labels: list[bytes], below: str, kind: int) -> None:
    tail = [part.encode() for part in below.split(".") if part]
    wire = query()[:12] + b"".join(bytes([len(part)]) + part for part in (*labels, *tail)) + b"\0"
    answer = BENCH.resolver.quick(wire + kind.to_bytes(2, "big") + b"\0\1")
    assert BENCH.resolver.counters.failures == 0
    if isinstance(answer, bytes):
        assert dns.message.from_wire(answer).rcode() in (0, 3, 1, 4)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), damaged()))
def test_no_answer_whatever_stops_the_forwarder(data: bytes) -> None:
    question = Question(to_wire(NAME), 1)
    try:
        message = read_answer(data, question, 4711)
    except NotAnAnswer:
        return
    assert message.id == 4711


async def test_answers_are_remembered_encoded_and_forgotten_with_the_next_change() -> None:
    bench = Bench()
    for _ in range(5):
        await bench.ask(NAME)
    assert bench.resolver.counters.remembered == 4
    bench.view.put(resources.SERVICES, service("other", "10.96.3.3"))
    await bench.ask(NAME)
    assert bench.resolver.counters.remembered == 4
    assert bench.resolver.counters.queries == 6


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.dns.resolver.ENCODED_BYTES", 20_000)
    bench = Bench()
    for number in range(200):
        bench.resolver.quick(dns.message.make_query(f"x{number}{'y' * 50}.{'z' * 60}.cluster.local", "A").to_wire())
    sizes = [sum(map(len, entry.variants)) + len(key) + OVERHEAD for key, entry in bench.resolver._encoded.items()]
    assert sum(sizes) == bench.resolver._size <= 20_000
