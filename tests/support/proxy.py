"""One node's proxy with a test for its master, and programs that ask and answer in network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from agent.link.view import View
from agent.proxy.chains import NodeFacts
from agent.proxy.health import ProxyHealth
from agent.proxy.observer import Figures
from agent.proxy.proxier import Proxier
from netplugin.host import HostFlows, HostTables
from netplugin.network import NodeNetwork
from sampan.loop.clock import SystemClock
from tests.support.services import NODE

NODE_IP, NEIGHBOUR_IP = "192.0.2.1", "192.0.2.2"


@dataclass(frozen=True)
class Pod:
    """A network namespace with an address and servers that say who they are and who asks."""

    pid: int
    ip: str


class Node:
    """The proxy of this node, and short ways to use it."""

    def __init__(self, tables: HostTables, network: NodeNetwork) -> None:
        self.view = View()
        self.tables = tables
        self.network = network
        self.figures = Figures()
        self.health = ProxyHealth(SystemClock(), "127.0.0.1:0")
        self.proxier = self.new()
        self._tasks: list[asyncio.Task[None]] = []

    def new(self) -> Proxier:
        """A proxy as a restarted agent makes it."""
        facts = NodeFacts(NODE, NODE_IP, "10.244.0.0/16")
        self.proxier = Proxier(self.view, self.tables, HostFlows(), facts, SystemClock(), health=self.health,
                               observer=self.figures)
        return self.proxier

    def start(self) -> None:
        """Run the proxy."""
        self._tasks = [asyncio.create_task(self.proxier.run()), asyncio.create_task(self.health.run())]

    async def stop(self) -> None:
        """As a killed agent: nothing is put in order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def synced(self) -> None:
        """Wait until the kernel has what the view says."""
        self.proxier.synced.clear()
        async with asyncio.timeout(60):
            await self.proxier.synced.wait()
            while self.proxier._dirty or not self.proxier._adopted:
                self.proxier.synced.clear()
                await self.proxier.synced.wait()


@contextlib.asynccontextmanager
async def serving(pid: int, name: str, port: int = 8080) -> AsyncIterator[None]:
    """Servers in a namespace that answer with their name and the client's address, as JSON."""
    process = await program(pid, _SERVER, name, str(port), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.wait()


async def program(pid: int | None, text: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
    """Run a Python program in a namespace."""
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
    return await asyncio.create_subprocess_exec(*enter, sys.executable, "-ISc", text, *arguments, **options)


async def ask(pid: int | None, address: str, port: int = 80, *, count: int = 1, protocol: str = "tcp",
              source_port: int = 0) -> list[tuple[str, str]]:
    """Connect so many times, from a namespace or the node; who answered, and as whom it saw us.

    "refused", "timeout" or another error stands for who did not.
    """
    process = await program(pid, _CLIENT, address, str(port), str(count), protocol, str(source_port),
                            stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(100):
        output, _ = await process.communicate()
    assert process.returncode == 0, output
    return [tuple(item) for item in json.loads(output)]


def has_sctp() -> bool:
    """Whether the kernel has SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


_SERVER = """
import json, selectors, socket, sys
name, port = sys.argv[1], int(sys.argv[2])
chosen = selectors.DefaultSelector()
for kind, protocol in ((socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 0), (socket.SOCK_STREAM, 132)):
    try:
        listening = socket.socket(socket.AF_INET, kind, protocol)
    except OSError:
        continue
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        listening.listen(128)
    chosen.register(listening, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        sock = key.fileobj
        if sock.type == socket.SOCK_DGRAM:
            data, peer = sock.recvfrom(100)
            sock.sendto(json.dumps([name, peer[0]]).encode(), peer)
        elif key.data == "connection":
            data = sock.recv(100)
            if data:
                sock.sendall(json.dumps([name, sock.getpeername()[0]]).encode())
            else:
                chosen.unregister(sock)
                sock.close()
        else:
            chosen.register(sock.accept()[0], selectors.EVENT_READ, "connection")
"""
"""Says name and client at every piece of data that comes."""

_CLIENT = """
import json, socket, sys
address, port, count, protocol, source = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
answers = []
for _ in range(count):
    with socket.socket(socket.AF_INET, kind, 132 if protocol == "sctp" else 0) as sock:
        sock.settimeout(3)
        try:
            if source:
                sock.bind(("0.0.0.0", source))
            sock.connect((address, port))
            sock.sendall(b"?")
            answers.append(json.loads(sock.recv(1000)))
        except ConnectionRefusedError:
            answers.append(["refused", ""])
        except TimeoutError:
            answers.append(["timeout", ""])
        except OSError as error:
            answers.append([str(error), ""])
print(json.dumps(answers))
"""
