"""DNS messages on the wire (RFC 1035, EDNS: RFC 6891), through dnspython; nothing here raises for what clients send."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rrset import RRset

from agent.dns.zone import Record

HEADER = struct.Struct("!HHHHHH")
SMALLEST_UDP = 512
UDP_PAYLOAD = 1232
"""Bytes that we send and take over UDP where the client can: nothing of that size is cut into fragments."""
TCP_LIMIT = 65535
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; equal whatever the case of the letters is. `dnssec`: with signatures. `unchecked`: the CD bit."""

    name: dns.name.Name
    kind: int
    dnssec: bool = False
    unchecked: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The name's labels in lower case, without the root."""
        return tuple(label.decode("latin-1").lower() for label in self.name.labels if label)

    @property
    def type(self) -> str:
        """The record type as text."""
        return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(self.kind))


@dataclass(frozen=True, slots=True)
class Query:
    """A client's message that can be answered. `size`: how many bytes the answer may have."""

    message: dns.message.Message
    question: Question
    size: int
    plain: bool
    """Without EDNS options: others that ask the same send the same bytes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer. It may be given again for `lifetime` seconds, or, FOREVER, until the cluster changes."""

    rcode: int = dns.rcode.NOERROR
    answer: Sequence[RRset] = ()
    authority: Sequence[RRset] = ()
    additional: Sequence[RRset] = ()
    authoritative: bool = False
    authenticated: bool = False
    truncated: bool = False
    lifetime: float = field(default=0.0)


FAILURE = Reply(dns.rcode.SERVFAIL)


class Refused(Exception):
    """A message that is not for the resolver; `reply` is what to send, empty for nothing."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class NotAnAnswer(Exception):
    """What came from an upstream server is no answer to what it was asked."""


def read_query(data: bytes, *, stream: bool) -> Query:
    """Read what a client sent; Refused."""
    if len(data) < HEADER.size:
        raise Refused(b"")
    _, flags, questions, *_ = HEADER.unpack_from(data)
    if flags & dns.flags.QR:
        raise Refused(b"")  # an answer; to answer it might go on for ever
    if flags >> 11 & 0xF != dns.opcode.QUERY:
        raise Refused(_bare(data, dns.rcode.NOTIMP))
    if questions != 1:
        raise Refused(_bare(data, dns.rcode.FORMERR))  # RFC 9619
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
        asked = message.question[0]
    except Exception as error:  # the library's own errors, and whatever else a stranger's bytes bring about in it
        raise Refused(_bare(data, dns.rcode.FORMERR)) from error
    size = TCP_LIMIT if stream else (
        min(UDP_PAYLOAD, max(SMALLEST_UDP, message.payload)) if message.edns >= 0 else SMALLEST_UDP)
    dnssec = message.edns >= 0 and bool(message.ednsflags & dns.flags.DO)
    question = Question(asked.name, int(asked.rdtype), dnssec, bool(message.flags & dns.flags.CD))
    query = Query(message, question, size, not (message.options or message.had_tsig))
    if message.edns > 0:
        raise Refused(write(query, Reply(dns.rcode.BADVERS)))
    if asked.rdclass != dns.rdataclass.IN or message.opcode() != dns.opcode.QUERY:
        raise Refused(write(query, Reply(dns.rcode.REFUSED)))
    if dns.rdatatype.is_metatype(asked.rdtype) and asked.rdtype != dns.rdatatype.ANY:
        raise Refused(write(query, Reply(dns.rcode.NOTIMP)))  # zone transfers and the like
    return query


def write(query: Query, reply: Reply, begin: float = 0.0) -> bytes:
    """The answer's bytes; what does not fit is left out, and the client told to ask again over TCP.

    Of several records of one name those come first that are at `begin`, a share of one: many clients take the first.
    """
    message = dns.message.make_response(query.message, recursion_available=True, our_payload=UDP_PAYLOAD)
    message.set_rcode(dns.rcode.Rcode.make(reply.rcode))
    message.answer = [_turned(rrset, begin) for rrset in reply.answer]
    message.authority, message.additional = list(reply.authority), list(reply.additional)
    asked_for_proof = query.question.dnssec or bool(query.message.flags & dns.flags.AD)
    for flag, wanted in ((dns.flags.AA, reply.authoritative), (dns.flags.TC, reply.truncated),
                         (dns.flags.AD, reply.authenticated and asked_for_proof),
                         (dns.flags.CD, query.question.unchecked)):
        message.flags |= flag if wanted else 0
    try:
        return message.to_wire(max_size=query.size, want_shuffle=False)
    except dns.exception.TooBig:
        # Record by record, so that clients without TCP (musl before 1.2.4) have those that fit.
        message.answer = [single for rrset in message.answer for single in _singles(rrset)]
        return message.to_wire(max_size=query.size, prefer_truncation=True, want_shuffle=False)


def make_query(question: Question, number: int, *, edns: bool = True) -> bytes:
    """The message to ask an upstream server with."""
    flags = dns.flags.RD | dns.flags.AD | (dns.flags.CD if question.unchecked else 0)
    message = dns.message.make_query(question.name, dns.rdatatype.RdataType.make(question.kind), flags=flags, id=number)
    if edns:
        message.use_edns(0, dns.flags.DO if question.dnssec else 0, UDP_PAYLOAD)
    return message.to_wire()


def read_answer(data: bytes, question: Question, number: int) -> dns.message.Message:
    """An upstream server's answer to that query; NotAnAnswer for anything else."""
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except Exception as error:  # as above
        raise NotAnAnswer("it cannot be read") from error
    if message.id != number or not message.flags & dns.flags.QR:
        raise NotAnAnswer("it answers something else")
    if message.question:
        asked = message.question[0]
        if (asked.name, int(asked.rdtype), asked.rdclass) != (question.name, question.kind, dns.rdataclass.IN):
            raise NotAnAnswer("it answers another question")
    elif message.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):  # complaints may come without the question
        raise NotAnAnswer("it answers no question")
    return message


def rrsets(records: Iterable[Record], ttl: int) -> list[RRset]:
    """Records as the library has them, those of one name and type together, in their order."""
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        groups.setdefault((record.name, record.type), []).append(record.value)
    return [dns.rrset.from_text_list(f"{name}.", ttl, "IN", kind, values) for (name, kind), values in groups.items()]


def aged(sets: Iterable[RRset], seconds: int) -> list[RRset]:
    """Copies whose time to live is that much shorter."""
    return [dns.rrset.from_rdata_list(rrset.name, max(0, rrset.ttl - seconds), list(rrset)) for rrset in sets]


def _turned(rrset: RRset, begin: float) -> RRset:
    first = int(begin * len(rrset))
    if not first:
        return rrset
    records = list(rrset)
    return dns.rrset.from_rdata_list(rrset.name, rrset.ttl, records[first:] + records[:first])


def _singles(rrset: RRset) -> Iterator[RRset]:
    for rdata in rrset:
        yield dns.rrset.from_rdata(rrset.name, rrset.ttl, rdata)


def _bare(data: bytes, rcode: int) -> bytes:
    """A header without anything else: all that can be said to a message that could not be read."""
    number, flags, *_ = HEADER.unpack_from(data)
    kept = flags & (0xF << 11 | dns.flags.RD)
    return HEADER.pack(number, dns.flags.QR | dns.flags.RA | kept | rcode, 0, 0, 0, 0)
