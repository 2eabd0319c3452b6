"""A SPDY connection against a client that the test plays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from master.apiserver.streaming import connection, spdy
from master.apiserver.streaming.connection import SpdyConnection
from master.apiserver.streaming.remote import SpdyClient, interact, parse_resizes
from sampan.pb.node_pb2 import Exit, Frame, Resize


class Pipe:
    """A Wire with the client's end in the test's hands."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.framer = spdy.Framer()
        self.sent: list[spdy.Frame] = []
        self.closed = False
        self._theirs = spdy.Framer()

    def give(self, *frames: spdy.Frame) -> None:
        for frame in frames:
            self.incoming.put_nowait(self._theirs.encode(frame))

    def hang_up(self) -> None:
        self.incoming.put_nowait(b"")

    async def read(self) -> bytes:
        return await self.incoming.get()

    async def write(self, data: bytes) -> None:
        self.sent += self.framer.feed(data)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Pipe, SpdyConnection]]:
    pipe = Pipe()
    made = SpdyConnection(pipe)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.run())
        yield pipe, made
        task.cancel()


async def test_streams_are_answered_and_carry_data_until_both_ends_finish() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(1, {"streamtype": "data"}), spdy.Data(1, b"hello"), spdy.Data(1, fin=True))
        stream = await anext(made.accept())
        assert stream.headers == {"streamtype": "data"}
        assert await stream.read() == b"hello"
        assert await stream.read() == b""
        await stream.write(b"answer")
        await stream.finish()
        await stream.write(b"too late")
        assert pipe.sent == [spdy.SynReply(1), spdy.Data(1, b"answer"), spdy.Data(1, fin=True)]
        assert stream.done


async def test_a_reset_ends_reading_and_writing() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(1), spdy.RstStream(1, spdy.CANCEL))
        stream = await anext(made.accept())
        assert await stream.read() == b""
        await stream.was_reset.wait()
        await stream.write(b"nobody listens")
        await stream.finish()
        assert pipe.sent == [spdy.SynReply(1)]


async def test_pings_of_the_client_are_answered() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.Ping(7), spdy.Ping(8), spdy.SynStream(1))
        await anext(made.accept())
        assert pipe.sent[0] == spdy.Ping(7)
        assert spdy.Ping(8) not in pipe.sent


async def test_a_stream_that_is_not_read_holds_the_connection_back_until_it_is_discarded() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(1), spdy.SynStream(3))
        streams = made.accept()
        slow, quick = await anext(streams), await anext(streams)
        chunk = b"x" * 1024 * 1024
        pipe.give(*(spdy.Data(1, chunk) for _ in range(4)), spdy.Data(3, b"quick"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not pipe.incoming.empty()
        slow.discard()
        assert await quick.read() == b"quick"


async def test_many_streams_together_hold_the_connection_back_too() -> None:
    async with connected() as (pipe, made):
        streams = made.accept()
        numbers, chunk = range(1, 81, 2), b"x" * 1024 * 1024
        pipe.give(*(spdy.SynStream(number) for number in numbers), *(spdy.Data(number, chunk) for number in numbers))
        opened = [await anext(streams) for _ in numbers]
        async with asyncio.timeout(60):
            while made.unread <= connection.UNREAD:
                await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert made.unread == connection.UNREAD + len(chunk)
        assert not pipe.incoming.empty()
        for stream in opened:
            assert await stream.read() == chunk
        assert made.unread == 0


async def test_nothing_comes_after_the_end() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(1), spdy.Data(1, b"all", fin=True), spdy.Data(1, b"more"), spdy.SynStream(3))
        streams = made.accept()
        first, _ = await anext(streams), await anext(streams)
        assert await first.read() == b"all"
        assert await first.read() == b""


async def test_a_stream_that_was_reset_holds_nothing() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(1), spdy.Data(1, b"unread"), spdy.RstStream(1, spdy.CANCEL), spdy.SynStream(3))
        streams = made.accept()
        first, _ = await anext(streams), await anext(streams)
        assert made.unread == 0
        assert await first.read() == b"unread"
        assert made.unread == 0


async def test_a_lost_client_ends_every_stream() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(1))
        streams = made.accept()
        stream = await anext(streams)
        pipe.hang_up()
        assert await stream.read() == b""
        await made.closed.wait()
        assert [other async for other in streams] == []


async def test_a_client_that_breaks_the_protocol_is_told_and_dropped() -> None:
    async with connected() as (pipe, made):
        pipe.give(spdy.SynStream(3), spdy.SynStream(1))
        await made.closed.wait()
        assert pipe.sent[-1] == spdy.GoAway(3, spdy.PROTOCOL_ERROR)


async def test_too_many_streams_are_refused() -> None:
    async with connected() as (pipe, _):
        pipe.give(*(spdy.SynStream(number) for number in range(1, 2 * connection.MAX_STREAMS + 3, 2)), spdy.Ping(1))
        async with asyncio.timeout(60):
            while spdy.Ping(1) not in pipe.sent:
                await asyncio.sleep(0)
        refused = [frame for frame in pipe.sent if isinstance(frame, spdy.RstStream)]
        assert refused == [spdy.RstStream(2 * connection.MAX_STREAMS + 1, spdy.REFUSED_STREAM)]


def test_sizes_of_the_terminal() -> None:
    assert parse_resizes('{"Width":80,"Height":24}\n{"Width":81,"Height":25}') == [
        Resize(width=80, height=24), Resize(width=81, height=25)]
    for wrong in ("", "x", "[]", '{"Width":"a","Height":1}', '{"Width":0,"Height":0}', '{"Width":99999,"Height":1}'):
        assert parse_resizes(wrong) == []


class Session:
    """A node whose process ends, with code 3, while its input is being passed on."""

    def __init__(self) -> None:
        self.sending = asyncio.Event()

    async def receive(self) -> Frame | None:
        await self.sending.wait()
        return Frame(exit=Exit(code=3))

    async def send(self, channel: int, data: bytes) -> None:
        self.sending.set()
        await asyncio.Event().wait()

    async def end(self, channel: int) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close(self) -> None: ...


async def test_a_process_that_ends_while_its_input_is_on_its_way_tells_its_exit_code() -> None:
    async with asyncio.timeout(60), connected() as (pipe, made):
        pipe.give(spdy.SynStream(1, {"streamtype": "error"}), spdy.SynStream(3, {"streamtype": "stdin"}),
                  spdy.Data(3, b"more than it reads"))
        opened = made.accept()
        streams = {stream.headers["streamtype"]: stream for stream in (await anext(opened), await anext(opened))}
        await interact(SpdyClient(made, streams, "v4.channel.k8s.io"), Session())
        told = b"".join(frame.data for frame in pipe.sent if isinstance(frame, spdy.Data) and frame.stream == 1)
        assert json.loads(told)["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
        assert pipe.closed
