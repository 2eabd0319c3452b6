"""The exchange with an upstream server, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import dns.message
import dns.rrset
import pytest

from agent.dns.messages import Question, make_query
from agent.dns.upstream import NotAnAnswer, Server, SocketExchange
from agent.dns.wire import to_wire

QUESTION = Question(to_wire("www.example.com."), 1)
NUMBER = 4711


def answers(data: bytes, address: str, number: int = NUMBER) -> bytes:
    query = dns.message.from_wire(data)
    answer = dns.message.make_response(query)
    answer.id = number
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return answer.to_wire()


class Liar(asyncio.DatagramProtocol):
    """Sends forged answers before the real one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.clients: list[Any] = []
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.clients.append(addr)
        other = make_query(Question(to_wire("other.example.com."), 1), NUMBER)
        for forged in (b"nonsense", data, answers(data, "203.0.113.1", NUMBER + 1), answers(other, "203.0.113.2")):
            self.transport.sendto(forged, addr)
        self.transport.sendto(answers(data, "198.51.100.7"), addr)


async def ask(port: int, *, stream: bool = False) -> str:
    async with asyncio.timeout(60):
        message = await SocketExchange().ask(Server("127.0.0.1", port), QUESTION, make_query(QUESTION, NUMBER), NUMBER,
                                             stream=stream)
    return str(message.answer[0][0].to_text())


async def test_only_the_answer_to_the_question_counts_and_every_question_has_its_own_port() -> None:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(Liar, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    assert [await ask(port) for _ in range(20)] == ["198.51.100.7"] * 20
    assert len({client[1] for client in server.clients}) > 15
    transport.close()
    await server.closed.wait()
    with pytest.raises(ConnectionRefusedError):
        await ask(port)  # at once, not after a timeout


async def test_over_tcp() -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = answers(await reader.readexactly(size), "198.51.100.8")
        for part in (len(answer).to_bytes(2, "big"), answer[:5], answer[5:]):
            writer.write(part)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await ask(port, stream=True) == "198.51.100.8"
    with pytest.raises(ConnectionRefusedError):
        await ask(port, stream=True)


async def test_a_connection_that_is_closed_early_is_no_answer() -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"\0\x30half")
        writer.close()

    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        with pytest.raises(NotAnAnswer, match="closed the connection"):
            await ask(server.sockets[0].getsockname()[1], stream=True)


def test_the_agent_starts_without_the_library() -> None:
    script = "import agent.main, sys; print('agent.dns.upstream' in sys.modules, 'dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                          timeout=120).stdout.split() == ["True", "False"]
