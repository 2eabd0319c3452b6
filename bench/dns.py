"""How many names an agent's DNS answers a second, beside a bare asyncio UDP echo in the same run.

    python bench/dns.py [--services 1000] [--seconds 3]

Each server runs in a process of its own, on uvloop as the agent does; clients keep a number of questions under way, as
many as fit the socket. CPU is the server's own, by its process's times: it says what an answer costs even where other
work shares the machine. The same question again is answered from the encoded answers; "every one new" is asked with
letters in changing case, which makes each message another one; "forwarded" are names that a server upstream knows.
The aim counts for all of them, by the time of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# In place of this folder, in which this file would be found in place of the library of its name.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dns.message
import uvloop

from agent.dns.service import DnsService
from agent.pods.dns import Resolver as HostResolver
from sampan.api import resources
from sampan.loop.clock import SystemClock
from sampan.loop.kept import KeptSockets
from sampan.loop.notify import Notifier
from tests.support import dns as world
from tests.support.pods import FakeView

ADDRESS = "127.9.0.1"
WINDOW = 32
AIM = 5000
Main = Callable[[], Coroutine[Any, Any, None]]


def cluster(services: int) -> FakeView:
    """A view with so many Services, every tenth headless with five endpoints."""
    view = FakeView()
    view.put(resources.NODES, world.node("me", "127.9.0.0/24"))
    for number in range(services):
        headless = number % 10 == 0
        name, ip = f"service-{number}", f"10.100.{number // 250}.{number % 250 + 1}"
        ports = [{"name": "http", "port": 80}]
        view.put(resources.SERVICES, world.service(name, "None" if headless else ip, ports=ports))
        if headless:
            view.put(resources.ENDPOINTSLICES, world.endpoints(
                name, *({"ip": f"10.244.{number % 250}.{host}", "hostname": f"h{host}"} for host in range(2, 7)),
                ports=ports))
    view.confirm()
    return view


class Upstream(world.FakeExchange):
    """Answers at once: what is measured is the agent's part."""

    def __init__(self) -> None:
        super().__init__(lambda question, _stream: world.upstream_answer(question, "A 198.51.100.1", ttl=60))


def agent_dns(services: int, port: int) -> Main:
    """The agent's part, on one port."""

    async def main() -> None:
        await DnsService("me", cluster(services), lambda: HostResolver(["192.0.2.1"]), KeptSockets(Notifier({}), {}),
                         SystemClock(), port=port, exchange=Upstream()).run()

    return main


class Echo(asyncio.DatagramProtocol):
    """The floor: what comes goes back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Called by the loop."""
        self.transport.sendto(data, addr)


def echo(port: int) -> Main:
    """A bare echo."""

    async def main() -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(Echo, (ADDRESS, port))
        await asyncio.Event().wait()

    return main


def serve(make: Callable[[], Main], pipe: Connection) -> None:
    """The server's process: runs until it is ended, and tells its CPU seconds whenever it is asked."""

    async def run() -> None:
        def asked() -> None:
            pipe.recv()
            pipe.send((time.process_time(), resident()))

        asyncio.get_running_loop().add_reader(pipe.fileno(), asked)
        await make()()

    uvloop.run(run())


def resident() -> float:
    """Memory of the process that asks, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def questions(names: Sequence[str], kind: str = "A", *, changing: bool = False) -> list[bytes]:
    """Messages without their ids."""
    made = []
    for name in names:
        text = "".join(random.choice((letter, letter.upper())) for letter in name) if changing else name
        made.append(dns.message.make_query(text, kind).to_wire()[2:])
    return made


def load(port: int, messages: Sequence[bytes], seconds: float) -> float:
    """Answers a second; asks again what got lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((ADDRESS, port))
        sock.setblocking(False)
        answered = sent = 0
        begun = time.perf_counter()
        while (now := time.perf_counter()) - begun < seconds:
            while sent - answered < WINDOW:
                sock.send((sent & 0xFFFF).to_bytes(2, "big") + messages[sent % len(messages)])
                sent += 1
            if not select.select([sock], [], [], 0.5)[0]:
                sent = answered  # what is under way is lost
            while True:
                try:
                    sock.recv(4096)
                except BlockingIOError:
                    break
                answered += 1
        return answered / (now - begun)


def wait(port: int, message: bytes) -> None:
    """Until the server answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect((ADDRESS, port))
        while True:
            try:
                sock.send(b"\0\0" + message)
                sock.recv(4096)
                return
            except OSError:
                time.sleep(0.05)


def measure(title: str, make: Callable[[], Main], port: int, messages: Sequence[bytes], seconds: float) -> float:
    """One server under one load; prints a line, returns answers per second of its core."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(make, there), daemon=True)
    process.start()
    there.close()
    wait(port, messages[0])
    here.send(None)
    before, _ = here.recv()
    rate = load(port, messages, seconds)
    here.send(None)
    after, memory = here.recv()
    cost = (after - before) / (rate * seconds)
    print(f"{title:44} {rate:8.0f} answers/s {cost * 1e6:6.1f} us CPU each: {1 / cost:7.0f}/s a core {memory:5.1f} MB",
          flush=True)
    process.terminate()
    process.join()
    return 1 / cost


def main() -> int:
    """Floor, then the agent's DNS under several loads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--port", type=int, default=15353)
    arguments = parser.parse_args()
    port, seconds, count = arguments.port, arguments.seconds, arguments.services
    names = [f"service-{number}.default.svc.cluster.local" for number in range(count)]
    few = questions(names[:100])
    floor = measure("floor: a bare UDP echo", lambda: echo(port), port, few, seconds)

    def under(title: str, messages: Sequence[bytes]) -> float:
        return measure(title, lambda: agent_dns(count, port), port, messages, seconds)

    again = under(f"100 of {count} Services' names again and again", few)
    ports = [f"_http._tcp.{name}" for name in names[::10]]
    outside = [f"host-{number}.example.com" for number in range(50)]
    slowest = min(
        under("every one new: letters in changing case", questions(names * 20, changing=True)),
        under("every one new: ports of headless Services", questions(ports * 200, "SRV", changing=True)),
        under("every one new: no such name (search path)",
              questions([f"www.example.com.{name}" for name in names] * 20, changing=True)),
        under("every one new: forwarded, in the cache", questions(outside * 400, changing=True)),
        under("forwarded, in the cache, again and again", questions(outside)))
    print(f"aim: at least {AIM} answers/s a core; measured {slowest:.0f}, and {again / floor:.2f} of the floor for the "
          "same again")
    return 0 if slowest >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
