"""The Engine protocol: what the agent asks of Docker.

Every call has a timeout of its own inside the adapter. Containers are found by label, never by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


class EngineError(Exception):
    """The engine refused or failed; the message is Docker's own."""


class EngineUnavailable(EngineError):
    """The engine does not answer; nothing is known of what it did."""


class EngineTimeout(EngineUnavailable):
    """The call took too long; it may still happen."""


class NotFound(EngineError):
    """No such container, image or exec."""


class NameConflict(EngineError):
    """A container of that name is there; `holder` is its id."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What `docker info` and `docker version` say."""

    version: str
    api_version: str
    cgroup_driver: Literal["cgroupfs", "systemd"]
    cgroup_version: Literal[1, 2]
    root_dir: str
    operating_system: str
    kernel_version: str
    architecture: str
    storage_driver: str
    default_runtime: str = "runc"
    live_restore: bool = False
    id: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount. `propagation` is Docker's word: "", rslave, rshared."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Cgroup limits of one container. Memory in bytes, 0 for none; CPU quota in microseconds per `cpu_period`."""

    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 100_000
    memory: int = 0
    pids: int = 0
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be created. `command` replaces the image's entrypoint, `args` its command, None keeps them."""

    name: str
    image: str
    command: Sequence[str] | None = None
    args: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    working_dir: str = ""
    user: str = ""
    groups: Sequence[int] = ()
    hostname: str = ""
    network_mode: str = "none"
    ipc_mode: str = ""
    pid_mode: str = ""
    uts_mode: str = ""
    cgroup_parent: str = ""
    limits: Limits = field(default_factory=Limits)
    shm_size: int = 0
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    privileged: bool = False
    read_only_root: bool = False
    capabilities_add: Sequence[str] = ()
    capabilities_drop: Sequence[str] = ()
    security_options: Sequence[str] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    log_max_size: str = "10m"
    log_max_files: int = 5


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine sees it now. `pid` is 0 unless it runs; instants are UTC, None where not yet.

    Without `inspected` only id, name, image, labels and status are known: it was listed, but could not be inspected.
    """

    id: str
    name: str
    image: str
    image_id: str
    labels: Mapping[str, str]
    status: Status
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    log_path: str = ""
    inspected: bool = True

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.status in ("running", "paused", "restarting")

    @property
    def gone(self) -> bool:
        """Whether the engine is already taking it away. Not so a dead one: its removal failed and is to be repeated."""
        return self.status == "removing"


@dataclass(frozen=True, slots=True)
class Image:
    """A local image. `id` is sha256:…, `user` the image's USER, `size` in bytes."""

    id: str
    tags: Sequence[str] = ()
    digests: Sequence[str] = ()
    size: int = 0
    user: str = ""
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something happened to a container: `action` is Docker's (create, start, die, oom, destroy, …)."""

    action: str
    container_id: str
    labels: Mapping[str, str]
    time: datetime


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """Use of one container: CPU nanoseconds since start, memory bytes (total and without inactive file cache)."""

    cpu_nanoseconds: int
    memory_bytes: int
    working_set_bytes: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, or part of one, of a container's output; `time` is when it was read (RFC 3339, nanoseconds)."""

    stream: Literal["stdout", "stderr"]
    time: str
    data: bytes


class Stream(Protocol):
    """Both directions of an exec or attach session. With a TTY everything arrives as stdout."""

    def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """What the process writes, until it ends."""

    async def write(self, data: bytes) -> None:
        """To the process's standard input."""

    async def close_stdin(self) -> None:
        """End of its standard input; output goes on."""

    async def resize(self, width: int, height: int) -> None:
        """The terminal's new size, in characters."""

    async def exit_code(self) -> int:
        """The exec'd process's exit code, once output has ended."""

    async def close(self) -> None:
        """Give up the connection."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A short command's end: exit code and (cut) output of both streams together."""

    exit_code: int
    output: bytes


class Engine(Protocol):
    """The calls. All raise EngineError or a subclass."""

    async def info(self) -> EngineInfo: ...
    async def ping(self) -> None: ...

    async def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Container]:
        """All containers with these labels, stopped ones too ("" as a value: any), inspected one by one.

        One that cannot be inspected, as when Docker hangs on it, does not hide the others.
        """

    async def inspect(self, container_id: str) -> Container: ...
    async def create(self, spec: ContainerSpec) -> str:
        """Create, and return the id; NameConflict, NotFound (no such image)."""

    async def start(self, container_id: str) -> None: ...
    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """The image's stop signal, then SIGKILL after the grace; returns when it has ended. Ended ones are fine."""

    async def kill(self, container_id: str, signal: str = "SIGKILL") -> None: ...
    async def remove(self, container_id: str) -> None:
        """By force, with anonymous volumes; one that is gone is fine."""

    async def update(self, container_id: str, limits: Limits) -> None:
        """Change a running container's limits."""

    def events(self, labels: Mapping[str, str], since: datetime | None = None) -> AsyncIterator[EngineEvent]:
        """Container events from now (or `since`) on; EngineUnavailable when the connection ends."""

    async def image(self, reference: str) -> Image | None:
        """A local image by name, digest or id; None where there is none."""

    async def images(self) -> Sequence[Image]: ...
    async def pull(self, reference: str, auth: Mapping[str, str] | None = None) -> Image:
        """Fetch from a registry; EngineError with Docker's message."""

    async def load(self, archive: bytes | Path) -> None:
        """`docker load` of an archive, or of the file with one."""

    async def remove_image(self, image_id: str) -> None: ...

    async def exec(self, container_id: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False,
                   stdout: bool = True, stderr: bool = True) -> Stream:
        """Start a command inside; the stream's `exit_code` tells how it ended."""

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run a command inside to its end (probes, hooks); EngineTimeout after `timeout` seconds."""

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool = True, stderr: bool = True,
                     tty: bool = False) -> Stream: ...

    async def resize(self, container_id: str, width: int, height: int) -> None:
        """A container's own terminal."""

    def logs(self, container_id: str, *, follow: bool = False, since: datetime | None = None,
             tail: int | None = None) -> AsyncIterator[LogLine]:
        """Output so far, and with `follow` what comes, until the container ends."""

    async def stats(self, container_id: str) -> ContainerStats: ...
    async def close(self) -> None: ...
