"""A Docker that never answers what is asked of one container: a relay before the real one's socket holds that back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.engine.docker import DockerEngine
from agent.engine.protocol import ContainerSpec, EngineTimeout
from tests.support.engine import IMAGE, EngineHandle

pytestmark = pytest.mark.docker


class Relay:
    """Passes on what clients and the engine say to each other, but no request that names `hung`."""

    def __init__(self, engine_socket: str) -> None:
        self._engine_socket = engine_socket
        self.hung = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine_socket)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(engine_reader, writer))
                await self._pass_on(reader, engine_writer, held=True)
        finally:
            engine_writer.close()
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool = False) -> None:
        while data := await reader.read(65536):
            if not (held and self.hung and self.hung in data):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def relay(docker_engine: EngineHandle, tmp_path: Path) -> AsyncIterator[Relay]:
    made = Relay(docker_engine.docker_host.removeprefix("unix://"))
    server = await asyncio.start_unix_server(made.serve, tmp_path / "relay.sock")
    yield made
    server.close()


async def test_the_others_are_seen(relay: Relay, docker_engine: EngineHandle, tmp_path: Path) -> None:
    mark = os.urandom(4).hex()
    direct = DockerEngine(docker_engine.docker_host)
    engine = DockerEngine(f"unix://{tmp_path}/relay.sock", timeout=3.0)
    try:
        hung, other = [await direct.create(ContainerSpec(f"hung-{mark}-{name}", IMAGE, command=("sleep", "1000"),
                                                         labels={"test": mark, "name": name}))
                       for name in ("hung", "other")]
        await direct.start(hung)
        assert all(box.inspected for box in await engine.list({"test": mark}))
        relay.hung = hung.encode()
        with pytest.raises(EngineTimeout):
            await engine.inspect(hung)
        found = {box.id: box for box in await engine.list({"test": mark})}
        assert found[other] == await direct.inspect(other)
        assert not found[hung].inspected
        whole = await direct.inspect(hung)
        for known in ("name", "image", "image_id", "labels", "status"):
            assert getattr(found[hung], known) == getattr(whole, known), known
    finally:
        for box in await direct.list({"test": mark}):
            await direct.remove(box.id)
        await engine.close()
        await direct.close()
