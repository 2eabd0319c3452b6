"""One node's pod network in a process of its own, told what to do by lines of JSON. See tests/support/hosts.py."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from netplugin.network import NodeNetwork
from netplugin.overlay import Settings
from netplugin.protocol import HostPort, NetworkError, Peer, Sandbox


class Commands:
    """One method a command."""

    def __init__(self, network: NodeNetwork, group: asyncio.TaskGroup) -> None:
        self._network = network
        self._group = group
        self._running: asyncio.Task[None] | None = None

    async def setup(self, cidr: str) -> dict[str, Any]:
        await self._network.setup(cidr)
        announced = self._network.announcement()
        assert announced is not None
        return dataclasses.asdict(announced)

    async def follow(self, peers: list[dict[str, str]]) -> None:
        await self._network.follow([Peer(**peer) for peer in peers])

    async def attach(self, number: int, pid: int, ports: list[list[Any]]) -> dict[str, Any]:
        sandbox = Sandbox(f"{number:012x}" + "ab" * 26, pid, "default", f"pod-{number}", f"uid-{number}",
                          [HostPort(*port) for port in ports])
        return dataclasses.asdict(await self._network.attach(sandbox))

    async def detach(self, number: int) -> None:
        await self._network.detach(f"{number:012x}" + "ab" * 26)

    async def heal(self) -> None:
        await self._network.heal()

    async def watch(self) -> None:
        self._running = self._group.create_task(self._network.run())

    async def teardown(self) -> None:
        if self._running is not None:
            self._running.cancel()
        await self._network.teardown()


async def main(state_dir: str, node_ip: str, backend: str, cluster_cidr: str, offload: str) -> None:
    network = NodeNetwork(Path(state_dir), cluster_cidr=cluster_cidr,
                          overlay=Settings(IPv4Address(node_ip), backend, checksum_offload=bool(offload)))
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        commands = Commands(network, group)
        while line := await reader.readline():
            name, arguments = json.loads(line)
            try:
                answer = {"result": await getattr(commands, name)(**arguments)}
            except NetworkError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
        sys.exit(0)  # the other end went: so do we, whatever runs


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
