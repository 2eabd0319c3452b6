"""One exchange with an upstream DNS server, over UDP or TCP."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Protocol

import dns.message

from agent.dns.messages import NotAnAnswer, Question, read_answer
from sampan.clusterdns import PORT

LARGEST = 65535


@dataclass(frozen=True, slots=True)
class Server:
    """Where an upstream server listens; an IPv6 address may have a scope (``fe80::1%eth0``)."""

    address: str
    port: int = PORT


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


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(sock, count - len(data))
        if not more:
            raise NotAnAnswer("the server closed the connection")
        data += more
    return data
