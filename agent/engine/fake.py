"""An engine in memory, for tests: it passes the same contract suite as Docker.

Its processes are pretended. The commands that it knows: `sleep N` and `pause` run until they are killed, `cat` gives
back its input, `echo words` writes and ends, `true`, `false`, and `sh -c "exit N"` end with that code; any other is
started and runs until it is killed, or until a test calls `exit`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from agent.engine.protocol import (
    Container,
    ContainerSpec,
    ContainerStats,
    EngineError,
    EngineEvent,
    EngineInfo,
    EngineTimeout,
    EngineUnavailable,
    ExecResult,
    Image,
    Limits,
    LogLine,
    NameConflict,
    NotFound,
    Stream,
)
from sampan.loop.clock import Clock, SystemClock

Output = tuple[Literal["stdout", "stderr"], bytes]


class Process:
    """A pretended process: what it wrote, what it is given, and how it ended."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.output: deque[Output] = deque()
        self.ended = asyncio.Event()
        self.code = 0
        self._news = asyncio.Event()
        self._run()

    def _run(self) -> None:
        name, *words = self.command or [""]
        if name == "echo":
            self.write(" ".join(words).encode() + b"\n")
            self.exit(0)
        elif name in ("true", "false"):
            self.exit(0 if name == "true" else 1)
        elif name == "sh" and words[:1] == ["-c"] and words[1].startswith("exit "):
            self.exit(int(words[1].removeprefix("exit ")))

    def write(self, data: bytes, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        """Output."""
        self.output.append((stream, data))
        self._news.set()

    def read(self, data: bytes) -> None:
        """Input."""
        if self.command[:1] == ["cat"] and not self.ended.is_set():
            self.write(data)

    def end_of_input(self) -> None:
        """Input is over."""
        if self.command[:1] == ["cat"]:
            self.exit(0)

    def exit(self, code: int) -> None:
        """It ends; a second end changes nothing."""
        if not self.ended.is_set():
            self.code = code
            self.ended.set()
            self._news.set()

    async def follow(self, start: int = 0) -> AsyncIterator[Output]:
        """Its output from entry `start` on, until it ends."""
        while True:
            self._news.clear()
            while start < len(self.output):
                yield self.output[start]
                start += 1
            if self.ended.is_set():
                return
            await self._news.wait()


class FakeStream:
    """A session with a pretended process."""

    def __init__(self, process: Process, start: int = 0) -> None:
        self._process, self._start = process, start
        self.sizes: list[tuple[int, int]] = []

    async def output(self) -> AsyncIterator[Output]:
        """Until the process ends."""
        async for piece in self._process.follow(self._start):
            yield piece

    async def write(self, data: bytes) -> None:
        """To the process."""
        self._process.read(data)

    async def close_stdin(self) -> None:
        """End of input."""
        self._process.end_of_input()

    async def resize(self, width: int, height: int) -> None:
        """Remembered in `sizes`."""
        self.sizes.append((width, height))

    async def exit_code(self) -> int:
        """Once it has ended."""
        await self._process.ended.wait()
        return self._process.code

    async def close(self) -> None:
        """Nothing to give up."""


class FakeEngine:
    """The engine. `calls` records what was asked; `fail` makes the next call of a kind fail.

    Containers in `held` cannot be removed: they become dead, as Docker leaves one whose files are busy. Those in `hung`
    are listed, but inspecting them takes too long.
    """

    def __init__(self, clock: Clock | None = None, images: Iterable[str] = ()) -> None:
        self._clock = clock or SystemClock()
        self._order = itertools.count(1)
        self._containers: dict[str, Container] = {}
        self._images: dict[str, Image] = {}
        self._failures: dict[str, deque[Exception]] = {}
        self._events: list[EngineEvent] = []
        self._news = asyncio.Condition()
        self._connection_lost = 0
        self._watchers: set[asyncio.Task[None]] = set()
        self.specs: dict[str, ContainerSpec] = {}
        self.processes: dict[str, Process] = {}
        self.registry: dict[str, Image] = {}
        self.calls: list[tuple[str, str]] = []
        self.limits: dict[str, Limits] = {}
        self.held: set[str] = set()
        self.hung: set[str] = set()
        for reference in images:
            self.add_image(reference)

    # -- what a test does to it

    def add_image(self, reference: str, *, user: str = "", entrypoint: Sequence[str] = (),
                  command: Sequence[str] = (), size: int = 1000, remote: bool = False) -> Image:
        """Have an image, locally or (`remote`) in the registry that `pull` reaches."""
        digest = "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
        image = Image(digest, (reference,), (), size, user, tuple(entrypoint), tuple(command))
        (self.registry if remote else self._images)[reference] = image
        return image

    def fail(self, call: str, error: Exception) -> None:
        """The next `call` (start, create, …) raises this."""
        self._failures.setdefault(call, deque()).append(error)

    def exit(self, container_id: str, code: int = 0) -> None:
        """The container's process ends by itself."""
        self.processes[self._find(container_id).id].exit(code)

    def disconnect(self) -> None:
        """The engine restarts: event streams end, processes live on (live-restore)."""
        self._connection_lost += 1
        self._wake()

    # -- the protocol

    async def info(self) -> EngineInfo:
        """A modern host."""
        self._asked("info")
        return EngineInfo("20.10.24", "1.41", "cgroupfs", 2, "/var/lib/docker", "Fake Linux", "6.1.0", "x86_64",
                          "overlay2", id="FAKE")

    async def ping(self) -> None:
        """It answers."""
        self._asked("ping")

    async def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Container]:
        """Those with the labels."""
        self._asked("list")
        return [Container(c.id, c.name, c.image, c.image_id, c.labels, c.status, inspected=False)
                if c.id in self.hung else c
                for c in self._containers.values() if _matches(c.labels, labels or {})]

    async def inspect(self, container_id: str) -> Container:
        """One."""
        self._asked("inspect", container_id)
        found = self._find(container_id)
        if found.id in self.hung:
            raise EngineTimeout(f"inspect {found.id}: no answer from the engine after 30 s")
        return found

    async def create(self, spec: ContainerSpec) -> str:
        """By the protocol's rules for names and images."""
        self._asked("create", spec.name)
        for other in self._containers.values():
            if other.name == spec.name:
                raise NameConflict(f'Conflict. The container name "/{spec.name}" is already in use by container '
                                   f'"{other.id}".', other.id)
        image = self._images.get(spec.image) or await self.image(spec.image)
        if image is None:
            raise NotFound(f"No such image: {spec.image}")
        container_id = hashlib.sha256(f"{next(self._order)}".encode()).hexdigest()
        self._containers[container_id] = Container(container_id, spec.name, spec.image, image.id, dict(spec.labels),
                                                   "created", created_at=self._clock.now(),
                                                   log_path=f"/fake/{container_id}-json.log")
        self.specs[container_id] = spec
        self.limits[container_id] = spec.limits
        self._tell("create", container_id)
        return container_id

    async def start(self, container_id: str) -> None:
        """Its process begins."""
        self._asked("start", container_id)
        container = self._find(container_id)
        if container.running:
            return
        spec = self.specs[container.id]
        image = self._images.get(spec.image) or Image("")
        command = [*(spec.command if spec.command is not None else image.entrypoint),
                   *(spec.args if spec.args is not None else () if spec.command is not None else image.command)]
        process = self.processes[container.id] = Process(command)
        self._containers[container.id] = replace(container, status="running", pid=1000 + next(self._order),
                                                 started_at=self._clock.now(), finished_at=None)
        self._tell("start", container.id)
        if process.ended.is_set():
            self._died(container.id, process)
        else:
            watcher = asyncio.get_running_loop().create_task(self._watch(container.id, process))
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """Pretended processes end at the first signal."""
        self._asked("stop", container_id)
        container = self._containers.get(container_id)
        if container is not None and container.running:
            self._died(container_id, self.processes[container_id], 143)

    async def kill(self, container_id: str, signal: str = "SIGKILL") -> None:
        """SIGKILL, SIGTERM and SIGINT end a process."""
        self._asked("kill", container_id)
        codes = {"SIGKILL": 137, "SIGTERM": 143, "SIGINT": 130}
        container = self._containers.get(container_id)
        if container is not None and container.running and signal in codes:
            self._died(container_id, self.processes[container_id], codes[signal])

    async def remove(self, container_id: str) -> None:
        """By force."""
        self._asked("remove", container_id)
        if container_id not in self._containers:
            return
        if self._containers[container_id].running:
            self._died(container_id, self.processes[container_id], 137)
        if container_id in self.held:
            self._containers[container_id] = replace(self._containers[container_id], status="dead")
            raise EngineError(f"container {container_id}: failed to remove root filesystem: device or resource busy")
        self._tell("destroy", container_id)
        del self._containers[container_id], self.specs[container_id]

    async def update(self, container_id: str, limits: Limits) -> None:
        """Remembered in `limits`."""
        self._asked("update", container_id)
        self.limits[self._find(container_id).id] = limits

    async def events(self, labels: Mapping[str, str], since: datetime | None = None) -> AsyncIterator[EngineEvent]:
        """From now or `since` on, until `disconnect`."""
        self._asked("events")
        position = 0 if since is not None else len(self._events)
        connection = self._connection_lost
        while True:
            while position < len(self._events):
                event = self._events[position]
                position += 1
                if _matches(event.labels, labels) and (since is None or event.time >= since):
                    yield event
            if connection != self._connection_lost:
                raise EngineUnavailable("the engine's event stream ended")
            async with self._news:
                while position == len(self._events) and connection == self._connection_lost:
                    await self._news.wait()

    async def image(self, reference: str) -> Image | None:
        """By name, with or without `:latest`, or by id."""
        self._asked("image", reference)
        names = (reference, f"{reference}:latest")
        return next((image for name, image in self._images.items() if name in names or image.id == reference), None)

    async def images(self) -> Sequence[Image]:
        """All."""
        self._asked("images")
        return list(self._images.values())

    async def pull(self, reference: str, auth: Mapping[str, str] | None = None) -> Image:
        """From `registry`."""
        self._asked("pull", reference)
        if reference not in self.registry:
            raise NotFound(f"manifest for {reference} not found: manifest unknown: manifest unknown")
        self._images[reference] = self.registry[reference]
        return self._images[reference]

    async def load(self, archive: bytes | Path) -> None:
        """The archive's content becomes the image's name: enough to see that it came."""
        self._asked("load", "" if isinstance(archive, bytes) else archive.name)
        content = archive if isinstance(archive, bytes) else archive.read_bytes()  # noqa: ASYNC240 - a test's small file
        self.add_image(f"loaded:{hashlib.sha256(content).hexdigest()[:12]}")

    async def remove_image(self, image_id: str) -> None:
        """By id or name."""
        self._asked("remove_image", image_id)
        found = await self.image(image_id)
        if found is not None and any(c.image_id == found.id for c in self._containers.values()):
            raise EngineError(f"conflict: unable to delete {image_id}: image is being used by a container")
        self._images = {name: image for name, image in self._images.items() if image != found}

    async def exec(self, container_id: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False,
                   stdout: bool = True, stderr: bool = True) -> Stream:
        """A pretended process in a running container."""
        self._asked("exec", container_id)
        if not self._find(container_id).running:
            raise EngineError(f"Container {container_id} is not running")
        return FakeStream(Process(command))

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """As exec, to the end."""
        stream = await self.exec(container_id, command)
        try:
            async with asyncio.timeout(timeout):
                output = b"".join([data async for _, data in stream.output()])
                return ExecResult(await stream.exit_code(), output)
        except TimeoutError as error:
            raise EngineTimeout(f"command {command[0]!r} timed out after {timeout:g} s") from error

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool = True, stderr: bool = True,
                     tty: bool = False) -> Stream:
        """To the container's process, from now on."""
        self._asked("attach", container_id)
        process = self.processes[self._find(container_id).id]
        return FakeStream(process, len(process.output))

    async def resize(self, container_id: str, width: int, height: int) -> None:
        """Accepted."""
        self._asked("resize", container_id)

    async def logs(self, container_id: str, *, follow: bool = False, since: datetime | None = None,
                   tail: int | None = None) -> AsyncIterator[LogLine]:
        """Every line has the time at which it is read."""
        self._asked("logs", container_id)
        process = self.processes.get(self._find(container_id).id)
        if process is None:
            return
        start = 0 if tail is None else max(0, len(process.output) - tail)
        if follow:
            async for stream, data in process.follow(start):
                yield LogLine(stream, self._stamp(), data)
            return
        for stream, data in tuple(process.output)[start:]:
            yield LogLine(stream, self._stamp(), data)

    async def stats(self, container_id: str) -> ContainerStats:
        """Always the same for one that runs."""
        self._asked("stats", container_id)
        return ContainerStats(1_000_000, 2_000_000, 1_500_000) if self._find(container_id).running else \
            ContainerStats(0, 0, 0)

    async def close(self) -> None:
        """End what watches the pretended processes."""
        for watcher in tuple(self._watchers):
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    # -- inside

    def _asked(self, call: str, what: str = "") -> None:
        self.calls.append((call, what))
        if self._failures.get(call):
            raise self._failures[call].popleft()

    def _find(self, container_id: str) -> Container:
        for container in self._containers.values():
            if container.id == container_id or container.name == container_id:
                return container
        raise NotFound(f"No such container: {container_id}")

    async def _watch(self, container_id: str, process: Process) -> None:
        await process.ended.wait()
        self._died(container_id, process)

    def _died(self, container_id: str, process: Process, code: int | None = None) -> None:
        if code is not None:
            process.exit(code)
        container = self._containers.get(container_id)
        if container is None or not container.running or self.processes[container_id] is not process:
            return
        self._containers[container_id] = replace(container, status="exited", pid=0, exit_code=process.code,
                                                 finished_at=self._clock.now())
        self._tell("die", container_id)

    def _tell(self, action: str, container_id: str) -> None:
        labels = self._containers[container_id].labels
        if action == "die":
            labels = {**labels, "exitCode": str(self._containers[container_id].exit_code)}
        self._events.append(EngineEvent(action, container_id, labels, self._clock.now()))
        self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._news:
                self._news.notify_all()
        waker = asyncio.get_running_loop().create_task(notify())
        self._watchers.add(waker)
        waker.add_done_callback(self._watchers.discard)

    def _stamp(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(name in labels and value in ("", labels[name]) for name, value in wanted.items())
