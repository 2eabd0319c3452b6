"""Clients' messages and the answers to them (RFC 1035, EDNS: RFC 6891); nothing here raises for what clients send.

Written by hand, since a library that knows all of DNS takes ten times as long for these few things. What upstream
servers say is read by dnspython (`agent.dns.upstream`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from agent.dns.wire import ANY, INTERNET, OPT, RR, TYPES, after_name, labels_of, name_at, put_name, put_record, rrsets

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
"""A message's flags: it is an answer, by authority, truncated; recursion is wanted, is to be had; what is said is
authenticated; it need not be checked."""
OPCODE = 0x7800
"""The bits of the flags that say which operation is wanted; 0 is a query."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, NOTZONE, BADVERS = 0, 1, 2, 3, 4, 5, 10, 16
"""What became of a query (RFC 6895); above NOTZONE it is about EDNS and signed messages, between two servers."""
DO = 0x8000
"""The flag of EDNS: signatures are wanted; an answer says so again (RFC 3225)."""
SMALLEST_UDP = 512
UDP_PAYLOAD = 1232
"""Bytes that we send and take over UDP where the client can: nothing of that size is cut into fragments."""
TCP_LIMIT = 65535
FOREVER = float("inf")

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")  # behind the name: type, class
_RECORD = struct.Struct("!HHIH")  # behind the name: type, class, time to live, length of the data
_OPT = struct.Struct("!BHHIH")  # the name of the root, type, payload, (rcode's upper part, version, flags), length
_META = range(128, 256)
"""Types that are no records' but ways to ask (RFC 6895); ANY is the one that we know."""


class Question(NamedTuple):
    """What is asked: `name` in lower case. `dnssec`: with signatures. `unchecked`: the CD bit."""

    name: bytes
    kind: int
    dnssec: bool = False
    unchecked: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The name's labels, without the root."""
        return labels_of(self.name)

    @property
    def type(self) -> str:
        """The record type as text, of those that the cluster's names have."""
        return TYPES.get(self.kind, f"TYPE{self.kind}")

    def __str__(self) -> str:
        return f"{'.'.join(self.labels)} {self.type}"


class Query(NamedTuple):
    """A client's message that can be answered."""

    number: int
    flags: int
    section: bytes
    """The question as it came: clients want their own letters back."""
    question: Question
    edns: bool
    size: int
    """How many bytes the answer may have."""
    plain: bool
    """Without EDNS options: others that ask the same send the same bytes."""


class Reply(NamedTuple):
    """What to answer. It may be given again for `lifetime` seconds, or, FOREVER, until the cluster changes."""

    rcode: int = NOERROR
    answer: Sequence[RR] = ()
    authority: Sequence[RR] = ()
    additional: Sequence[RR] = ()
    authoritative: bool = False
    authenticated: bool = False
    truncated: bool = False
    lifetime: float = 0.0


FAILURE = Reply(SERVFAIL)


class Refused(Exception):
    """A message that is not for the resolver; `reply` is what to send, empty for nothing."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class _Edns(NamedTuple):
    payload: int
    version: int
    dnssec: bool
    options: bool


def read_query(data: bytes, *, stream: bool) -> Query:
    """Read what a client sent; Refused. Bytes behind the last record do no harm."""
    if len(data) < _HEADER.size:
        raise Refused(b"")
    number, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & QR:
        raise Refused(b"")  # an answer; to answer it might go on for ever
    if flags & OPCODE:
        raise Refused(bare(data, NOTIMP))  # another operation than a query
    if questions != 1:
        raise Refused(bare(data, FORMERR))  # RFC 9619
    try:
        name = name_at(data, _HEADER.size)
        end = _HEADER.size + len(name) + _QUESTION.size
        kind, asked_class = _QUESTION.unpack_from(data, end - _QUESTION.size)
        edns = _read_edns(data, end, answers + authorities, additionals)
    except (ValueError, IndexError, struct.error) as error:
        raise Refused(bare(data, FORMERR)) from error
    size = TCP_LIMIT if stream else (
        min(UDP_PAYLOAD, max(SMALLEST_UDP, edns.payload)) if edns else SMALLEST_UDP)
    question = Question(name.lower(), kind, edns is not None and edns.dnssec, bool(flags & CD))
    query = Query(number, flags, data[_HEADER.size:end], question, edns is not None, size,
                  edns is None or not edns.options)
    if edns and edns.version:
        raise Refused(write(query, Reply(BADVERS)))
    if asked_class != INTERNET:
        raise Refused(write(query, Reply(REFUSED)))
    if kind == OPT or (kind in _META and kind != ANY):
        raise Refused(write(query, Reply(NOTIMP)))  # zone transfers and the like
    return query


def _read_edns(data: bytes, at: int, others: int, additionals: int) -> _Edns | None:
    """What the OPT record says, if there is one; other records are passed over. ValueError, IndexError, struct.error"""
    edns = None
    for number in range(others + additionals):
        start, at = at, after_name(data, at)
        kind, payload, extended, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size + length
        if at > len(data):
            raise ValueError("a record that ends behind the message")
        if kind == OPT:
            if edns is not None or number < others or data[start]:
                raise ValueError("an OPT record too much, or where none may be")
            edns = _Edns(payload, extended >> 16 & 0xFF, bool(extended & DO), length > 0)
    return edns


def write(query: Query, reply: Reply, begin: float = 0.0) -> bytes:
    """The answer's bytes; what does not fit is left out, and the client told to ask again over TCP.

    Of several records of one name those come first that are at `begin`, a share of one: many clients take the first.
    Those that fit are there, for clients that know no TCP (musl before 1.2.4).
    """
    flags = QR | RA | query.flags & (RD | CD) | reply.rcode & 0xF
    if reply.authoritative:
        flags |= AA
    if reply.authenticated and (query.question.dnssec or query.flags & AD):
        flags |= AD
    if reply.truncated:
        flags |= TC
    out = bytearray(_HEADER.size)
    known: dict[bytes, int] = {}
    put_name(out, query.section[:-_QUESTION.size], known)
    out += query.section[-_QUESTION.size:]
    counts = [0, 0, 0]
    if not _fill(out, (_turned(reply.answer, begin), reply.authority, reply.additional), known, counts,
                 query.size - (_OPT.size if query.edns else 0)):
        flags |= TC
    if query.edns:
        out += _OPT.pack(0, OPT, UDP_PAYLOAD, reply.rcode >> 4 << 24 | (DO if query.question.dnssec else 0), 0)
    _HEADER.pack_into(out, 0, query.number, flags, 1, counts[0], counts[1], counts[2] + query.edns)
    return bytes(out)


def _fill(out: bytearray, sections: Sequence[Sequence[RR]], known: dict[bytes, int], counts: list[int],
          limit: int) -> bool:
    """Write the records as long as they fit; whether all did that the client needs (RFC 2181, 9)."""
    for number, records in enumerate(sections):
        for record in records:
            end = len(out)
            put_record(out, record, known)
            if len(out) > limit:
                del out[end:]
                return number == 2  # the additional ones
            counts[number] += 1
    return True


def _turned(records: Sequence[RR], begin: float) -> Sequence[RR]:
    if not begin or len(records) < 2:
        return records
    turned: list[RR] = []
    for rrset in rrsets(records):
        first = int(begin * len(rrset))
        turned += rrset[first:] + rrset[:first]
    return turned


def bare(data: bytes, rcode: int) -> bytes:
    """A header without anything else: all that can be said to a message that could not be read."""
    number, flags, *_ = _HEADER.unpack_from(data)
    return _HEADER.pack(number, QR | RA | flags & (OPCODE | RD) | rcode, 0, 0, 0, 0)


def make_query(question: Question, number: int, *, edns: bool = True) -> bytes:
    """The message to ask an upstream server with."""
    wire = _HEADER.pack(number, RD | AD | (CD if question.unchecked else 0), 1, 0, 0, int(edns))
    wire += question.name + _QUESTION.pack(question.kind, INTERNET)
    return wire + _OPT.pack(0, OPT, UDP_PAYLOAD, DO if question.dnssec else 0, 0) if edns else wire
