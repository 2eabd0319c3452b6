"""The agent's half of exec, attach, logs and port-forward."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

import grpc.aio

from agent.engine.protocol import Engine, EngineError, NotFound, Stream
from agent.link.containers import NoContainer, log_container, running_container
from agent.link.dial import CONNECT_TIMEOUT, DialFailed, dial
from agent.link.protocol import Connector, PodLookup
from agent.pods.labels import POD_UID
from agent.server.http import Handler, converse
from sampan.api.types import core_v1
from sampan.loop.clock import Clock
from sampan.nodeline import CHUNK, STDERR, STDOUT
from sampan.pb import node_pb2, node_pb2_grpc
from sampan.pb.node_pb2 import Data, Exit, Failure, Frame, Ready

log = logging.getLogger(__name__)

LINGER = 10.0
"""Seconds that a process has to take the input that was sent before the client left."""
_WAITING = 8
"""Frames of a session that may wait for the process to take them, before the client is held back."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What may stand in the path of a request to the engine."""


class _Refusal(Exception):
    """The session cannot be: what the client is told."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class _HungUp(Exception):
    """The master has ended the call, and nobody is left to hear of what the session does."""


class _Session:
    """One Stream call, from our side."""

    def __init__(self, call: Any, session_id: str) -> None:
        self._call = call
        self._id = session_id
        self._lock = asyncio.Lock()
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue(_WAITING)
        self._over = False

    async def ready(self) -> None:
        await self._write(Frame(ready=Ready(id=self._id)))

    async def fail(self, code: int, reason: str, message: str) -> None:
        await self._write(Frame(failure=Failure(id=self._id, code=code, reason=reason, message=message)))

    async def send(self, channel: int, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            await self._write(Frame(data=Data(channel=channel, data=data[start:start + CHUNK])))

    async def end(self, channel: int) -> None:
        await self._write(Frame(data=Data(channel=channel, end=True)))

    async def exit(self, code: int) -> None:
        await self._write(Frame(exit=Exit(code=code)))

    async def receive(self) -> Frame | None:
        """The next frame; None once the master has closed the session."""
        if self._over:
            return None
        frame = await self._frames.get()
        self._over = frame is None
        return frame

    async def pump(self) -> None:
        """Read the call until it ends. Nobody else may: cancelling a read of gRPC's ends the whole call."""
        while isinstance(frame := await self._call.read(), Frame):
            await self._frames.put(frame)
        await self._frames.put(None)

    async def watch(self) -> None:
        """Raise _HungUp some time after the call has ended, for what waits on something else than the call."""
        await self._call.code()
        await asyncio.sleep(LINGER)
        raise _HungUp

    async def _write(self, frame: Frame) -> None:
        async with self._lock:
            await self._call.write(frame)


class _SessionWire:
    """A session as one connection of HTTP (agent.server.http.Wire)."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    async def read(self) -> bytes:
        while (frame := await self._session.receive()) is not None:
            if frame.WhichOneof("body") == "data":
                return b"" if frame.data.end else frame.data.data
        return b""

    async def write(self, data: bytes) -> None:
        await self._session.send(STDOUT, data)


class AgentStreams:
    """Answers the master's Open messages. `pods` knows the pods, `connector` the way into their networks."""

    def __init__(self, engine: Engine, pods: PodLookup, connector: Connector, clock: Clock,
                 own: Handler | None = None) -> None:
        """`own` answers requests to the node's own port; whoever may make them, the master has decided."""
        self._own = own
        self._engine = engine
        self._pods = pods
        self._connector = connector
        self._clock = clock

    async def serve(self, stub: node_pb2_grpc.NodeServiceStub, request: node_pb2.Open) -> None:
        """One session to its end; raises nothing but cancellation."""
        call = stub.Stream()
        session = _Session(call, request.id)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(session.pump())
                watch = group.create_task(session.watch())
                await self._answer(session, request)
                await call.done_writing()
                await _drained(session)  # the master hangs up when it has everything
                watch.cancel()
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, _HungUp) as errors:
            log.debug("a session ended early: %s", errors.exceptions[0])
        except* Exception:  # one session's fault must not end the line
            log.exception("a session failed")
        finally:
            call.cancel()

    async def _answer(self, session: _Session, request: node_pb2.Open) -> None:
        try:
            await self._serve(session, request)
        except _Refusal as error:
            await session.fail(error.code, error.reason, str(error))
        except EngineError as error:
            await session.fail(500, "InternalError", str(error))

    async def _serve(self, session: _Session, request: node_pb2.Open) -> None:
        kind = request.WhichOneof("request")
        if kind == "exec":
            await self._exec(session, request.exec)
        elif kind == "attach":
            await self._attach(session, request.attach)
        elif kind == "logs":
            await self._logs(session, request.logs)
        elif kind == "port_forward":
            await self._port_forward(session, request.port_forward)
        elif kind == "proxy" and request.proxy.address:
            await self._proxy(session, request.proxy)
        elif kind == "proxy" and self._own:
            await session.ready()
            await converse(_SessionWire(session), self._own)
        else:
            raise _Refusal(501, "NotImplemented", "this agent does not know that kind of session")

    def _pod(self, reference: node_pb2.PodRef) -> core_v1.Pod:
        pod = self._pods.pod(reference.namespace, reference.name, reference.uid)
        if pod is None:
            raise _Refusal(404, "NotFound", "pod does not exist")
        return pod

    # Exec and attach

    async def _exec(self, session: _Session, request: node_pb2.Exec) -> None:
        refusal = _Refusal(500, "InternalError", f'container not found ("{request.container}")')
        container = await self._running(request.pod, request.container, refusal)
        try:
            stream = await self._engine.exec(container, list(request.command), tty=request.tty, stdin=request.stdin,
                                             stdout=request.stdout, stderr=request.stderr and not request.tty)
        except NotFound as error:
            raise refusal from error
        await self._interact(session, stream, exits=True)

    async def _attach(self, session: _Session, request: node_pb2.Attach) -> None:
        where = f"{request.pod.name}_{request.pod.namespace}"  # as the kubelet names pods
        refusal = _Refusal(500, "InternalError", f"container {request.container} not found in pod {where}")
        container = await self._running(request.pod, request.container, refusal)
        try:
            stream = await self._engine.attach(container, stdin=request.stdin, stdout=request.stdout,
                                               stderr=request.stderr and not request.tty, tty=request.tty)
        except NotFound as error:
            raise refusal from error
        await self._interact(session, stream, exits=False)

    async def _running(self, reference: node_pb2.PodRef, name: str, refusal: _Refusal) -> str:
        pod = self._pod(reference)
        found = running_container(pod, name)
        if found is None or not await self._is_of(pod, found):
            raise refusal
        return found

    async def _is_of(self, pod: core_v1.Pod, container: str) -> bool:
        """Whether the container is there, and the pod's. The status comes from the API as long as we have made none,
        and keeps what it said of containers that are gone: whoever may write it could name any container of the host.
        """
        if not _ID.fullmatch(container):
            return False
        try:
            found = await self._engine.inspect(container)
        except NotFound:
            return False
        return found.labels.get(POD_UID) == pod.metadata.uid

    async def _interact(self, session: _Session, stream: Stream, *, exits: bool) -> None:
        async def outbound() -> None:
            async for name, data in stream.output():
                await session.send(STDOUT if name == "stdout" else STDERR, data)
            await session.exit(await stream.exit_code() if exits else 0)

        async def inbound() -> None:
            while (frame := await session.receive()) is not None:
                kind = frame.WhichOneof("body")
                if kind == "resize":
                    with contextlib.suppress(EngineError):  # the process may have ended meanwhile
                        await stream.resize(frame.resize.width, frame.resize.height)
                elif kind == "data" and frame.data.end:
                    await stream.close_stdin()
                elif kind == "data":
                    await stream.write(frame.data.data)

        try:
            await session.ready()
            await _until_first(outbound(), inbound())
        finally:
            await stream.close()

    # Logs

    async def _logs(self, session: _Session, request: node_pb2.Logs) -> None:
        pod = self._pod(request.pod)
        try:
            container = log_container(pod, request.container, previous=request.previous)
        except NoContainer as error:
            raise _Refusal(400, "BadRequest", str(error)) from error
        if not await self._is_of(pod, container):
            raise _Refusal(400, "BadRequest", f'container "{request.container}" in pod "{request.pod.name}" is not '
                                              "available")
        lines = self._engine.logs(container, follow=request.follow, since=self._since(request),
                                  tail=request.tail_lines if request.HasField("tail_lines") else None)
        limit = request.limit_bytes if request.HasField("limit_bytes") else None
        writer = LogWriter(timestamps=request.timestamps, limit=limit)

        async def outbound() -> None:
            async with contextlib.aclosing(lines):  # type: ignore[type-var]
                async for line in lines:
                    await session.send(STDOUT, writer.write(line.stream, line.time, line.data))
                    if writer.full:
                        break
            await session.exit(0)

        await session.ready()
        await _until_first(outbound(), _drained(session))

    def _since(self, request: node_pb2.Logs) -> datetime | None:
        if request.HasField("since_seconds"):
            return self._clock.now() - timedelta(seconds=request.since_seconds)
        return datetime.fromisoformat(request.since_time) if request.since_time else None

    # Proxy and port-forward

    async def _proxy(self, session: _Session, request: node_pb2.Proxy) -> None:
        try:
            reader, writer = await dial(request.address, tls=request.tls)
        except DialFailed as error:
            raise _Refusal(503, "ServiceUnavailable", f"error trying to reach service: {error}") from error
        await self._pipe(session, reader, writer)

    async def _port_forward(self, session: _Session, request: node_pb2.PortForward) -> None:
        pod = self._pod(request.pod)
        pid = await self._pods.network_pid(pod.metadata.uid)
        if not pid:
            raise _Refusal(500, "InternalError", f'pod "{request.pod.name}" is not running')
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                sock = await self._connector.connect(pid, request.port)
        except (OSError, TimeoutError) as error:
            why = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else "timed out"
            raise _Refusal(500, "InternalError", f"failed to connect to localhost:{request.port} inside the pod: {why}"
                           ) from error
        await self._pipe(session, *await asyncio.open_connection(sock=sock))

    async def _pipe(self, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy both ways; each direction ends on its own, as TCP's do."""
        client_done = asyncio.Event()

        async def outbound() -> None:
            while data := await reader.read(CHUNK):
                await session.send(STDOUT, data)
            await session.end(STDOUT)
            await client_done.wait()

        async def inbound() -> None:
            with contextlib.suppress(OSError):  # nobody listens any more; what was said before that is still passed on
                while (frame := await session.receive()) is not None:
                    if frame.WhichOneof("body") != "data":
                        continue
                    if frame.data.end:
                        if writer.can_write_eof():  # TLS has no half of a connection
                            writer.write_eof()
                        client_done.set()
                    else:
                        writer.write(frame.data.data)
                        await writer.drain()
            client_done.set()
            await _drained(session)

        try:
            await session.ready()
            await _until_first(outbound(), inbound())
        except OSError as error:
            raise _Refusal(500, "InternalError", f"the connection broke: {error.strerror or error}") from error
        finally:
            writer.transport.abort()


class LogWriter:
    """Shapes log lines as asked: a time before each, no more than so many bytes."""

    def __init__(self, *, timestamps: bool = False, limit: int | None = None) -> None:
        self._timestamps = timestamps
        self._left = limit
        self._inside: dict[str, bool] = {}

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._left is not None and self._left <= 0

    def write(self, stream: str, time: str, data: bytes) -> bytes:
        """The bytes for one line, or for a part of a line that is too long for the engine."""
        if self._timestamps and not self._inside.get(stream):
            data = time.encode() + b" " + data
        self._inside[stream] = not data.endswith(b"\n")
        if self._left is not None:
            data = data[:max(self._left, 0)]
            self._left -= len(data)
        return data


async def _drained(session: _Session) -> None:
    """Returns when the master hangs up."""
    while await session.receive() is not None:
        pass


async def _until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, then cancel the others; raises what that one, or another before it, raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            for task in tasks:
                task.add_done_callback(lambda _: [other.cancel() for other in tasks])
    except BaseExceptionGroup as errors:
        raise _innermost(errors) from None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
