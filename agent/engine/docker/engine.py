"""The adapter between the Engine protocol and the Docker SDK.

The SDK blocks, so each call runs in a bounded pool of threads with a timeout. One container's calls run one after
another: when Docker hangs on one container, that costs one thread and only that container's pod waits. Streams hold
no thread: the SDK opens them, and their sockets are handed to asyncio (`agent.engine.stream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

import docker
import docker.auth

from agent.cgroups.protocol import CgroupError
from agent.cgroups.tree import Hierarchies, find_hierarchies
from agent.cgroups.usage import usage_of_process
from agent.engine import translate
from agent.engine.docker.sdk import Conflict, Sdk, checked, send, url
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
from agent.engine.stream import Connection, DockerStream, Handover, Pulled, follow_logs, take_socket
from sampan import mounts

R = TypeVar("R")

_EVENTS = ("create", "start", "die", "oom", "kill", "pause", "unpause", "destroy")
"""The events that tell of a container's state; without this filter every exec probe would send three more."""

LOAD_SPEED = 4 << 20
"""Bytes a second that loading an image may be slow."""
_RUN_OUTPUT = 10 * 1024
"""Bytes of a probe's or hook's output that are kept, as in the kubelet."""


class DockerEngine:
    """The engine at a Unix socket. Nothing is connected before the first call, and a lost engine is found again."""

    def __init__(self, docker_host: str = "unix:///var/run/docker.sock", *, timeout: float = 30.0,
                 slow_timeout: float = 120.0, workers: int = 12, slow_workers: int = 6) -> None:
        """`timeout` in seconds for quick calls; `slow_timeout` for those that move data (pull, load, remove).

        There are more `slow_workers` than images are pulled at once: else a silent registry would hold up removals.
        """
        if not docker_host.startswith("unix://"):
            raise EngineError(f"{docker_host}: the engine must be on this host, at unix:///path/of/its.sock")
        self._timeout = timeout
        self._slow_timeout = slow_timeout
        self._pool = ThreadPoolExecutor(workers, "engine")
        self._slow_pool = ThreadPoolExecutor(slow_workers, "engine-slow")
        self._sdk = Sdk(docker_host, timeout, workers + slow_workers)
        self._hierarchies: Hierarchies | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # -- the engine itself

    async def info(self) -> EngineInfo:
        """What the engine says of itself."""
        return await self._call("info", lambda api: translate.info(api.info(), api.version(api_version=False)))

    async def ping(self) -> None:
        """Raises EngineUnavailable when it does not answer."""
        await self._call("ping", lambda api: api.ping())

    async def close(self) -> None:
        """End the pools; calls that hang in Docker are left to their own timeouts."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._slow_pool.shutdown(wait=False, cancel_futures=True)
        self._sdk.close()

    # -- containers

    async def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Container]:
        """One list, then all inspects at once; containers that vanish in between are left out."""
        async def inspected(entry: Mapping[str, Any]) -> Container | None:
            try:
                return await self._inspect_if_there(entry["Id"])
            except EngineError as error:
                if isinstance(error, EngineUnavailable) and not isinstance(error, EngineTimeout):
                    raise
                return translate.listed(entry)

        filters = {"label": translate.label_filter(labels)} if labels else None
        found = await self._call("list", lambda api: api.containers(all=True, filters=filters))
        containers = await asyncio.gather(*(inspected(entry) for entry in found))
        return [container for container in containers if container is not None]

    async def inspect(self, container_id: str) -> Container:
        """NotFound where there is none."""
        return translate.container(await self._inspect_raw(container_id))

    async def create(self, spec: ContainerSpec) -> str:
        """NameConflict carries the id of the container that has the name."""
        config = translate.container_config(spec)
        try:
            response = await self._call(f"create {spec.name}", lambda api: send(
                api, "POST", "/containers/create", self._slow_timeout, json=config, params={"name": spec.name}),
                turn=spec.name, limit=self._slow_timeout)
            return str(response.json()["Id"])
        except Conflict as error:
            holder = translate.conflict_holder(str(error)) or (await self._inspect_raw(spec.name))["Id"]
            raise NameConflict(str(error), holder) from error

    async def start(self, container_id: str) -> None:
        """Starting a running one changes nothing."""
        await self._call(f"start {container_id}", lambda api: send(
            api, "POST", f"/containers/{container_id}/start", self._slow_timeout), turn=container_id,
            limit=self._slow_timeout)

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """Docker's own stop call would hold a thread for the whole grace, so this is a signal and a wait."""
        try:
            data = await self._inspect_raw(container_id)
            if not translate.container(data).running:
                return
            stop_signal = data["Config"].get("StopSignal") or "SIGTERM"
            ended = await self._open("POST", f"/containers/{container_id}/wait", params={"condition": "not-running"})
        except NotFound:
            return
        async with contextlib.aclosing(ended):
            for sign, patience in ((stop_signal, grace_seconds), ("SIGKILL", self._timeout)):
                if patience <= 0:
                    continue
                await self.kill(container_id, sign)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await ended.read_all()
                        return
        raise EngineTimeout(f"container {container_id} did not end {self._timeout:g} s after SIGKILL")

    async def kill(self, container_id: str, signal: str = "SIGKILL") -> None:
        """Send a signal; one that has ended or is gone needs none."""
        with contextlib.suppress(Conflict, NotFound):  # 409: the container is not running
            await self._call(f"kill {container_id}", lambda api: api.kill(container_id, signal), turn=container_id)

    async def remove(self, container_id: str) -> None:
        """By force, with anonymous volumes. One that Docker is removing already counts as gone."""
        try:
            await self._call(f"remove {container_id}", lambda api: send(
                api, "DELETE", f"/containers/{container_id}", self._slow_timeout, params={"v": 1, "force": 1}),
                turn=container_id, pool=self._slow_pool, limit=self._slow_timeout)
        except NotFound:
            return
        except Conflict as error:
            if "already in progress" not in str(error):
                raise

    async def update(self, container_id: str, limits: Limits) -> None:
        """Docker has no way to change oom_score_adj of a running container; the rest changes at once."""
        body = translate.limits_config(limits)
        await self._call(f"update {container_id}",
                         lambda api: send(api, "POST", f"/containers/{container_id}/update", self._timeout, json=body),
                         turn=container_id)

    async def events(self, labels: Mapping[str, str], since: datetime | None = None) -> AsyncIterator[EngineEvent]:
        """Ends only by EngineUnavailable."""
        filters = {"type": ["container"], "event": list(_EVENTS), "label": translate.label_filter(labels)}
        params = {"filters": json.dumps(filters)}
        if since is not None:
            params["since"] = translate.unix_time(since)
        connection = await self._open("GET", "/events", params=params)
        async with contextlib.aclosing(connection):
            async for message in connection.messages():
                yield translate.event(message)
        raise EngineUnavailable("the engine's event stream ended")

    async def stats(self, container_id: str) -> ContainerStats:
        """Read from its cgroup; nothing for one that does not run."""
        container = await self.inspect(container_id)
        return await self._call(f"stats {container_id}", lambda _: self._usage(container.pid))

    # -- images

    async def image(self, reference: str) -> Image | None:
        """None where there is none."""
        try:
            return await self._call(f"image {reference}", lambda api: translate.image(
                send(api, "GET", f"/images/{quote(reference)}/json", self._timeout).json()))
        except NotFound:
            return None

    async def images(self) -> Sequence[Image]:
        """All but intermediate layers."""
        return [translate.image_summary(data) for data in await self._call("images", lambda api: api.images())]

    async def pull(self, reference: str, auth: Mapping[str, str] | None = None) -> Image:
        """Fetch; gives up when nothing moves for the slow timeout. `auth` has the keys of Docker's AuthConfig."""
        name = reference if "@" in reference or ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        header = docker.auth.encode_header(dict(auth or {})).decode()
        connection = await self._open("POST", "/images/create", params={"fromImage": name},
                                      headers={"X-Registry-Auth": header}, slow=True)
        async with contextlib.aclosing(connection):
            await Pulled(connection, self._slow_timeout).finish()
        found = await self.image(name)
        if found is None:
            raise EngineError(f"{name} was pulled, but is not there")
        return found

    async def load(self, archive: bytes | Path) -> None:
        """Docker reports a bad archive inside a 200 answer. A file has more time, the larger it is."""
        data = _opened(archive)
        limit = self._slow_timeout + data.seek(0, os.SEEK_END) / LOAD_SPEED
        data.seek(0)

        def load(api: docker.APIClient) -> None:
            with data:
                response = send(api, "POST", "/images/load", limit, data=data)
            for line in response.text.splitlines():
                if line and "error" in (message := json.loads(line)):
                    raise EngineError(message["error"])
        await self._call("load", load, pool=self._slow_pool, limit=limit)

    async def remove_image(self, image_id: str) -> None:
        """EngineError when a container uses it; one that is gone is fine."""
        with contextlib.suppress(NotFound):
            await self._call(f"remove image {image_id}", lambda api: api.remove_image(image_id),
                             pool=self._slow_pool, limit=self._slow_timeout)

    # -- streams

    async def exec(self, container_id: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False,
                   stdout: bool = True, stderr: bool = True) -> Stream:
        """Start a command; a command that cannot be started ends with 126 or 127 and Docker's words as output."""
        exec_id = await self._make_exec(container_id, command, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        return await self._start_exec(exec_id, tty=tty)

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run to the end; a command that takes too long is killed, which Docker would not do."""
        exec_id, stream = "", None
        try:
            async with asyncio.timeout(timeout):
                exec_id = await self._make_exec(container_id, command)
                stream = await self._start_exec(exec_id)
                output = bytearray()
                async for _, data in stream.output():
                    output += data[:_RUN_OUTPUT - len(output)]
                return ExecResult(await stream.exit_code(), bytes(output))
        except TimeoutError as error:
            if exec_id:  # its start may still be under way
                await self._kill_exec(container_id, exec_id)
            raise EngineTimeout(f"command {command[0]!r} timed out after {timeout:g} s") from error
        finally:
            if stream is not None:
                await stream.close()

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool = True, stderr: bool = True,
                     tty: bool = False) -> Stream:
        """Both directions of the container's own process."""
        params = {"stream": 1, "stdin": int(stdin), "stdout": int(stdout), "stderr": int(stderr)}
        connection = await self._open("POST", f"/containers/{container_id}/attach", params=params, upgrade=True)

        async def exit_code() -> int | None:
            container = await self.inspect(container_id)
            return None if container.running else container.exit_code

        return DockerStream(container_id, connection, tty=tty, exit_code=exit_code,
                            resize=lambda width, height: self.resize(container_id, width, height))

    async def resize(self, container_id: str, width: int, height: int) -> None:
        """A container's own terminal."""
        await self._call(f"resize {container_id}", lambda api: api.resize(container_id, height, width))

    async def logs(self, container_id: str, *, follow: bool = False, since: datetime | None = None,
                   tail: int | None = None) -> AsyncIterator[LogLine]:
        """What Docker's json-file driver kept, across rotations; a broken follow is taken up where it broke off."""
        tty = bool((await self._inspect_raw(container_id))["Config"].get("Tty"))

        async def opened(since: str, tail: str, following: bool) -> Connection:
            params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": str(int(following)), "tail": tail,
                      "since": since}
            return await self._open("GET", f"/containers/{container_id}/logs", params=params)

        async def running() -> bool:
            container = await self._inspect_if_there(container_id)
            return container is not None and container.running

        lines = follow_logs(opened, running if follow else None, tty=tty,
                            since=translate.unix_time(since) if since else "0",
                            tail="all" if tail is None else str(tail))
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line

    # -- inside

    async def _make_exec(self, container_id: str, command: Sequence[str], **how: Any) -> str:
        return str((await self._call(f"exec in {container_id}", lambda api: api.exec_create(
            container_id, list(command), **how)))["Id"])

    async def _start_exec(self, exec_id: str, *, tty: bool = False) -> DockerStream:
        connection = await self._open("POST", f"/exec/{exec_id}/start", body={"Tty": tty, "Detach": False},
                                      upgrade=True, turn=exec_id)

        async def exit_code() -> int | None:
            state = await self._call("exec inspect", lambda api: api.exec_inspect(exec_id))
            return None if state["Running"] else state["ExitCode"]

        async def resize(width: int, height: int) -> None:
            await self._call("exec resize", lambda api: api.exec_resize(exec_id, height, width))

        return DockerStream(exec_id, connection, tty=tty, exit_code=exit_code, resize=resize)

    async def _kill_exec(self, container_id: str, exec_id: str) -> None:
        """Docker has no call to end an exec: kill its process, once its cgroup shows that it is the container's."""
        with contextlib.suppress(EngineError):
            state = await self._call("exec inspect", lambda api: api.exec_inspect(exec_id), turn=exec_id)
            pid = state.get("Pid") or 0
            full_id = (await self._inspect_raw(container_id))["Id"]
            if state["Running"] and pid:
                _kill_inside(pid, full_id)

    async def _inspect_raw(self, container_id: str) -> Mapping[str, Any]:
        return await self._call(f"inspect {container_id}", lambda api: api.inspect_container(container_id),
                                turn=container_id)

    async def _inspect_if_there(self, container_id: str) -> Container | None:
        try:
            return await self.inspect(container_id)
        except NotFound:
            return None

    async def _open(self, method: str, path: str, *, params: Mapping[str, Any] | None = None,
                    body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
                    upgrade: bool = False, slow: bool = False, turn: str = "") -> Connection:
        """Have the SDK send a request, and take the socket over once the answer's head has come."""
        extra = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else {}
        limit = self._slow_timeout if slow else self._timeout

        taken: list[Handover] = []
        wanted = True

        def opened(api: docker.APIClient) -> Handover:
            response = api.request(method, url(api, path), params=params, json=body, stream=True,
                                   headers={**extra, **(headers or {})}, timeout=limit)
            taken.append(take_socket(checked(response)))
            if not wanted:
                taken[0].sock.close()
            return taken[0]

        try:
            handover = await self._call(f"{method} {path}", opened, limit=limit, turn=turn,
                                        pool=self._slow_pool if slow else self._pool)
            return await Connection.take(handover)
        except BaseException:
            wanted = False  # nobody is left to close a socket that the thread still opens
            for handover in taken:
                handover.sock.close()
            raise

    async def _call(self, what: str, function: Callable[[docker.APIClient], R], *, turn: str = "",
                    pool: ThreadPoolExecutor | None = None, limit: float | None = None) -> R:
        """Run `function` in the pool. Calls with the same `turn` (a container's id or name) wait for each other."""
        limit = limit or self._timeout
        try:
            async with asyncio.timeout(limit):
                lock = self._turns.setdefault(turn, asyncio.Lock()) if turn else None
                if lock is not None:
                    await lock.acquire()
                return await self._submit(function, pool or self._pool, lock)
        except TimeoutError as error:
            raise EngineTimeout(f"{what}: no answer from the engine after {limit:g} s") from error

    def _submit(self, function: Callable[[docker.APIClient], R], pool: ThreadPoolExecutor,
                lock: asyncio.Lock | None) -> Awaitable[R]:
        try:
            future = pool.submit(self._sdk.call, function)
        except RuntimeError as error:  # the pool was closed
            if lock is not None:
                lock.release()
            raise EngineUnavailable("the engine's adapter is closed") from error
        if lock is not None:
            # The turn ends with the thread's work, not with the caller's patience.
            future.add_done_callback(_release(lock, asyncio.get_running_loop()))
        return asyncio.wrap_future(future)

    def _usage(self, pid: int) -> ContainerStats:
        if not pid:
            return ContainerStats(0, 0, 0)
        if self._hierarchies is None:
            self._hierarchies = find_hierarchies(mounts.read())
        try:
            used = usage_of_process(self._hierarchies, pid)
        except CgroupError as error:
            raise EngineError(str(error)) from error
        return ContainerStats(used.cpu_nanoseconds, used.memory_bytes, used.working_set_bytes)


def _kill_inside(pid: int, container_id: str) -> None:
    """Kill a process, if it is in the container's cgroup."""
    with contextlib.suppress(OSError):
        if container_id in Path(f"/proc/{pid}/cgroup").read_text():
            os.kill(pid, signal.SIGKILL)


def _opened(archive: bytes | Path) -> BinaryIO:
    """What an archive holds; EngineError where the file cannot be read."""
    if isinstance(archive, bytes):
        return io.BytesIO(archive)
    try:
        return archive.open("rb")
    except OSError as error:
        raise EngineError(f"{archive} cannot be read: {error.strerror}") from error


def _release(lock: asyncio.Lock, loop: asyncio.AbstractEventLoop) -> Callable[[Future[Any]], None]:
    """Called in a pool thread: release the lock on its own loop, if that still runs."""
    def release(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lock.release)
    return release
