"""Streams that break off: Docker went away in the middle of an answer."""

from __future__ import annotations

import socket

import pytest

from agent.engine.protocol import EngineUnavailable
from agent.engine.stream import Connection, Handover, Pulled


async def answered(*pieces: bytes) -> Connection:
    """A chunked answer that ends where its connection does."""
    ours, docker = socket.socketpair()
    ours.setblocking(False)
    with docker:
        for piece in pieces:
            docker.sendall(piece)
    return await Connection.take(Handover(ours, b"", chunked=True))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


PROGRESS = chunk(b'{"status":"Downloading"}\n')


async def test_a_pull_is_over_when_docker_says_so() -> None:
    connection = await answered(PROGRESS, b"0\r\n\r\n")
    await Pulled(connection, 60).finish()
    await connection.aclose()


@pytest.mark.parametrize("pieces", [(), (PROGRESS,), (PROGRESS[:10],)])
async def test_a_pull_that_breaks_off_has_failed(pieces: tuple[bytes, ...]) -> None:
    """Else an older image of that name would be taken for what was pulled."""
    connection = await answered(*pieces)
    with pytest.raises(EngineUnavailable, match="broke off"):
        await Pulled(connection, 60).finish()
    await connection.aclose()
