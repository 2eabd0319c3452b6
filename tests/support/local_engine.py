"""An engine whose containers are this host's own processes: real pipes and terminals for exec, without Docker."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Literal

from agent.engine.fake import FakeEngine
from agent.engine.protocol import Container, LogLine, NotFound
from agent.pods.labels import POD_UID

Output = tuple[Literal["stdout", "stderr"], bytes]


class LocalStream:
    """One process, with pipes or a terminal."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process
        self._queue: asyncio.Queue[Output | None] = asyncio.Queue(8)
        self._tasks: list[asyncio.Task[None]] = []
        self._master = -1

    @classmethod
    async def start(cls, command: Sequence[str], *, tty: bool, stdin: bool) -> LocalStream:
        stream = cls()
        if tty:
            stream._master, slave = pty.openpty()

            def session() -> None:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

            stream.process = await asyncio.create_subprocess_exec(
                *command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=session)
            os.close(slave)
            stream._tasks.append(asyncio.create_task(stream._read_terminal()))
            return stream
        stream.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True)
        stream._tasks.append(asyncio.create_task(stream._read_pipes()))
        return stream

    async def _read_terminal(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.run_in_executor(None, os.read, self._master, 4096)
            except OSError:
                data = b""
            if not data:
                break
            await self._queue.put(("stdout", data))
        await self._queue.put(None)

    async def _read_pipes(self) -> None:
        async def pump(name: Literal["stdout", "stderr"], reader: asyncio.StreamReader | None) -> None:
            assert reader is not None
            while data := await reader.read(65536):
                await self._queue.put((name, data))

        await asyncio.gather(pump("stdout", self.process.stdout), pump("stderr", self.process.stderr))
        await self._queue.put(None)

    async def output(self) -> AsyncIterator[Output]:
        while (item := await self._queue.get()) is not None:
            yield item

    async def write(self, data: bytes) -> None:
        if self._master >= 0:
            os.write(self._master, data)
        elif self.process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self.process.stdin.write(data)
                await self.process.stdin.drain()

    async def close_stdin(self) -> None:
        if self._master >= 0:
            os.write(self._master, b"\x04")
        elif self.process.stdin is not None:
            self.process.stdin.close()

    async def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def exit_code(self) -> int:
        return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


class LocalEngine(FakeEngine):
    """Containers are names; `lines` holds what each has logged, `attached` the command behind an attach."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, str] = {}
        """Containers with the uids of their pods."""
        self.lines: dict[str, list[bytes]] = {}
        self.attached: dict[str, list[str]] = {}
        self.streams: list[LocalStream] = []
        self.logged = asyncio.Event()

    def log(self, container: str, data: bytes) -> None:
        self.lines.setdefault(container, []).append(data)
        self.logged.set()

    async def inspect(self, container_id: str) -> Container:
        if container_id not in self.known:
            raise NotFound(f"No such container: {container_id}")
        return Container(container_id, container_id, "image", "sha256:0", {POD_UID: self.known[container_id]},
                         "running")

    async def exec(self, container_id: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False,
                   stdout: bool = True, stderr: bool = True) -> LocalStream:
        await self.inspect(container_id)
        stream = await LocalStream.start(command, tty=tty, stdin=stdin)
        self.streams.append(stream)
        return stream

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool = True, stderr: bool = True,
                     tty: bool = False) -> LocalStream:
        return await self.exec(container_id, self.attached[container_id], tty=tty, stdin=stdin)

    async def logs(self, container_id: str, *, follow: bool = False, since: datetime | None = None,
                   tail: int | None = None) -> AsyncIterator[LogLine]:
        lines = self.lines.setdefault(container_id, [])
        position = max(len(lines) - tail, 0) if tail is not None else 0
        while True:
            while position < len(lines):
                time = datetime(2026, 1, 1, 0, 0, position % 60, tzinfo=UTC)
                if since is None or time >= since:
                    yield LogLine("stdout", time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z"), lines[position])
                position += 1
            if not follow or lines[-1:] == [b"END\n"]:
                return
            self.logged.clear()
            await self.logged.wait()
