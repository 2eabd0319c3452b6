"""The engine, with each call counted and timed under the names of upstream's runtime operations."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from agent.engine.protocol import (
    Container,
    ContainerSpec,
    ContainerStats,
    Engine,
    EngineError,
    EngineEvent,
    EngineInfo,
    ExecResult,
    Image,
    Limits,
    LogLine,
    NotFound,
    Stream,
)
from agent.stats.metrics import AgentMetrics
from sampan.loop.clock import Clock


class MeasuredEngine:
    """Implements Engine by another one. What is not there is an answer, not a failure."""

    def __init__(self, engine: Engine, metrics: AgentMetrics, clock: Clock) -> None:
        self._engine = engine
        self._metrics = metrics
        self._clock = clock

    @contextlib.contextmanager
    def _measure(self, operation: str) -> Iterator[None]:
        began, failed = self._clock.monotonic(), False
        try:
            yield
        except EngineError as error:
            failed = not isinstance(error, NotFound)
            raise
        finally:
            self._metrics.operated(operation, self._clock.monotonic() - began, failed=failed)

    async def info(self) -> EngineInfo:
        """See Engine."""
        with self._measure("status"):
            return await self._engine.info()

    async def ping(self) -> None:
        """See Engine."""
        with self._measure("version"):
            await self._engine.ping()

    async def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Container]:
        """See Engine."""
        with self._measure("list_containers"):
            return await self._engine.list(labels)

    async def inspect(self, container_id: str) -> Container:
        """See Engine."""
        with self._measure("container_status"):
            return await self._engine.inspect(container_id)

    async def create(self, spec: ContainerSpec) -> str:
        """See Engine."""
        with self._measure("create_container"):
            return await self._engine.create(spec)

    async def start(self, container_id: str) -> None:
        """See Engine."""
        with self._measure("start_container"):
            await self._engine.start(container_id)

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """See Engine."""
        with self._measure("stop_container"):
            await self._engine.stop(container_id, grace_seconds)

    async def kill(self, container_id: str, signal: str = "SIGKILL") -> None:
        """See Engine."""
        with self._measure("kill_container"):
            await self._engine.kill(container_id, signal)

    async def remove(self, container_id: str) -> None:
        """See Engine."""
        with self._measure("remove_container"):
            await self._engine.remove(container_id)

    async def update(self, container_id: str, limits: Limits) -> None:
        """See Engine."""
        with self._measure("update_container_resources"):
            await self._engine.update(container_id, limits)

    def events(self, labels: Mapping[str, str], since: datetime | None = None) -> AsyncIterator[EngineEvent]:
        """See Engine; it never ends, and so is not timed."""
        return self._engine.events(labels, since)

    async def image(self, reference: str) -> Image | None:
        """See Engine."""
        with self._measure("image_status"):
            return await self._engine.image(reference)

    async def images(self) -> Sequence[Image]:
        """See Engine."""
        with self._measure("list_images"):
            return await self._engine.images()

    async def pull(self, reference: str, auth: Mapping[str, str] | None = None) -> Image:
        """See Engine."""
        began = self._clock.monotonic()
        with self._measure("pull_image"):
            image = await self._engine.pull(reference, auth)
        self._metrics.pulled(self._clock.monotonic() - began)
        return image

    async def load(self, archive: bytes | Path) -> None:
        """See Engine."""
        with self._measure("load_image"):
            await self._engine.load(archive)

    async def remove_image(self, image_id: str) -> None:
        """See Engine."""
        with self._measure("remove_image"):
            await self._engine.remove_image(image_id)

    async def exec(self, container_id: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False,
                   stdout: bool = True, stderr: bool = True) -> Stream:
        """See Engine; timed until the command has been started."""
        with self._measure("exec"):
            return await self._engine.exec(container_id, command, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """See Engine."""
        with self._measure("exec_sync"):
            return await self._engine.run(container_id, command, timeout)

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool = True, stderr: bool = True,
                     tty: bool = False) -> Stream:
        """See Engine."""
        with self._measure("attach"):
            return await self._engine.attach(container_id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)

    async def resize(self, container_id: str, width: int, height: int) -> None:
        """See Engine; not counted: it is part of a session."""
        await self._engine.resize(container_id, width, height)

    def logs(self, container_id: str, *, follow: bool = False, since: datetime | None = None,
             tail: int | None = None) -> AsyncIterator[LogLine]:
        """See Engine; it may go on for ever, and so is not timed."""
        return self._engine.logs(container_id, follow=follow, since=since, tail=tail)

    async def stats(self, container_id: str) -> ContainerStats:
        """See Engine."""
        with self._measure("container_stats"):
            return await self._engine.stats(container_id)

    async def close(self) -> None:
        """See Engine."""
        await self._engine.close()
