"""From a client's bytes to the answer's: the cluster's names at once, others after asking upstream."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.dns.forward import Forwarder
from agent.dns.index import Index
from agent.dns.messages import (
    FAILURE,
    FOREVER,
    NOERROR,
    NXDOMAIN,
    SERVFAIL,
    Query,
    Question,
    Refused,
    Reply,
    bare,
    read_query,
    write,
)
from agent.dns.wire import RR, SOA, rrs, rrsets, to_wire
from agent.dns.zone import TTL, Found, Record, Zone
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

CHAIN = 8
"""How many names of the cluster may be other names for one another before that is taken for a circle."""
VARIANTS = 8
"""Orders of the same records that are kept at most, so that clients which take the first one spread out."""
ENCODED_BYTES = 1024 * 1024
"""What they may take in all: some 2,000 of them."""
GOLDEN = 0.618034
"""The part of a circle by which to turn so that no place is met twice soon."""
OVERHEAD = 350
"""Bytes that each takes beside its messages, about."""
FRESH = 1.0
"""Seconds for which an encoded answer with a time to live from upstream is good: those count in seconds."""


@dataclass(slots=True)
class Counters:
    """What has happened, for metrics."""

    queries: int = 0
    remembered: int = 0
    failures: int = 0


@dataclass(slots=True)
class _Encoded:
    """Answers to one message, without their ids."""

    variants: list[bytes]
    wanted: int
    until: float
    turn: int = 0


class Resolver:
    """Most clients send the same few messages again and again, but for the id: their answers are kept encoded.

    A look-up is then one look into a dictionary. Whatever the cluster changes empties it.
    """

    def __init__(self, index: Index, forwarder: Forwarder, clock: Clock, counters: Counters | None = None) -> None:
        self._zone = Zone(index)
        self._forwarder = forwarder
        self._clock = clock
        self._serial = int(clock.now().timestamp())
        self._soa: Sequence[RR] | None = None
        self._encoded: dict[bytes, _Encoded] = {}
        self._size = 0
        self._turn = clock.now().microsecond / 1e6  # another one on every node
        self.counters = counters or Counters()
        index.changed = self._forget

    def quick(self, data: bytes, *, stream: bool = False) -> bytes | Query:
        """The answer, b"" for none, or the query, if upstream has to be asked (see `resolve`). Never raises."""
        self.counters.queries += 1
        known = None if stream else self._encoded.get(data[2:])
        if known is not None and self._clock.monotonic() < known.until and len(known.variants) == known.wanted:
            self.counters.remembered += 1
            known.turn = (known.turn + 1) % known.wanted
            return data[:2] + known.variants[known.turn]
        try:
            query = read_query(data, stream=stream)
            reply = self._local(query.question)
            if reply is None:
                return query
            return self._encode(query, reply, b"" if stream else data[2:])
        except Refused as refusal:
            return refusal.reply
        except Exception:  # no message, however strange, may stop the others' being answered
            self.counters.failures += 1
            log.exception("a DNS query could not be answered: %r", data[:600])
            return bare(data, SERVFAIL)

    async def resolve(self, query: Query) -> bytes:
        """The answer to what `quick` could not answer. Never raises."""
        try:
            found = self._follow(query.question)
            if found is None:
                reply = await self._forwarder.resolve(query.question)
            else:
                reply = self._with_target(found, await self._forwarder.resolve(_target(query.question, found)))
            if reply.rcode == SERVFAIL:
                self.counters.failures += 1
            return write(query, reply)
        except Exception:  # as above
            self.counters.failures += 1
            log.exception("a DNS query could not be answered: %s", query.question)
            return write(query, FAILURE)

    # -- inside

    def _local(self, question: Question) -> Reply | None:
        """What can be said without asking anybody."""
        found = self._follow(question)
        if found is None:
            return self._forwarder.cached(question)
        if found.alias:
            target = self._forwarder.cached(_target(question, found))
            return self._with_target(found, target) if target is not None else None
        return self._reply(found, question)

    def _follow(self, question: Question) -> Found | None:
        """What the cluster says, names that are other names followed as long as they lead to the cluster again."""
        found = self._zone.find(question.labels, question.type)
        records: list[Record] = []
        while found is not None and found.alias and question.type != "CNAME":
            records += found.records
            target = self._zone.find(tuple(found.alias.split(".")), question.type)
            if target is None:
                return Found(tuple(records), alias=found.alias)
            if len(records) >= CHAIN:
                return Found(tuple(records))
            found = target
        if found is None or not (records or found.alias):
            return found
        return replace(found, records=(*records, *found.records), alias="")

    def _reply(self, found: Found, question: Question) -> Reply:
        if self._soa is None:
            self._soa = rrs([self._zone.authority(self._serial)], TTL)
        soa = self._soa
        apex = question.kind == SOA and question.labels == tuple(self._zone.domain.split("."))
        answer = soa if apex else rrs(found.records, TTL)
        complete = any(record.kind == question.kind for record in answer)
        rcode = NOERROR if found.exists else NXDOMAIN
        return Reply(rcode, answer, () if complete else soa, rrs(found.extra, TTL), authoritative=True,
                     lifetime=FOREVER)

    def _with_target(self, found: Found, target: Reply) -> Reply:
        return Reply(target.rcode, [*rrs(found.records, TTL), *target.answer], target.authority,
                     truncated=target.truncated, lifetime=target.lifetime)

    def _encode(self, query: Query, reply: Reply, key: bytes) -> bytes:
        """Write the answer, and remember it for those who ask the same; for several records, in several orders."""
        if not key or not query.plain or reply.lifetime <= 0:
            return write(query, reply, self._next_turn())
        now = self._clock.monotonic()
        known = self._encoded.get(key)
        if known is None or now >= known.until:
            if known is not None:
                self._size -= sum(map(len, known.variants)) + len(key) + OVERHEAD
            wanted = min(VARIANTS, max(map(len, rrsets(reply.answer)), default=1))
            until = now + min(FRESH, reply.lifetime) if reply.lifetime != FOREVER else FOREVER
            known = self._encoded[key] = _Encoded([], wanted, until)
            self._size += len(key) + OVERHEAD
        begin = len(known.variants) / known.wanted if known.wanted < VARIANTS else self._next_turn()
        wire = write(query, reply, begin)
        known.variants.append(wire[2:])
        self._size += len(wire) - 2
        if self._size > ENCODED_BYTES:
            self._clear()
        return wire

    def _next_turn(self) -> float:
        """A share of one; one after the other they spread evenly, however many there are."""
        self._turn = (self._turn + GOLDEN) % 1.0
        return self._turn

    def _forget(self) -> None:
        """The cluster has changed."""
        self._soa = None
        self._serial = max(self._serial + 1, int(self._clock.now().timestamp())) & 0xFFFFFFFF
        self._clear()

    def _clear(self) -> None:
        self._encoded.clear()
        self._size = 0


def _target(question: Question, found: Found) -> Question:
    return question._replace(name=to_wire(found.alias))
