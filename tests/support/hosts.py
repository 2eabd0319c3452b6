"""Hosts made of network namespaces: a switch, and nodes on it whose pod networks run in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.netns import ip, process_with_network, reaches, run

TIMEOUT = 60.0
BACKEND_MTU = 1500


class Refused(Exception):
    """The network's own error."""


@dataclass
class Host:
    """A node on the switch. `pid`: a process in its namespace."""

    number: int
    pid: int
    switch: int
    arguments: list[str]
    process: asyncio.subprocess.Process
    peer: dict[str, str]

    @property
    def address(self) -> str:
        return f"192.0.2.{self.number}"

    @property
    def cidr(self) -> str:
        return f"10.42.{self.number}.0/24"

    async def call(self, command: str, **arguments: Any) -> Any:
        """Have the node's network do something; Refused with its error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        async with asyncio.timeout(TIMEOUT):
            answer = json.loads(await self.process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    async def pod(self, number: int, pid: int, *ports: list[Any]) -> str:
        """Attach a namespace as a pod; its IP."""
        return str((await self.call("attach", number=number, pid=pid, ports=list(ports)))["ip"])

    @contextlib.asynccontextmanager
    async def restarted(self, backend: str) -> AsyncIterator[Host]:
        """The same node after its network's process has ended, configured for that backend."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()
        arguments = [*self.arguments[:2], backend, *self.arguments[3:]]
        async with _network_process(self.pid, arguments) as process:
            yield replace(self, process=process, arguments=arguments)

    def ip(self, command: str) -> str:
        return ip(command, self.pid)

    def run(self, *command: str) -> str:
        return run(command, self.pid)

    async def reaches(self, address: str) -> bool:
        return await asyncio.to_thread(reaches, self.pid, address)


@contextlib.asynccontextmanager
async def hosts(count: int, state_dir: Path, *, backend: str = "vxlan", cluster_cidr: str = "",
                introduced: bool = True, offload: bool = False) -> AsyncIterator[list[Host]]:
    """That many nodes, set up; `introduced`: each follows the others."""
    async with contextlib.AsyncExitStack() as stack:
        switch = stack.enter_context(process_with_network())
        ip("link add br0 type bridge", switch)
        ip("link set br0 up", switch)
        made = []
        for number in range(1, count + 1):
            pid = stack.enter_context(process_with_network())
            plug_in(switch, number, pid)
            arguments = [str(state_dir / f"node-{number}"), f"192.0.2.{number}", backend, cluster_cidr,
                         "offload" if offload else ""]
            process = await stack.enter_async_context(_network_process(pid, arguments))
            host = Host(number, pid, switch, arguments, process, {})
            host.peer = await host.call("setup", cidr=host.cidr)
            host.peer["name"] = f"node-{number}"
            made.append(host)
        if introduced:
            await introduce(made)
        yield made


def plug_in(switch: int, number: int, pid: int) -> None:
    """Give a namespace a link to the switch, and the address of that number."""
    ip(f"link add port{number} type veth peer name up0 netns {pid}", switch)
    ip(f"link set port{number} master br0 up", switch)
    ip("link set lo up", pid)
    ip(f"addr add 192.0.2.{number}/24 dev up0", pid)
    ip(f"link set up0 up mtu {BACKEND_MTU}", pid)


async def introduce(made: Iterable[Host]) -> None:
    """Have each follow all others."""
    made = list(made)
    await asyncio.gather(*(host.call("follow", peers=[other.peer for other in made if other is not host])
                           for host in made))


@contextlib.asynccontextmanager
async def _network_process(pid: int, arguments: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-m", "tests.support.netnode", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(60):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
