"""What is read and written by hand, against what dnspython makes of the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.messages import FORMERR, Query, Question, Refused, Reply, make_query, read_query, write
from agent.dns.upstream import read_answer, reply_of
from agent.dns.wire import KINDS, RR, SRV, after_name, labels_of, name_at, rrs, to_wire
from agent.dns.zone import Record

NAME = "web.default.svc.cluster.local"
VALUES = {"A": "10.96.7.7", "AAAA": "fd00::9", "NS": f"ns.{NAME}.", "CNAME": "www.example.com.", "PTR": f"{NAME}.",
          "TXT": '"1.1.0"', "SRV": f"0 33 15432 db-0.{NAME}.",
          "SOA": "ns.dns.cluster.local. hostmaster.cluster.local. 4294967295 7200 1800 86400 5"}


def query(**options: object) -> bytes:
    return dns.message.make_query(NAME, "A", id=4711, **options).to_wire()  # type: ignore[arg-type]


# -- names

LABEL = st.binary(min_size=1, max_size=63)
LABELS = st.lists(LABEL, max_size=6).filter(lambda labels: sum(len(label) + 1 for label in labels) < 255)


@given(LABELS)
def test_a_name_is_read_to_its_end(labels: Sequence[bytes]) -> None:
    wire = dns.name.Name([*labels, b""]).to_wire()
    assert wire is not None
    assert name_at(b"abc" + wire + b"\x01", 3) == wire
    assert after_name(b"abc" + wire + b"\x01", 3) == 3 + len(wire)
    assert labels_of(wire) == tuple(label.decode("latin-1") for label in labels)
    assert wire.lower() == dns.name.Name([*labels, b""]).to_digestable()


@pytest.mark.parametrize("text", ["", ".", "a", "a.", NAME, f"{NAME}.", "x" * 63, ".".join(["x" * 49] * 5)])
def test_a_names_bytes(text: str) -> None:
    assert to_wire(text) == dns.name.from_text(text).to_wire()


@pytest.mark.parametrize("text", ["a..b", ".a", "x" * 64, ".".join(["x" * 63] * 4), "ä.example"])
def test_what_is_no_name_has_no_bytes(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the encoding's error too
        to_wire(text)


@pytest.mark.parametrize("wire", [b"", b"\1a", b"\x40" + bytes(70), b"\xc0\x0c", b"\1a\xc0\0", b"\x3f" * 400])
def test_what_is_no_name_is_not_read(wire: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        name_at(wire, 0)


# -- questions

ZONE_TRANSFER = dns.message.make_query(NAME, "IXFR")
ZONE_TRANSFER.authority.append(dns.rrset.from_text(f"{NAME}.", 5, "IN", "SOA", VALUES["SOA"]))
COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
VALID = [query(), query(use_edns=0, payload=4096), query(want_dnssec=True), ZONE_TRANSFER.to_wire(),
         query(use_edns=0, options=[COOKIE]), query(use_edns=1)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 41])))
    return bytes(data[:draw(st.integers(len(data) - 12, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_questions_are_read_as_the_library_reads_them(data: bytes) -> None:
    if data[2] & 0xF8 or int.from_bytes(data[4:6], "big") != 1:
        return  # not read any further
    try:
        theirs: dns.message.Message | None = dns.message.from_wire(data, ignore_trailing=True)
    except Exception:  # noqa: BLE001 - also its own faults
        theirs = None
    try:
        ours = read_query(data, stream=False)
    except Refused as refusal:
        if refusal.reply[3] & 0xF == FORMERR:  # theirs follows pointers where a question has no use for one
            assert theirs is None or max(data[12:]) >= 0xC0
        return
    if theirs is None:  # it looks into records that a question does not need
        theirs = dns.message.from_wire(data, ignore_trailing=True, continue_on_error=True)
    else:
        assert ours.edns == (theirs.edns == 0)
        assert ours.question.dnssec == bool(theirs.ednsflags & dns.flags.DO)
        assert ours.plain == (not theirs.options)
        assert ours.size == (min(1232, max(512, theirs.payload)) if ours.edns else 512)
    (asked,) = theirs.question
    assert ours.section[:-4] == asked.name.to_wire()
    assert ours.question[:2] == (asked.name.to_digestable(), asked.rdtype)
    assert (ours.number, ours.question.unchecked) == (theirs.id, bool(theirs.flags & dns.flags.CD))


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("dnssec", [False, True])
@pytest.mark.parametrize("unchecked", [False, True])
def test_what_upstream_servers_are_asked(edns: bool, dnssec: bool, unchecked: bool) -> None:
    message = dns.message.from_wire(make_query(Question(to_wire(NAME), 28, dnssec, unchecked), 4711, edns=edns))
    (asked,) = message.question
    assert (asked.name.to_text(), asked.rdtype, asked.rdclass) == (f"{NAME}.", 28, dns.rdataclass.IN)
    assert (message.id, message.edns, message.payload) == (4711, 0 if edns else -1, 1232 if edns else 0)
    assert message.flags & ~dns.flags.CD == dns.flags.RD | dns.flags.AD
    assert bool(message.flags & dns.flags.CD) == unchecked
    assert bool(message.ednsflags & dns.flags.DO) == (dnssec and edns)


# -- records and answers

@pytest.mark.parametrize("kind", KINDS)
def test_a_records_data(kind: str) -> None:
    ((name, number, ttl, data),) = rrs([Record(NAME, kind, VALUES[kind])], 5)
    assert (name, dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number)), ttl) == (to_wire(NAME), kind, 5)
    assert data == dns.rdata.from_text("IN", kind, VALUES[kind]).to_wire()


OTHERS = {"MX": f"10 mail.{NAME}.", "HTTPS": f"1 {NAME}. alpn=h2", "CAA": '0 issue "ca.example.net"',
          "NAPTR": f'1 2 "u" "s" "" {NAME}.'}
NAMES = ["example.com", "www.example.com", NAME, f"db-0.{NAME}", "svc.cluster.local", "local", "WEB.default.svc.local"]


@st.composite
def records(draw: st.DrawFn) -> RR:
    kind = draw(st.sampled_from([*VALUES, *OTHERS]))
    if kind in ("CNAME", "NS", "PTR"):
        value = draw(st.sampled_from(NAMES)) + "."
    elif kind == "SRV":
        value = f"0 {draw(st.integers(0, 9))} 80 {draw(st.sampled_from(NAMES))}."
    else:
        value = (VALUES | OTHERS)[kind]
    name = to_wire(draw(st.sampled_from(NAMES)))
    data = dns.rdata.from_text("IN", kind, value).to_wire()
    assert data is not None
    return RR(name, int(dns.rdatatype.from_text(kind)), draw(st.integers(0, 2**31 - 1)), data)


def parsed(sections: Sequence[dns.rrset.RRset]) -> list[RR]:
    """What the library has read, one record at a time."""
    return [RR(rrset.name.to_digestable(), int(rrset.rdtype), rrset.ttl, rdata.to_wire().lower())
            for rrset in sections for rdata in rrset]


def lowered(wanted: Sequence[RR]) -> list[RR]:
    return [record._replace(name=record.name.lower(), data=record.data.lower()) for record in wanted]


SECTION = st.lists(records(), max_size=12)


@settings(max_examples=100, deadline=None)
@given(SECTION, SECTION, SECTION, st.booleans(), st.integers(100, 1500), st.integers(0, 0xFFF))
def test_answers_say_to_the_library_what_they_are_to_say(
        answer: Sequence[RR], authority: Sequence[RR], additional: Sequence[RR], edns: bool, size: int,
        rcode: int) -> None:
    asked = to_wire(NAME) + b"\0\1\0\1"
    question = Query(4711, 0x0100, asked, Question(to_wire(NAME), 1), edns, size, True)
    wire = write(question, Reply(rcode if edns else rcode & 0xF, answer, authority, additional))
    read = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert len(wire) <= size
    assert read.id == 4711
    assert read.rcode() == (rcode if edns else rcode & 0xF)
    assert read.edns == (0 if edns else -1)
    wanted = [lowered(answer), lowered(authority), lowered(additional)]
    found = [parsed(read.answer), parsed(read.authority), parsed(read.additional)]
    there = [record for section in found for record in section]
    assert there == [record for section in wanted for record in section][:len(there)]
    assert bool(read.flags & dns.flags.TC) == (found[:2] != wanted[:2])
    if len(there) < sum(map(len, wanted)):  # and nothing was left out that had room
        room = write(question._replace(size=65535), Reply(0, answer, authority, additional))
        assert len(room) > size


def test_names_are_written_once_but_for_those_that_must_be_whole() -> None:
    made = rrs([Record(NAME, "A", f"10.0.0.{n}") for n in range(10)], 5)
    targets = rrs([Record(f"_a._tcp.{NAME}", "SRV", f"0 1 2 x.{NAME}."), Record(f"x.{NAME}", "A", "10.0.0.1")], 5)
    asked = to_wire(NAME) + b"\0\1\0\1"
    question = Query(1, 0, asked, Question(to_wire(NAME), 1), False, 512, True)
    assert len(write(question, Reply(answer=made))) == 12 + len(asked) + 10 * 16
    wire = write(question, Reply(answer=targets[:1], additional=targets[1:]))
    assert targets[0].kind == SRV
    assert wire.count(to_wire(f"x.{NAME}")) == 1  # not shortened (RFC 2782), but pointed to
    assert len(wire) == 12 + len(asked) + (8 + 2 + 10) + (6 + len(to_wire(f"x.{NAME}"))) + (2 + 10 + 4)


def test_a_message_of_any_length_can_be_read() -> None:
    made = rrs([Record(f"name-{n}.{NAME}", "CNAME", f"other-{n}.example-{n}.com.") for n in range(1000)], 5)
    question = Query(1, 0, to_wire(NAME) + b"\0\5\0\1", Question(to_wire(NAME), 5), True, 65535, True)
    wire = write(question, Reply(answer=made))
    assert len(wire) > 0x4000  # pointers lead no further
    assert parsed(dns.message.from_wire(wire, one_rr_per_rrset=True).answer) == made


@settings(max_examples=60, deadline=None)
@given(SECTION, SECTION, SECTION)
def test_what_upstream_servers_say_is_passed_on_unchanged(answer: Sequence[RR], authority: Sequence[RR],
                                                          additional: Sequence[RR]) -> None:
    said = dns.message.make_response(dns.message.from_wire(query()))
    for section, made in ((said.answer, answer), (said.authority, authority), (said.additional, additional)):
        for name, kind, ttl, data in made:
            rdata = dns.rdata.from_wire("IN", dns.rdatatype.RdataType.make(kind), data, 0, len(data))
            section.append(dns.rrset.from_rdata(dns.name.from_wire(name, 0)[0], ttl, rdata))
    message = read_answer(said.to_wire(), Question(to_wire(NAME), 1), 4711)
    passed = dns.message.from_wire(write(read_query(query(), stream=True), reply_of(message, 0)))
    assert (passed.answer, passed.authority, passed.additional) == (message.answer, message.authority,
                                                                    message.additional)
