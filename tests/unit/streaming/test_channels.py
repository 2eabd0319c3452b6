"""port-forward over bare WebSocket channels, with a client and nodes that the test plays."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import WSMessage, WSMsgType

from master.apiserver.streaming.portforward import Target, _Channels
from sampan.api.errors import ApiError
from sampan.pb.node_pb2 import Data, Frame, Open, PodRef


class Socket:
    """The client's end."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[WSMessage] = asyncio.Queue()
        self.sent: list[bytes] = []

    def give(self, channel: int, data: bytes) -> None:
        self.incoming.put_nowait(WSMessage(WSMsgType.BINARY, bytes((channel,)) + data, None))

    async def receive(self) -> WSMessage:
        return await self.incoming.get()

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)


class Session:
    """The node's end: takes one chunk only once it may."""

    def __init__(self) -> None:
        self.may_take = asyncio.Event()
        self.taken: asyncio.Queue[bytes] = asyncio.Queue()
        self.answers: asyncio.Queue[Frame | None] = asyncio.Queue()

    async def receive(self) -> Frame | None:
        return await self.answers.get()

    async def send(self, channel: int, data: bytes) -> None:
        await self.may_take.wait()
        self.taken.put_nowait(data)

    async def end(self, channel: int) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close(self) -> None: ...


class Opener:
    """One session for each port."""

    def __init__(self) -> None:
        self.sessions = {80: Session(), 81: Session()}

    async def open(self, node: str, request: Open) -> Session:
        return self.sessions[request.port_forward.port]


async def test_a_connection_that_ends_while_its_data_waits_does_not_hold_up_the_other() -> None:
    socket, opener = Socket(), Opener()
    channels = _Channels(cast("Any", socket), Target(opener, "n1", PodRef(name="p")), [80, 81], closes=False)
    stuck, other = opener.sessions.values()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(channels.run())
        for _ in range(100):
            socket.give(0, b"to the first")
        socket.give(2, b"to the second")
        while not channels._queues[0].full():
            await asyncio.sleep(0)
        other.may_take.set()
        stuck.answers.put_nowait(None)
        assert await other.taken.get() == b"to the second"
        other.answers.put_nowait(Frame(data=Data(data=b"well")))
        other.answers.put_nowait(None)
        await running
    assert socket.sent == [b"\x02well"]


async def test_what_comes_for_a_connection_that_has_ended_is_not_kept() -> None:
    """A client may go on sending for as long as the other ports stand: that must not fill the master's memory."""
    socket, opener = Socket(), Opener()
    channels = _Channels(cast("Any", socket), Target(opener, "n1", PodRef(name="p")), [80, 81], closes=False)
    over, other = opener.sessions.values()
    other.may_take.set()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(channels.run())
        over.answers.put_nowait(None)
        socket.give(2, b"one")
        assert await other.taken.get() == b"one"
        for _ in range(100):
            socket.give(0, b"to nobody")
        socket.give(2, b"two")
        assert await other.taken.get() == b"two"
        assert channels._queues[0].empty()
        other.answers.put_nowait(None)
        await running


async def test_a_client_that_has_gone_when_its_port_is_refused_is_no_fault_of_ours() -> None:
    class Gone(Socket):
        async def send_bytes(self, data: bytes) -> None:
            raise ConnectionResetError("Cannot write to closing transport")

    class Refusing(Opener):
        async def open(self, node: str, request: Open) -> Session:
            raise ApiError(500, "InternalError", "connection refused")

    target = Target(Refusing(), "n1", PodRef(name="p"))
    async with asyncio.timeout(60):
        await _Channels(cast("Any", Gone()), target, [80], closes=False).run()
