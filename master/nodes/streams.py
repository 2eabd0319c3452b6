"""The master's half of exec, attach, logs and port-forward: ask the node's agent, wait for it to come, pass frames.

Back-pressure is gRPC's own: a side reads the next frame only when it has passed on the last, and a sender waits as
soon as the other's window is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import grpc.aio

from master.nodes.identity import NodeIdentity, Refused
from sampan.api.errors import ApiError, internal_error
from sampan.nodeline import CHUNK
from sampan.pb.node_pb2 import Data, Frame, Open, Resize

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 30.0
"""Seconds that an agent has to begin what it was asked: the engine may be busy."""
LINE_TIMEOUT = 8.0
"""Seconds that an agent has to connect where its line is down: it may be that one of the two was restarted."""


_LOST = (grpc.aio.BaseError, asyncio.InvalidStateError)


class NodeRefusal(ApiError):
    """The agent was asked, and says no: there is no such container, it does not run."""


class NodeStream(Protocol):
    """One session as the API server sees it. Close it, whatever happens."""

    async def receive(self) -> Frame | None:
        """The next frame from the agent (data, exit or failure), None at the end or when the node is lost."""

    async def send(self, channel: int, data: bytes) -> None:
        """Bytes for a channel; waits while the agent is not ready for more."""

    async def end(self, channel: int) -> None:
        """Nothing more comes on that channel."""

    async def resize(self, width: int, height: int) -> None:
        """The terminal's new size, in characters."""

    async def close(self) -> None:
        """Give up the session; repeating it is harmless."""


class StreamOpener(Protocol):
    """What handlers of the API server need of this room."""

    async def open(self, node: str, request: Open) -> NodeStream:
        """Ask the node's agent and wait until it has begun; NodeRefusal where it will not, else ApiError 500."""


class _Session:
    """A NodeStream over one gRPC call that the agent has made."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        self.closed = asyncio.Event()

    async def receive(self) -> Frame | None:
        try:
            frame = await self._context.read()
        except _LOST:
            return None
        return frame if isinstance(frame, Frame) else None

    async def send(self, channel: int, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            await self._write(Frame(data=Data(channel=channel, data=data[start:start + CHUNK])))

    async def end(self, channel: int) -> None:
        await self._write(Frame(data=Data(channel=channel, end=True)))

    async def resize(self, width: int, height: int) -> None:
        await self._write(Frame(resize=Resize(width=width, height=height)))

    async def close(self) -> None:
        self.closed.set()

    async def _write(self, frame: Frame) -> None:
        async with self._lock:
            if not self.closed.is_set():
                with contextlib.suppress(*_LOST):  # whoever reads the session hears of the end
                    await self._context.write(frame)


class NodeStreams:
    """Brings together who asked for a session and the call by which the agent answers.

    `ask(node, request)` sends the request over the node's Sync stream and says whether there is one.
    """

    def __init__(self, ask: Callable[[str, Open], bool], *, timeout: float = OPEN_TIMEOUT,
                 line_timeout: float = LINE_TIMEOUT) -> None:
        self._ask = ask
        self._timeout = timeout
        self._line_timeout = line_timeout
        self._missed: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._waiting: dict[str, tuple[str, asyncio.Future[NodeStream]]] = {}

    async def open(self, node: str, request: Open) -> NodeStream:
        """See StreamOpener."""
        request.id = secrets.token_urlsafe(16)
        future: asyncio.Future[NodeStream] = asyncio.get_running_loop().create_future()
        taken = False
        try:
            await self._ask_patiently(node, request)
            self._waiting[request.id] = node, future
            async with asyncio.timeout(self._timeout):
                session = await future
            taken = True
            return session
        except TimeoutError as error:
            raise internal_error(
                f'error dialing backend: node "{node}" did not answer within {self._timeout:.0f} s') from error
        finally:
            self._waiting.pop(request.id, None)
            if not taken and future.done() and not future.cancelled() and not future.exception():
                await future.result().close()  # it has begun in the very moment in which the client left

    def connected(self, node: str) -> None:
        """The node's agent has connected: what waits for that goes on."""
        for event in self._missed.get(node, ()):
            event.set()

    def disconnected(self, node: str) -> None:
        """The line is down: what the agent was asked and has not begun is given up. (Asked again, a command might run
        twice.)
        """
        for whose, future in self._waiting.values():
            if whose == node and not future.done():
                future.set_exception(internal_error(
                    f'error dialing backend: the connection to the agent of node "{node}" broke'))

    async def _ask_patiently(self, node: str, request: Open) -> None:
        came = asyncio.Event()
        self._missed[node].add(came)
        try:
            async with asyncio.timeout(self._line_timeout):
                while not self._ask(node, request):
                    await came.wait()
                    came.clear()
        except TimeoutError as error:
            raise internal_error(f'error dialing backend: the agent of node "{node}" is not connected, and did not '
                                 f"connect within {self._line_timeout:.0f} s") from error
        finally:
            self._missed[node].discard(came)
            if not self._missed[node]:
                del self._missed[node]

    async def serve(self, who: NodeIdentity, context: Any) -> None:
        """An agent's Stream call, for as long as the session lasts; Refused where nobody asked for it."""
        async with asyncio.timeout(self._timeout):
            first = await context.read()
        kind = first.WhichOneof("body") if isinstance(first, Frame) else None
        begun = first.ready if kind == "ready" else first.failure if kind == "failure" else None
        node, future = self._waiting.pop(begun.id, ("", None)) if begun is not None else ("", None)
        if future is None or node != who.node or future.done():
            raise Refused(404, "nobody waits for this session")
        if kind == "failure":
            future.set_exception(failure_error(first.failure))
            return
        session = _Session(context)
        future.set_result(session)
        try:
            await session.closed.wait()
        finally:
            session.closed.set()


def failure_error(failure: Any) -> NodeRefusal:
    """An agent's refusal as the API's error."""
    return NodeRefusal(failure.code or 500, failure.reason or "InternalError", failure.message)
