"""The sockets: UDP and TCP on loopback, the node's address, and a restart in between."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import dns.asyncquery
import dns.message
import pytest

from agent.dns.messages import Question
from agent.dns.service import TCP, UDP, DnsService
from agent.dns.upstream import Server
from agent.pods.dns import Resolver as HostResolver
from sampan.api import resources
from sampan.loop.clock import SystemClock
from sampan.loop.kept import KeptSockets
from sampan.loop.notify import Notifier
from tests.support.dns import FakeExchange, cluster, endpoints, node, service, upstream_answer, values
from tests.support.pods import FakeView

NAME = "web.default.svc.cluster.local"
ADDRESS = "127.7.0.1"


class Store:
    """What systemd does with the descriptors that it is handed."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)
        self.kept: dict[str, int] = {}

    def receive(self) -> None:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._socket, 1024, 8)
            except BlockingIOError:
                return
            fields = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTOREREMOVE" in fields and fields["FDNAME"] in self.kept:
                os.close(self.kept.pop(fields["FDNAME"]))
            for descriptor in descriptors:
                self.kept[fields["FDNAME"]] = descriptor

    def environment(self) -> tuple[dict[str, str], int]:
        """What the next start is given: numbers in a row, from the second value on."""
        self.receive()
        first = 950
        for index, descriptor in enumerate(self.kept.values()):
            os.dup2(descriptor, first + index)
        return {"LISTEN_FDS": str(len(self.kept)), "LISTEN_FDNAMES": ":".join(self.kept)}, first

    def close(self) -> None:
        self.receive()
        for descriptor in self.kept.values():
            os.close(descriptor)
        self._socket.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


@contextmanager
def free_port() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind((ADDRESS, 0))
        port = udp.getsockname()[1]
        tcp.bind((ADDRESS, port))
        tcp.close()
        udp.close()
        yield port


def view() -> FakeView:
    made = cluster()
    made.put(resources.NODES, node("me", "127.7.0.0/24"))
    made.confirm()
    return made


@asynccontextmanager
async def running(port: int, store: Store, exchange: FakeExchange | None = None,
                  seen: FakeView | None = None,
                  warn: Callable[[str, str], None] = lambda _reason, _message: None) -> AsyncIterator[DnsService]:
    """The service as the agent runs it; left at the end as at a restart."""
    environ, first = store.environment()
    kept = KeptSockets(Notifier({"NOTIFY_SOCKET": store.address}), environ, first)
    service = DnsService("me", seen or view(), lambda: HostResolver(["192.0.2.1"]), kept, SystemClock(), port=port,
                         exchange=exchange or FakeExchange(), warn=warn)
    task = asyncio.ensure_future(service.run())
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.receive()


async def ask(port: int, name: str = NAME, kind: str = "A", address: str = ADDRESS) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    return await dns.asyncquery.udp(query, address, timeout=60, port=port)


async def listening(port: int, address: str = ADDRESS) -> None:
    """Returns when it answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                await dns.asyncquery.tcp(dns.message.make_query(NAME, "A"), address, timeout=60, port=port)
                return
            except (OSError, EOFError):  # EOFError: given up as idle, where we were slow to ask
                await asyncio.sleep(0.01)


async def test_udp_and_tcp(store: Store) -> None:
    with free_port() as port:
        async with running(port, store):
            await listening(port)
            assert values(await ask(port)) == [f"{NAME} A 10.96.7.7"]
            reader, writer = await asyncio.open_connection(ADDRESS, port)
            for number in range(3):  # several messages over one connection, one in two parts
                wire = dns.message.make_query(NAME, "A", id=number).to_wire()
                writer.write(len(wire).to_bytes(2, "big") + wire[:10])
                await writer.drain()
                writer.write(wire[10:])
                size = int.from_bytes(await reader.readexactly(2), "big")
                assert dns.message.from_wire(await reader.readexactly(size)).id == number
            writer.close()


def framed(number: int, name: str = NAME) -> bytes:
    wire = dns.message.make_query(name, "A", id=number).to_wire()
    return len(wire).to_bytes(2, "big") + wire


async def received(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(60):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


async def test_over_tcp_a_slow_answer_holds_up_no_other_and_the_last_ones_come_after_a_half_close(store: Store) -> None:
    told = asyncio.Event()

    class Slow(FakeExchange):
        async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                      stream: bool) -> dns.message.Message:
            await told.wait()
            return upstream_answer(question, "A 198.51.100.7")

    with free_port() as port:
        async with running(port, store, Slow()):
            await listening(port)
            reader, writer = await asyncio.open_connection(ADDRESS, port)
            writer.write(b"".join([framed(0, "www.example.com"), *(framed(number) for number in range(1, 60))]))
            writer.write_eof()
            assert {(await received(reader)).id for _ in range(59)} == set(range(1, 60))
            told.set()
            last = await received(reader)
            assert (last.id, values(last)) == (0, ["www.example.com A 198.51.100.7"])
            assert await reader.read() == b""
            writer.close()


async def test_a_client_over_tcp_that_reads_no_answers_is_given_up(store: Store,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.dns.server.IDLE", 0.2)
    seen = view()
    seen.put(resources.SERVICES, service("many", "None"))
    seen.put(resources.ENDPOINTSLICES, endpoints("many", *({"ip": f"10.{n >> 8}.{n & 255}.1"} for n in range(4000))))
    with free_port() as port:
        async with running(port, store, seen=seen):
            await listening(port)
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, (ADDRESS, port))

                async def ask_on() -> None:
                    while True:
                        await loop.sock_sendall(client, framed(1, "many.default.svc.cluster.local"))
                        await asyncio.sleep(0.001)

                with pytest.raises(ConnectionError):
                    await asyncio.wait_for(ask_on(), 60)
            await listening(port)


async def test_garbage_does_not_stop_it(store: Store) -> None:
    with free_port() as port:
        async with running(port, store):
            await listening(port)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for data in (b"", b"\0", os.urandom(11), os.urandom(600), b"\xff" * 60):
                    sock.sendto(data, (ADDRESS, port))
            for data in (b"\0", b"\0\5abc", b"\0\0", b"\xff\xff" + os.urandom(200), b"\0\x0c" + bytes(12)):
                _, writer = await asyncio.open_connection(ADDRESS, port)
                writer.write(data)
                await writer.drain()
                writer.close()
            assert values(await ask(port))
            await listening(port)


async def test_what_comes_during_a_restart_is_answered_after_it(store: Store) -> None:
    with free_port() as port:
        async with running(port, store):
            await listening(port)
        assert set(store.kept) == {UDP, TCP}
        waiting = [asyncio.ensure_future(ask(port)) for _ in range(200)]
        connection = await asyncio.open_connection(ADDRESS, port)
        wire = dns.message.make_query(NAME, "A").to_wire()
        connection[1].write(len(wire).to_bytes(2, "big") + wire)
        await asyncio.sleep(0)
        async with running(port, store):
            for answer in await asyncio.gather(*waiting):
                assert values(answer) == [f"{NAME} A 10.96.7.7"]
            assert await connection[0].readexactly(2)
        connection[1].close()


async def test_what_was_asked_upstream_is_still_answered_at_the_end(store: Store) -> None:
    going = asyncio.Event()

    class Slow(FakeExchange):
        async def ask(self, server: Server, question: Question, wire: bytes, number: int, *,
                      stream: bool) -> dns.message.Message:
            going.set()
            await asyncio.sleep(0.1)
            return upstream_answer(question, "A 198.51.100.7")

    with free_port() as port:
        async with running(port, store, Slow()):
            await listening(port)
            asked = asyncio.ensure_future(ask(port, "www.example.com"))
            async with asyncio.timeout(60):
                await going.wait()
        assert values(await asked) == ["www.example.com A 198.51.100.7"]


async def test_it_follows_the_nodes_address(store: Store) -> None:
    seen = view()
    with free_port() as port:
        async with running(port, store, seen=seen):
            await listening(port)
            seen.put(resources.NODES, node("me", "127.8.0.0/24"))
            await listening(port, "127.8.0.1")
            assert values(await ask(port, address="127.8.0.1"))
            store.receive()
            with socket.socket(fileno=os.dup(store.kept[UDP])) as kept:
                assert kept.getsockname() == ("127.8.0.1", port)
            with pytest.raises(ConnectionRefusedError):
                await dns.asyncquery.tcp(dns.message.make_query(NAME, "A"), ADDRESS, timeout=60, port=port)


async def test_a_kept_socket_of_another_address_is_given_up(store: Store) -> None:
    seen = view()
    with free_port() as port:
        async with running(port, store):
            await listening(port)
        seen.put(resources.NODES, node("me", "127.8.0.0/24"))
        async with running(port, store, seen=seen):
            await listening(port, "127.8.0.1")
            store.receive()
            with pytest.raises(ConnectionRefusedError):
                await dns.asyncquery.tcp(dns.message.make_query(NAME, "A"), ADDRESS, timeout=60, port=port)


async def test_an_address_that_another_server_has_is_tried_again(store: Store,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    """It is told by an event, once for all of the tries."""
    warnings: list[tuple[str, str]] = []
    with free_port() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((ADDRESS, port))
        async with running(port, store, warn=lambda *told: warnings.append(told)):
            async with asyncio.timeout(60):
                while caplog.text.count("cannot listen") < 2:
                    await asyncio.sleep(0.01)
            other.close()
            await listening(port)
    assert warnings == [("FailedToStartClusterDNS", (
        f"cluster DNS cannot listen on {ADDRESS}:{port}: Address already in use; a DNS server of this host that "
        "listens on every address must be told to listen on its own only"))]
