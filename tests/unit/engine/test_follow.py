"""Following a log over Docker's own ends of it, with streams that a test writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import pytest

from agent.engine.protocol import EngineUnavailable, NotFound
from agent.engine.stream import Connection, follow_logs


class Opened:
    """Answers each opening of the log with the next of `answers`, and remembers what was asked."""

    def __init__(self, *answers: Sequence[bytes | Exception] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, bool]] = []

    async def __call__(self, since: str, tail: str, following: bool) -> Connection:
        self.asked.append((since, tail, following))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return cast("Connection", _Stream(answer))


class _Stream:
    def __init__(self, lines: Sequence[bytes | Exception]) -> None:
        self._lines = list(lines)

    async def read(self) -> bytes:
        if not self._lines:
            return b""
        line = self._lines.pop(0)
        if isinstance(line, Exception):
            raise line
        return b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line

    async def aclose(self) -> None: ...


def line(second: int, text: str) -> bytes:
    return f"2026-01-01T00:00:{second:02}.000000000Z {text}\n".encode()


def states(*values: bool) -> Callable[[], Awaitable[bool]]:
    """Whether the container runs, each time that it is asked."""
    left = list(values)

    async def running() -> bool:
        return left.pop(0)

    return running


async def read(opened: Opened, *running: bool, tail: str = "all") -> list[str]:
    lines = follow_logs(opened, states(*running), tty=False, since="0", tail=tail)
    return [entry.data.decode().strip() async for entry in lines]


async def test_what_came_after_docker_ended_the_stream_is_fetched_once() -> None:
    opened = Opened([line(1, "a"), line(1, "b")], [line(1, "a"), line(1, "b"), line(2, "c")],
                    [line(2, "c"), line(3, "d")])
    assert await read(opened, True, False, tail="5") == ["a", "b", "c", "d"]
    assert opened.asked == [("0", "5", True), ("1767225601.000000000", "all", True),
                            ("1767225602.000000000", "all", False)]


async def test_a_container_that_is_removed_ends_its_log() -> None:
    """Between its end and the last look at its log; whoever follows it has seen all there is."""
    assert await read(Opened([line(1, "a")], NotFound("No such container")), False) == ["a"]


async def test_an_engine_that_restarts_is_waited_for() -> None:
    """With live-restore the container runs on meanwhile."""
    gone = EngineUnavailable("connection refused")
    opened = Opened([line(1, "a"), gone], gone, gone, [line(1, "a"), line(2, "b")], [line(2, "b")])
    assert await read(opened, True, True, True, False) == ["a", "b"]
    with pytest.raises(EngineUnavailable):
        await read(Opened(gone))


async def test_a_container_that_is_not_there_is_an_error() -> None:
    with pytest.raises(NotFound):
        await read(Opened(NotFound("No such container")))
