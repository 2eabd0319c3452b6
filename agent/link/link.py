"""The agent's line to the master: connect, catch up, follow, report; again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import grpc
import grpc.aio

from agent.link.authority import LinkAuthority
from agent.link.checkpoint import Checkpoint, CheckpointWriter
from agent.link.files import NodeFiles
from agent.link.outbox import Outbox
from agent.link.streams import AgentStreams
from agent.link.view import View
from sampan import __version__
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.nodeline import CHANNEL_OPTIONS, GROUP, PROTOCOL_VERSION, USER_PREFIX, Key
from sampan.pb import node_pb2, node_pb2_grpc
from sampan.pb.node_pb2 import AgentMessage, Change, MasterMessage
from sampan.pki.pair import CertificateError, KeyPair, validity

log = logging.getLogger(__name__)

WELCOME_TIMEOUT = 30.0
"""Seconds from dialling to the master's Welcome."""
RENEW_TIMEOUT = 30.0
_REFUSED = 5
"""An agent that was refused waits so many times as long as one that reaches nobody: somebody has to do something."""
QUIET = 30.0
"""Seconds for which a failure that has been logged is not logged again."""
OPEN_PATIENCE = 30.0
"""Seconds that a request for a session waits while the agent is starting; the master gives up then, too."""
_HELD_BATCH = 2000
_CALM = 30.0
_REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED)


class Disconnected(Exception):
    """The line is down; `refused` where the master does not want this agent."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Link:
    """Keeps one connection to a master. `view` is the ClusterView, `reports` the Reports of the agent.

    `servers` are tried in turn (host:port). The identity in `files` is read for each connection.
    """

    def __init__(self, node: str, servers: Sequence[str], files: NodeFiles, clock: Clock, *,
                 checkpoint: Checkpoint | None = None, streams: AgentStreams | None = None,
                 backoff: Backoff | None = None, rng: random.Random | None = None) -> None:
        self.view = View()
        self.reports = Outbox(clock)
        self.connected = asyncio.Event()
        """Set while the master has confirmed the view over the present connection."""
        self.refusal = ""
        """Why the master does not want this agent; "" where it does, or is not reached."""
        self.warn: Callable[[str, str], None] = _unheard
        """Where what this node's people should know goes, as an event's reason and message; it goes by `reports`."""
        self._node = node
        self._servers = tuple(servers)
        self._files = files
        self._clock = clock
        self._checkpoint = checkpoint
        self._streams = streams
        self._answering = asyncio.Event()
        if streams:
            self._answering.set()
        self._backoff = backoff or Backoff(initial=0.2, maximum=2.0, jitter=0.5)  # exec and logs wait for us
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._stub: node_pb2_grpc.NodeServiceStub | None = None
        self._said: dict[str, float] = {}
        self.authority = LinkAuthority(lambda: self._stub, clock)
        """Asks the master over the present connection."""

    async def run(self) -> None:
        """Until cancelled; CheckpointTooNew at once where the checkpoint is from a newer agent."""
        if self._checkpoint and self._checkpoint.load(self.view):
            self.view.restored()
            self.view.changed.clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_connected())
                group.create_task(self._keep_certified())
                if self._checkpoint:
                    group.create_task(CheckpointWriter(self._checkpoint, self.view, self._clock).run())
        finally:
            self.reports.close()

    def serve(self, streams: AgentStreams) -> None:
        """From now on these answer when the master asks for exec, logs and the like; what it has asked so far, too."""
        self._streams = streams
        self._answering.set()

    async def answer(self, stub: node_pb2_grpc.NodeServiceStub, request: node_pb2.Open) -> None:
        """One session to its end. It waits where the agent has only just started, and knows no pods yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_PATIENCE):
                await self._answering.wait()
        if self._streams:
            await self._streams.serve(stub, request)

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            server = self._servers[failures % len(self._servers)]
            started = self._clock.monotonic()
            try:
                await self._connect(server)
            except Disconnected as error:
                failures = 1 if self._clock.monotonic() - started > _CALM else failures + 1
                self.refusal = str(error) if error.refused else ""
                delay = (self._backoff.maximum * _REFUSED if error.refused
                         else self._backoff.delay(failures, self._rng))
                self._complain(server, error)
            finally:
                self.connected.clear()
                self.reports.reset()
            await self._clock.sleep(delay)

    def _complain(self, server: str, error: Disconnected) -> None:
        """Log why there is no connection; the same again only after a while, since tries come fast."""
        said, now = f"no connection to the master at {server}: {error}", self._clock.monotonic()
        self._said = {text: at for text, at in self._said.items() if now - at < QUIET}
        if said not in self._said:
            self._said[said] = now
            log.log(logging.ERROR if error.refused else logging.WARNING, "%s; trying again", said)

    async def _connect(self, server: str) -> None:
        """One connection from dialling to its end, which is always Disconnected."""
        async with grpc.aio.secure_channel(server, self._credentials(), options=CHANNEL_OPTIONS) as channel:
            self._stub = node_pb2_grpc.NodeServiceStub(channel)
            try:
                await _Connection(self, self._stub).run()
            except (ExceptionGroup, grpc.aio.AioRpcError) as error:
                raise _disconnected(error) from None
            finally:
                self._stub = None

    def _credentials(self) -> grpc.ChannelCredentials:
        try:
            pair, authority = self._files.pair(), self._files.authority()
        except CertificateError as error:
            raise Disconnected(f"this node has no identity: {error}") from error
        return grpc.ssl_channel_credentials(authority, pair.key, pair.certificate)

    # The certificate

    async def _keep_certified(self) -> None:
        failures = 0
        while True:
            try:
                wait = _renewal(self._files.pair().certificate) - self._clock.now()
                seconds = wait.total_seconds()
            except CertificateError:
                seconds = 60.0
            if seconds > 0:
                await self._clock.sleep(min(seconds, 3600.0))  # an hour: the wall clock may be set meanwhile
                continue
            await self.connected.wait()
            try:
                await self._renew(self._servers[failures % len(self._servers)])
                failures = 0
            except (grpc.aio.AioRpcError, CertificateError, OSError, Disconnected) as error:
                failures += 1
                why = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                text = f"the node's certificate ends {self._files.expires()} and could not be renewed: {why}"
                log.warning("%s", text)
                self.warn("CertificateExpirationWarning", text)
                await self._clock.sleep(Backoff(initial=10.0, maximum=600.0).delay(failures, self._rng))

    async def _renew(self, server: str) -> None:
        """Get a certificate for a new key; the next connection uses it, the present one goes on."""
        from sampan.pki import ca  # noqa: PLC0415 - 8 MB that are needed after months

        key = self._files.pending_key()
        request = ca.make_request(key, ca.Identity(USER_PREFIX + self._node, (GROUP,)))
        async with grpc.aio.secure_channel(server, self._credentials(), options=CHANNEL_OPTIONS) as channel:
            stub = node_pb2_grpc.NodeServiceStub(channel)
            reply = await stub.Renew(node_pb2.RenewRequest(request=request), timeout=RENEW_TIMEOUT)
        pair = KeyPair(reply.certificate, key)
        if not ca.belong_together(pair):
            raise CertificateError("the master sent a certificate of another key")
        self._files.store(pair)
        log.info("the node's certificate has been renewed until %s", self._files.expires())


class _Connection:
    """One Sync call and the sessions that came with it."""

    def __init__(self, link: Link, stub: node_pb2_grpc.NodeServiceStub) -> None:
        self._link = link
        self._stub = stub

    async def run(self) -> None:
        """Until the call ends, which always raises."""
        call = self._stub.Sync()
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                await self._greet(call)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._report(call))
                await self._follow(call, group)
                raise Disconnected("the master ended the connection")
        except TimeoutError as error:
            raise Disconnected(f"the master did not answer within {WELCOME_TIMEOUT:.0f} s") from error
        finally:
            call.cancel()

    async def _greet(self, call: Any) -> None:
        await self._write(call, AgentMessage(hello=node_pb2.Hello(version=PROTOCOL_VERSION, software=__version__)))
        for batch in _held(self._link.view):
            await self._write(call, AgentMessage(held=batch))
        message = await call.read()  # raises where the call has failed
        if not isinstance(message, MasterMessage) or message.WhichOneof("body") != "welcome":
            raise Disconnected("the master sent no Welcome")
        if not 0 < message.welcome.version <= PROTOCOL_VERSION:
            raise Disconnected(f"the master ({message.welcome.software}) speaks version {message.welcome.version} of "
                               f"the node protocol, this agent only up to {PROTOCOL_VERSION}", refused=True)
        self._link.refusal = ""
        log.info("connected to the master (%s)", message.welcome.software)

    async def _report(self, call: Any) -> None:
        while await self._write(call, AgentMessage(report=await self._link.reports.next())):
            pass

    @staticmethod
    async def _write(call: Any, message: AgentMessage) -> bool:
        """False where the call has ended: why, reading from it tells, while writing may give just "internal error"."""
        try:
            await call.write(message)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            return False
        return True

    async def _follow(self, call: Any, sessions: asyncio.TaskGroup) -> None:
        while isinstance(message := await call.read(), MasterMessage):
            kind = message.WhichOneof("body")
            if kind == "change":
                self._apply(message.change)
            elif kind == "ack":
                self._link.reports.acknowledge(message.ack)
            elif kind == "synced":
                self._link.view.confirm()
                self._link.connected.set()
            elif kind == "open":
                sessions.create_task(self._link.answer(self._stub, message.open))

    def _apply(self, change: Change) -> None:
        key = Key.read(change.key)
        if change.operation == Change.PUT:
            self._link.view.put(key, change.uid, change.revision, change.object)
        else:
            self._link.view.delete(key)


def _held(view: View) -> Iterator[node_pb2.Held]:
    """What the agent holds, in messages of bounded size; at least one."""
    items = [node_pb2.HeldObject(key=entry.key.message(), uid=entry.uid, revision=entry.revision)
             for entry in view.entries()]
    for start in range(0, max(len(items), 1), _HELD_BATCH):
        last = start + _HELD_BATCH >= len(items)
        yield node_pb2.Held(objects=items[start:start + _HELD_BATCH], last=last)


def _disconnected(error: Exception) -> Exception:
    """What ended a connection, in our words; a fault of ours stays what it is."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        return Disconnected(error.details() or error.code().name, refused=error.code() in _REFUSALS)
    return error


def _unheard(_reason: str, _message: str) -> None:
    """Nobody makes events of it."""


def _renewal(certificate: bytes) -> datetime:
    """When to renew: after 70 % of the certificate's life (upstream's kubelet: between 70 and 90 %)."""
    start, end = validity(certificate)
    return start + (end - start) * 0.7
