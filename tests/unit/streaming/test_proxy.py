"""nodes/proxy: where a request goes, and what is made of what the node answers."""

from __future__ import annotations

from collections.abc import Sequence

import h11
import pytest

from master.apiserver.streaming.proxy import _events, target
from sampan.nodeline import STDOUT
from sampan.pb.node_pb2 import Data, Exit, Failure, Frame

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"


@pytest.mark.parametrize(("path", "wanted"), [
    ("/api/v1/nodes/a/proxy/metrics", "/metrics"), ("/api/v1/nodes/a/proxy", "/"), ("/api/v1/nodes/a/proxy/", "/"),
    ("/api/v1/nodes/proxy/proxy/stats/summary?a=b%20c", "/stats/summary?a=b%20c"),
    ("/api/v1/nodes/a/proxy/x%2Fy", "/x%2Fy"), ("/api/v1/nodes/a/proxy?x=/proxy/", "/?x=/proxy/")])
def test_the_targets_own_path(path: str, wanted: str) -> None:
    assert target(path) == wanted


class Node:
    """A session that says what it was given."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = list(frames)

    async def receive(self) -> Frame | None:
        return self._frames.pop(0) if self._frames else None

    async def send(self, channel: int, data: bytes) -> None: ...
    async def end(self, channel: int) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close(self) -> None: ...


async def heard(*frames: Frame) -> list[type[h11.Event]]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "node")]))
    connection.send(h11.EndOfMessage())
    return [type(event) async for event in _events(connection, Node(frames))]


def data(content: bytes) -> Frame:
    return Frame(data=Data(channel=STDOUT, data=content))


async def test_an_answer_in_pieces() -> None:
    frames = [data(ANSWER[start:start + 7]) for start in range(0, len(ANSWER), 7)]
    seen = await heard(*frames)
    assert seen[0] is h11.Response
    assert set(seen[1:-1]) == {h11.Data}
    assert seen[-1] is h11.EndOfMessage


@pytest.mark.parametrize("end", [Frame(failure=Failure(code=500)), Frame(exit=Exit(code=0))])
async def test_an_answer_that_breaks_off(end: Frame) -> None:
    assert await heard(data(ANSWER[:-2]), end) == [h11.Response, h11.Data]
    assert await heard(end) == []
    assert await heard(data(ANSWER[:-2])) == [h11.Response, h11.Data]


async def test_no_http() -> None:
    with pytest.raises(h11.RemoteProtocolError):
        await heard(data(b"SSH-2.0-OpenSSH\r\n\r\n"))
