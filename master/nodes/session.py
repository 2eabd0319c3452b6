"""One agent's connection: what it is sent, and what is done with what it says."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from master.metrics.nodes import NodeMetrics
from master.nodes.feed import Feed, Fetch, Version
from master.nodes.identity import NodeIdentity, Refused
from master.nodes.reports import NodeReports
from master.nodes.world import World
from sampan import __version__
from sampan.api import resources
from sampan.api.errors import ApiError
from sampan.nodeline import PROTOCOL_VERSION, Key
from sampan.pb import node_pb2
from sampan.pb.node_pb2 import AgentMessage, MasterMessage

log = logging.getLogger(__name__)

GREETING_TIMEOUT = 30.0
"""Seconds for Hello and all that the agent holds."""
_PARALLEL_REPORTS = 32
_REMEMBERED_PODS = 2000


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an agent says first."""

    version: int
    software: str
    held: dict[Key, Version]

    @classmethod
    async def read(cls, context: Any) -> Greeting:
        """Hello and all that the agent holds; Refused where it says something else.

        Everything is read before anything is refused: gRPC's client hides the reason for a refusal that comes while
        it still writes.
        """
        message = await _next(context)
        if message is None or message.WhichOneof("body") != "hello":
            raise Refused(400, "the first message must be Hello")
        greeting = cls(message.hello.version, message.hello.software, {})
        last = False
        while not last:
            message = await _next(context)
            if message is None or message.WhichOneof("body") != "held":
                raise Refused(400, "Hello must be followed by what the agent holds")
            for item in message.held.objects:
                greeting.held[Key.read(item.key)] = Version(item.uid, item.revision)
            last = message.held.last
        return greeting

    def require_known_version(self) -> None:
        """Refused where the agent is newer than this master."""
        if self.version > PROTOCOL_VERSION:
            raise Refused(400, f"the agent ({self.software}) speaks version {self.version} of the node protocol, this "
                               f"master ({__version__}) only up to {PROTOCOL_VERSION}: upgrade the master first")


async def _next(context: Any) -> AgentMessage | None:
    message = await context.read()
    return message if isinstance(message, AgentMessage) else None


class Session:
    """Runs one Sync call. `context` is gRPC's, of which only `read` and `write` are used."""

    def __init__(self, who: NodeIdentity, context: Any, greeting: Greeting, world: World, reports: NodeReports,
                 fetch: Fetch, metrics: NodeMetrics, *, exists: bool) -> None:
        self.who = who
        self._context = context
        self._held = greeting.held
        self._world = world
        self._reports = reports
        self._fetch = fetch
        self._metrics = metrics
        self._now = asyncio.get_running_loop().time
        self._dirty_since: float | None = None
        self._sending_since: float | None = None
        self._node_seen = exists
        self._dirty: set[Key] = set()
        self._control: deque[MasterMessage] = deque()
        self._wake = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots = asyncio.Semaphore(_PARALLEL_REPORTS)
        self._pods: dict[str, str] = {}
        version = min(greeting.version, PROTOCOL_VERSION)
        self._say(MasterMessage(welcome=node_pb2.Welcome(version=version, software=__version__)))
        log.info('node "%s" (%s) is connected, holding %d objects', who.node, greeting.software, len(self._held))

    async def run(self) -> None:
        """Until the agent goes away; Refused where it is to be told why it may not go on."""
        listener = self._mark
        self._world.listen(self.who.node, listener)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._send(Feed(self.who.node, self._world, self._fetch, self._held))),
                         group.create_task(self._wait_ended())]
                await self._read()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as errors:
            raise innermost(errors) from None
        finally:
            self._world.unlisten(self.who.node, listener)

    def end(self, refusal: Refused) -> None:
        """Close the connection and tell the agent why."""
        if not self._ended.done():
            self._ended.set_exception(refusal)

    def ask(self, request: node_pb2.Open) -> None:
        """Ask the agent to open a session."""
        self._say(MasterMessage(open=request))

    async def _wait_ended(self) -> None:
        await self._ended

    # Master to agent

    @property
    def lag(self) -> float:
        """For how many seconds the oldest change has been waiting to be sent; 0 for none."""
        since = self._dirty_since if self._sending_since is None else self._sending_since
        return self._now() - since if since is not None else 0.0

    def _mark(self, key: Key) -> None:
        self._dirty.add(key)
        if self._dirty_since is None:
            self._dirty_since = self._now()
        self._wake.set()
        if key.resource == resources.NODES.key and key.name == self.who.node:
            here = self._world.find(key) is not None
            if self._node_seen and not here:
                self.end(Refused(403, f'node "{key.name}" has been deleted from the cluster; join again with a new '
                                      "token"))
            self._node_seen = self._node_seen or here

    def _say(self, message: MasterMessage) -> None:
        self._control.append(message)
        self._wake.set()

    async def _send(self, feed: Feed) -> None:
        """The only task that writes. Answers and requests go before changes, which may be many."""
        await self._flush()
        async for change in feed.catch_up():
            await self._send_change(change)
        self._say(MasterMessage(synced=node_pb2.Synced()))
        while True:
            await self._wake.wait()
            self._wake.clear()
            keys, self._dirty = self._dirty, set()
            self._sending_since, self._dirty_since = self._dirty_since, None
            await self._flush()
            sent = 0
            if keys:
                async for change in feed.changes(keys):
                    await self._send_change(change)
                    sent += 1
            if sent and self._sending_since is not None:
                self._metrics.sent(sent, self._now() - self._sending_since)
            self._sending_since = None

    async def _send_change(self, change: node_pb2.Change) -> None:
        if change.key.plural == resources.PODS.plural and change.operation == node_pb2.Change.PUT:
            self._remember_pod(change)
        await self._context.write(MasterMessage(change=change))
        await self._flush()

    async def _flush(self) -> None:
        while self._control:
            await self._context.write(self._control.popleft())

    def _remember_pod(self, change: node_pb2.Change) -> None:
        self._pods[change.uid] = f"{change.key.namespace}/{change.key.name}"
        if len(self._pods) > _REMEMBERED_PODS:
            del self._pods[next(iter(self._pods))]

    # Agent to master

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as group:
            while (message := await _next(self._context)) is not None:
                if message.WhichOneof("body") == "report":
                    await self._slots.acquire()
                    group.create_task(self._apply(message.report))

    async def _apply(self, report: node_pb2.Report) -> None:
        code, text, began = 200, "", self._now()
        try:
            await self._reports.apply(self.who, report, self._pods)
        except ApiError as error:
            code, text = error.code, error.message
        except Exception as error:  # a fault of ours must not cut the node off
            log.exception('node "%s": a report failed', self.who.node)
            code, text = 500, f"{type(error).__name__}: {error}"
        finally:
            self._slots.release()
        if code not in (200, 404, 409):
            log.warning('node "%s": a report was refused: %s', self.who.node, text)
        self._metrics.reported(report.WhichOneof("body") or "unknown", code, self._now() - began)
        self._say(MasterMessage(ack=node_pb2.Ack(sequence=report.sequence, code=code, message=text)))


def innermost(error: Exception) -> Exception:
    """The first of the exceptions in a group, however nested: what ended the others."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
