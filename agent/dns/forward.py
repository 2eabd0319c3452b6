"""Names that are not the cluster's: asked of the host's upstream servers, with a cache in between."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.dns.cache import Cache
from agent.dns.messages import FAILURE, FORMERR, NOERROR, NOTZONE, NXDOMAIN, TC, Question, Reply, make_query
from agent.dns.upstream import Exchange, NotAnAnswer, Server, reply_of
from agent.dns.wire import ANY, RR, SOA
from sampan.loop.clock import Clock

if TYPE_CHECKING:
    import dns.message

PATIENCE = 1.5
"""Seconds to wait for one server before the next is asked; over TCP as long again."""
DEADLINE = 4.5
"""Seconds for all of them together: clients ask again after five."""
ROUNDS = 3
"""How often all of them are asked."""
SUSPICION = 10.0
"""Seconds for which a server that did not answer is asked last."""
LONGEST = 300.0
"""Seconds for which an answer is kept at most, whatever it says itself: changes should reach pods."""
LONGEST_NEGATIVE = 30.0
FAILED = 1.0
"""Seconds for which a failure is kept, so that many who ask again don't make it worse (RFC 9520)."""
CACHE_BYTES = 1024 * 1024
RECORD_OVERHEAD = 200
"""Bytes of memory that a record takes beside its name and its data."""
MOST_AT_ONCE = 256
"""Questions under way at a time; beyond, clients are told of a failure and try again."""
ANSWERS = (NOERROR, NXDOMAIN)

log = logging.getLogger(__name__)


class Forwarder:
    """Asks upstream. The same question of several clients is asked once, which also ends loops: a question that comes
    back to us through others waits for itself, and so fails instead of going round.
    """

    def __init__(self, servers: Callable[[], Sequence[Server]], exchange: Exchange, clock: Clock,
                 number: Callable[[], int] = lambda: secrets.randbits(16)) -> None:
        """`servers` is asked at each question, so that it may follow a file; `number` makes the messages' ids."""
        self._servers = servers
        self._exchange = exchange
        self._clock = clock
        self._number = number
        self._cache: Cache[Question, Reply] = Cache(CACHE_BYTES)
        self._asking: dict[Question, asyncio.Future[Reply]] = {}
        self._failed: dict[Server, float] = {}

    def cached(self, question: Question) -> Reply | None:
        """What is known already."""
        now = self._clock.monotonic()
        entry = self._cache.get(question, now)
        if entry is None:
            return None
        known, age = entry.value, int(now - entry.since)
        return known._replace(answer=_aged(known.answer, age), authority=_aged(known.authority, age),
                              additional=_aged(known.additional, age), lifetime=entry.until - now)

    async def resolve(self, question: Question) -> Reply:
        """The answer, or a server failure; never raises."""
        known = self.cached(question)
        if known is not None:
            return known
        running = self._asking.get(question)
        if running is not None:
            return await asyncio.shield(running)
        if len(self._asking) >= MOST_AT_ONCE:
            return FAILURE
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asking[question] = answer
        reply = FAILURE
        try:
            reply = await self._fresh(question)
            return reply
        finally:
            del self._asking[question]
            answer.set_result(reply)

    async def _fresh(self, question: Question) -> Reply:
        message = None
        try:
            async with asyncio.timeout(DEADLINE):
                message = await self._ask_around(question)
        except TimeoutError:
            log.debug("no upstream server answered %s in time", question)
        if message is None or message.rcode() > NOTZONE:
            reply, lifetime = FAILURE, FAILED
        else:
            lifetime = lifetime_of(message) if message.rcode() in ANSWERS else FAILED
            reply = reply_of(message, lifetime)
        if lifetime > 0:
            self._cache.put(question, reply, _bytes(reply), self._clock.monotonic(), lifetime)
        return reply

    async def _ask_around(self, question: Question) -> dns.message.Message | None:
        """The first answer. What a server says that it cannot do is only passed on if all say so."""
        refusal: dns.message.Message | None = None
        for _ in range(ROUNDS):
            for server in self._order():
                try:
                    message = await self._ask(server, question)
                except (TimeoutError, OSError, NotAnAnswer) as error:
                    log.debug("upstream server %s: %r", server.address, error)
                    self._failed[server] = self._clock.monotonic()
                    continue
                self._failed.pop(server, None)
                if message.rcode() in ANSWERS:
                    return message
                refusal = message
            if refusal is not None:
                break
        return refusal

    async def _ask(self, server: Server, question: Question) -> dns.message.Message:
        number = self._number()
        wire = make_query(question, number)
        async with asyncio.timeout(PATIENCE):
            message = await self._exchange.ask(server, question, wire, number, stream=False)
            if message.rcode() == FORMERR and message.edns < 0:  # a server from before EDNS
                wire = make_query(question, number, edns=False)
                message = await self._exchange.ask(server, question, wire, number, stream=False)
        if message.flags & TC:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._exchange.ask(server, question, wire, number, stream=True)
            except (OSError, NotAnAnswer) as error:  # the time being up is an OSError, too
                log.debug("upstream server %s over TCP: %r", server.address, error)
        return message  # truncated as it is, the client may try TCP itself

    def _order(self) -> list[Server]:
        """As the file has them, those that failed lately last."""
        now = self._clock.monotonic()
        servers = list(self._servers())
        self._failed = {server: since for server, since in self._failed.items()
                        if server in servers and now - since < SUSPICION}
        return sorted(servers, key=lambda server: self._failed.get(server, float("-inf")))


def lifetime_of(message: dns.message.Message) -> float:
    """Seconds for which an answer holds (RFC 2308 for negative ones); 0 for what must not be kept."""
    if message.rcode() not in ANSWERS or message.flags & TC:
        return 0.0
    sets = [*message.answer, *message.authority, *message.additional]
    shortest = float(min((rrset.ttl for rrset in sets), default=0))
    asked = message.question[0].rdtype if message.question else None
    answered = any(rrset.rdtype == asked or asked == ANY for rrset in message.answer)
    if answered and message.rcode() == NOERROR:
        return min(shortest, LONGEST)
    limits = [float(min(rrset.ttl, rrset[0].minimum)) for rrset in message.authority
              if rrset.rdtype == SOA]
    return min(shortest, *limits, LONGEST_NEGATIVE) if limits else 0.0


def _aged(records: Sequence[RR], seconds: int) -> Sequence[RR]:
    """Copies whose time to live is that much shorter."""
    return [RR(name, kind, max(0, ttl - seconds), data) for name, kind, ttl, data in records]


def _bytes(reply: Reply) -> int:
    """What an answer takes in memory, about."""
    records = (*reply.answer, *reply.authority, *reply.additional)
    return sum(RECORD_OVERHEAD + len(record.name) + len(record.data) for record in records)
