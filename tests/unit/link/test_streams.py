"""Sessions that end in the middle: nothing of them may stay, least of all the line to the master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from agent.engine.protocol import Container, Engine
from agent.link import streams
from agent.link.protocol import Connector
from agent.pods.labels import POD_UID
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import SystemClock
from sampan.pb import node_pb2
from sampan.pb.node_pb2 import Data, Frame

OPEN = node_pb2.Open(id="one", exec=node_pb2.Exec(
    pod=node_pb2.PodRef(namespace="default", name="web", uid="u"), container="app", command=["sleep"], stdin=True))


class StuckProcess:
    """Reads nothing, says nothing."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        await self.closed.wait()
        yield "stdout", b""

    async def write(self, data: bytes) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed.set()


class Call:
    """A master that sends input without end, until the test ends the call."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.over = asyncio.Event()

    async def read(self) -> Frame:
        await asyncio.sleep(0)
        return Frame(data=Data(data=b"x"))

    async def write(self, frame: Frame) -> None:
        self.sent.append(frame)

    async def wait_for_connection(self) -> None: ...

    async def code(self) -> int:
        await self.over.wait()
        return 1

    def cancel(self) -> None:
        self.over.set()


class Room:
    """A pod with one container, and its stuck process."""

    def __init__(self, asked: node_pb2.Open = OPEN, *, owner: str = "u", container: str = "c",
                 call: Call | None = None) -> None:
        """`owner` is the uid of the pod that the container belongs to, `container` its id in the status."""
        self.process, self.call, self.owner = StuckProcess(), call or Call(), owner
        ended = core_v1.ContainerStateTerminated(exit_code=0, container_id=f"docker://{container}")
        status = core_v1.ContainerStatus(
            name="app", image="", image_id="", ready=True, restart_count=0, container_id=f"docker://{container}",
            state=core_v1.ContainerState(running=core_v1.ContainerStateRunning()),
            last_state=core_v1.ContainerState(terminated=ended))
        self.web = core_v1.Pod(metadata=meta_v1.ObjectMeta(name="web", namespace="default", uid="u"),
                               spec=core_v1.PodSpec(containers=[core_v1.Container(name="app")]),
                               status=core_v1.PodStatus(container_statuses=[status]))
        answers = streams.AgentStreams(cast("Engine", self), self, cast("Connector", None), SystemClock())
        self.task = asyncio.create_task(answers.serve(cast("Any", self), asked))

    def Stream(self) -> Call:  # noqa: N802 - the name in node.proto
        return self.call

    async def inspect(self, container_id: str) -> Container:
        return Container(container_id, "app", "image", "sha256:0", {POD_UID: self.owner}, "running")

    async def exec(self, *_: object, **__: object) -> StuckProcess:
        return self.process

    def pod(self, namespace: str, name: str, uid: str) -> core_v1.Pod | None:
        return self.web

    async def network_pid(self, uid: str) -> int:
        return 0

    async def stuck(self) -> None:
        """Return once the session has taken as much input as it can."""
        for _ in range(100):
            await asyncio.sleep(0)
        assert self.call.sent, "the session has begun"


async def test_a_session_with_stuck_input_ends_with_the_line() -> None:
    room = Room()
    await room.stuck()
    room.task.cancel()
    done, _ = await asyncio.wait([room.task], timeout=60)
    assert done, "it would keep the agent from connecting again"
    assert room.process.closed.is_set()


async def test_a_session_with_stuck_input_ends_when_the_master_hangs_up(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LINGER", 0.01)
    room = Room()
    await room.stuck()
    room.call.over.set()
    done, _ = await asyncio.wait([room.task], timeout=60)
    assert done, "its process would keep it for ever"
    assert room.process.closed.is_set()


class SlowCall(Call):
    """A master that takes what is said only long after the other side has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = asyncio.Event()

    async def write(self, frame: Frame) -> None:
        if frame.WhichOneof("body") == "data":
            await self.gone.wait()
            for _ in range(1000):  # meanwhile more is sent to who is not there any more
                await asyncio.sleep(0)
        await super().write(frame)

    async def done_writing(self) -> None: ...


async def test_what_was_said_before_the_end_is_passed_on_though_more_input_comes() -> None:
    """A server that refuses a large body answers, and reads no further."""
    call = SlowCall()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"too large")
        await writer.drain()
        writer.close()
        call.gone.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    room = Room(node_pb2.Open(id="one", proxy=node_pb2.Proxy(address=f"127.0.0.1:{port}")), call=call)
    async with asyncio.timeout(60):
        while len(call.sent) < 3:
            await asyncio.sleep(0)
    assert call.sent[1].data.data == b"too large"
    room.task.cancel()
    await asyncio.wait([room.task])
    server.close()


POD = node_pb2.PodRef(namespace="default", name="web", uid="u")


@pytest.mark.parametrize(("asked", "code", "message"), [
    (OPEN, 500, 'container not found ("app")'),
    (node_pb2.Open(id="one", attach=node_pb2.Attach(pod=POD, container="app", stdout=True)), 500,
     "container app not found in pod web_default"),
    (node_pb2.Open(id="one", logs=node_pb2.Logs(pod=POD, container="app")), 400,
     'container "app" in pod "web" is not available'),
    (node_pb2.Open(id="one", logs=node_pb2.Logs(pod=POD, container="app", previous=True)), 400,
     'container "app" in pod "web" is not available')], ids=["exec", "attach", "logs", "previous"])
@pytest.mark.parametrize(("owner", "container"), [("another", "c"), ("", "postgres"), ("u", "../images/json?c=")])
async def test_a_status_that_names_a_foreign_container_opens_it_to_nobody(
        asked: node_pb2.Open, code: int, message: str, owner: str, container: str) -> None:
    room = Room(asked, owner=owner, container=container)
    async with asyncio.timeout(60):
        while not room.call.sent:
            await asyncio.sleep(0)
    assert [(frame.failure.code, frame.failure.message) for frame in room.call.sent] == [(code, message)]
    room.task.cancel()
    await asyncio.wait([room.task], timeout=60)
