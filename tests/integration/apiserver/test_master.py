"""sampan-master as a process: it starts, is killed, comes back with everything, and stops in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMESPACES = "/api/v1/namespaces"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One master in a directory."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.notify = directory / "notify"
        self.messages: list[str] = []

    @asynccontextmanager
    async def running(self, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            self.notify.unlink(missing_ok=True)
            notified.bind(str(self.notify))
            notified.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "master.main", "--data-dir", str(self.directory / "data"), "--secure-port",
                str(self.port), "--node-port-grpc", "0", "--bind-address", "127.0.0.1", "--advertise-address",
                "127.0.0.1", *more, env={**os.environ, "NOTIFY_SOCKET": str(self.notify)},
                stderr=asyncio.subprocess.PIPE)
            try:
                async with asyncio.timeout(60):
                    assert await loop.sock_recv(notified, 100) == b"READY=1"
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.communicate()

    def session(self) -> aiohttp.ClientSession:
        pki = self.directory / "data/pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        return aiohttp.ClientSession(f"https://127.0.0.1:{self.port}", connector=aiohttp.TCPConnector(ssl=context))

    async def names(self, path: str) -> list[str]:
        async with self.session() as session, session.get(path) as response:
            return [item["metadata"]["name"] for item in (await response.json())["items"]]


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


async def test_killed_and_stopped(tmp_path: Path) -> None:
    master = Process(tmp_path, free_port())
    async with master.running() as process:
        async with master.session() as session:
            for name in ("a", "b"):
                async with session.post(NAMESPACES, json=named(name)) as response:
                    assert response.status == 201
            secret = named("s", stringData={"key": "a very secret word"})
            async with session.post(f"{NAMESPACES}/a/secrets", json=secret) as response:
                assert response.status == 201
        process.kill()
        await process.communicate()
    for file in (tmp_path / "data").glob("state.db*"):
        assert b"YSB2ZXJ5IHNlY3JldCB3b3Jk" not in file.read_bytes()  # sealed at rest
    async with master.running() as process:
        assert {"a", "b", "default", "kube-system"} <= set(await master.names(NAMESPACES))
        assert await master.names(f"{NAMESPACES}/a/secrets") == ["s"]
        async with master.session() as session, session.get(NAMESPACES + "?watch=1") as watch:
            assert watch.status == 200
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                _, errors = await process.communicate()
                while await watch.content.readany():
                    pass  # to its end: the watch is ended, not cut off
        assert process.returncode == 0
        assert b"Traceback" not in errors
        assert b"stopped" in errors


async def test_one_master_a_directory(tmp_path: Path) -> None:
    master = Process(tmp_path, free_port())
    async with master.running("--components", "apiserver"):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "master.main", "--data-dir", str(tmp_path / "data"), "--secure-port",
            str(free_port()), "--components", "apiserver", stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(60):
            _, errors = await second.communicate()
        assert second.returncode == 1
        assert b"state.db" in errors
        assert b"Traceback" not in errors


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--secure-port", "x"], 2, "secure-port: must be a port number"), (["--version"], 0, "sampan-master"),
    (["--help"], 0, "SAMPAN_MASTER_DATA_DIR"), (["--nonsense"], 2, "unrecognized arguments"),
])
async def test_the_command_line(arguments: list[str], code: int, words: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "master.main", *arguments,
                                                   stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    assert process.returncode == code
    assert words in output.decode()
