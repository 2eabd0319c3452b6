"""Names and resource records as bytes (RFC 1035, 3 and 4.1); decides nothing, and knows no messages.

A name is kept as its labels, each behind its length, to the empty one of the root. Such bytes may be put into lower
case as a whole: a length is at most 63, and no letter is as small.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from agent.dns.zone import LONGEST_LABEL, Record

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 255
KINDS = {"A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "TXT": TXT, "AAAA": AAAA, "SRV": SRV}
TYPES = {number: text for text, number in KINDS.items()}
INTERNET = 1
"""The class of all that we know."""
LONGEST_NAME = 255
"""Bytes, with the lengths."""
POINTER = 0xC000
"""Set in two bytes that stand for the rest of a name, found at the place that the other bits say."""

_FIXED = struct.Struct("!HHIH")  # type, class, time to live, length of the data
_SRV = struct.Struct("!HHH")  # priority, weight, port; the target follows


class RR(NamedTuple):
    """A resource record: `data` with whole names, never with pointers."""

    name: bytes
    kind: int
    ttl: int
    data: bytes


def to_wire(name: str) -> bytes:
    """A name's bytes, with or without a dot at its end; ValueError for what is none."""
    text = name.removesuffix(".")
    if not text:
        return b"\0"
    labels = text.split(".")
    if "" in labels or max(map(len, labels)) > LONGEST_LABEL or len(text) > LONGEST_NAME - 2:
        raise ValueError(f"{name!r} is empty in between, or has more than {LONGEST_LABEL} bytes in a label or "
                         f"{LONGEST_NAME} in all")
    return "".join([chr(len(label)) + label for label in labels]).encode("ascii") + b"\0"


def name_at(data: bytes, at: int) -> bytes:
    """The name that begins there and has no pointers; ValueError, IndexError for anything else."""
    end = at
    while length := data[end]:
        if length > LONGEST_LABEL:
            raise ValueError("a pointer, or a label of a kind that is none")
        end += length + 1
    if end + 1 - at > LONGEST_NAME:
        raise ValueError("the name is too long")
    return data[at:end + 1]


def after_name(data: bytes, at: int) -> int:
    """Where the name that begins there ends, be it with a pointer; ValueError, IndexError."""
    while length := data[at]:
        if length & 0xC0 == 0xC0:
            return at + 2
        if length > LONGEST_LABEL:
            raise ValueError("a label of a kind that is none")
        at += length + 1
    return at + 1


def labels_of(name: bytes) -> tuple[str, ...]:
    """A name's labels, without the root; bytes that are no ASCII stay what they are."""
    text, labels, at = name.decode("latin-1"), [], 0
    while length := name[at]:
        labels.append(text[at + 1:at + 1 + length])
        at += length + 1
    return tuple(labels)


def rrs(records: Iterable[Record], ttl: int) -> list[RR]:
    """The zone's records; ValueError, OSError for what cannot be written (the API server lets none of that in)."""
    names: dict[str, bytes] = {}
    made = []
    for record in records:
        name = names.get(record.name)
        if name is None:
            name = names[record.name] = to_wire(record.name)
        made.append(RR(name, KINDS[record.type], ttl, _data(record.type, record.value)))
    return made


def rrsets(records: Sequence[RR]) -> list[list[RR]]:
    """Records that stand side by side and are of one name and type, together."""
    return [list(group) for _, group in groupby(records, key=lambda record: record[:2])]


def put_record(out: bytearray, record: RR, known: dict[bytes, int]) -> None:
    """Write a record to the end of a message. `known` are the places of the names that are in it."""
    name, kind, ttl, data = record
    put_name(out, name, known)
    start = len(out)
    out += _FIXED.pack(kind, INTERNET, ttl, len(data))
    if kind in (CNAME, NS, PTR):
        put_name(out, data, known)
    elif kind == SRV:
        out += data[:_SRV.size]
        put_name(out, data[_SRV.size:], known, whole=True)  # RFC 2782
    else:
        out += data
    out[start + 8:start + 10] = (len(out) - start - _FIXED.size).to_bytes(2, "big")


def put_name(out: bytearray, name: bytes, known: dict[bytes, int], *, whole: bool = False) -> None:
    """Write a name; what of its end is in the message already becomes a pointer, unless it has to be `whole`."""
    at = 0
    while name[at]:
        rest = name[at:].lower()
        place = known.get(rest)
        if place is not None:
            if not whole:
                out += name[:at] + (POINTER | place).to_bytes(2, "big")
                return
            break
        if len(out) + at < 0x4000:  # a pointer leads no further
            known[rest] = len(out) + at
        at += name[at] + 1
    out += name


def _data(kind: str, value: str) -> bytes:
    """A record's data from its text, as zone files have it."""
    match kind:
        case "A":
            return socket.inet_pton(socket.AF_INET, value)
        case "AAAA":
            return socket.inet_pton(socket.AF_INET6, value)
        case "SRV":
            priority, weight, port, target = value.split()
            return _SRV.pack(int(priority), int(weight), int(port)) + to_wire(target)
        case "SOA":
            server, mailbox, *numbers = value.split()
            return to_wire(server) + to_wire(mailbox) + struct.pack("!5I", *map(int, numbers))
        case "TXT":
            text = value.strip('"').encode()
            return bytes((len(text),)) + text
        case _:
            return to_wire(value)
