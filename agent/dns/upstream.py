"""One exchange with an upstream DNS server, over UDP or TCP; what it says is read by dnspython."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent.dns.messages import AD, NOERROR, NXDOMAIN, QR, TC, Question, Reply
from agent.dns.wire import INTERNET, RR
from sampan.clusterdns import PORT

if TYPE_CHECKING:
    import dns.message
    import dns.name
    from dns.rrset import RRset

LARGEST = 65535


@dataclass(frozen=True, slots=True)
class Server:
    """Where an upstream server listens; an IPv6 address may have a scope (``fe80::1%eth0``)."""

    address: str
    port: int = PORT


class NotAnAnswer(Exception):
    """What came from an upstream server is no answer to what it was asked."""


class Exchange(Protocol):
    """Asks a server one question."""

    async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                  stream: bool) -> dns.message.Message:
        """The answer to `wire`, whose id is `number`. OSError, NotAnAnswer; waits until the caller's timeout."""


class SocketExchange:
    """A socket of its own for each question, so that the kernel gives each a random port (RFC 5452)."""

    async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                  stream: bool) -> dns.message.Message:
        """See Exchange. The socket is connected: answers from elsewhere are not seen, and refusals are."""
        loop = asyncio.get_running_loop()
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        family, _, _, _, address = socket.getaddrinfo(server.address, server.port, type=kind,
                                                      flags=socket.AI_NUMERICHOST)[0]
        with socket.socket(family, kind | socket.SOCK_NONBLOCK) as sock:
            if stream:
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, len(wire).to_bytes(2, "big") + wire)
                length = int.from_bytes(await _exactly(sock, 2), "big")
                return read_answer(await _exactly(sock, length), question, number)
            sock.connect(address)  # sends nothing
            await loop.sock_sendall(sock, wire)
            while True:
                data = await loop.sock_recv(sock, LARGEST)
                try:
                    return read_answer(data, question, number)
                except NotAnAnswer:
                    continue  # forged or late: the real one may still come


def read_answer(data: bytes, question: Question, number: int) -> dns.message.Message:
    """An upstream server's answer to that query; NotAnAnswer for anything else."""
    import dns.message  # noqa: PLC0415 - megabytes, which an agent takes when the first answer comes

    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except Exception as error:  # the library's own errors, and whatever else a stranger's bytes bring about in it
        raise NotAnAnswer("it cannot be read") from error
    if message.id != number or not message.flags & QR:
        raise NotAnAnswer("it answers something else")
    if message.question:
        asked = message.question[0]
        if (_wire(asked.name).lower(), asked.rdtype, asked.rdclass) != (question.name, question.kind, INTERNET):
            raise NotAnAnswer("it answers another question")
    elif message.rcode() in (NOERROR, NXDOMAIN):  # complaints may come without the question
        raise NotAnAnswer("it answers no question")
    return message


def reply_of(message: dns.message.Message, lifetime: float) -> Reply:
    """What an answer says, to pass it on."""
    return Reply(int(message.rcode()), _records(message.answer), _records(message.authority),
                 _records(message.additional), authenticated=bool(message.flags & AD),
                 truncated=bool(message.flags & TC), lifetime=lifetime)


def _records(sets: Iterable[RRset]) -> tuple[RR, ...]:
    return tuple(RR(name, int(rrset.rdtype), rrset.ttl, rdata.to_wire())
                 for rrset in sets if rrset.rdclass == INTERNET
                 for name in (_wire(rrset.name),) for rdata in rrset)


def _wire(name: dns.name.Name) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in name.labels)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(sock, count - len(data))
        if not more:
            raise NotAnAnswer("the server closed the connection")
        data += more
    return data
