from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.protocol import LogLine
from agent.engine.stream import _Seen
from agent.engine.wire import BadStream, Dechunker, Demultiplexer, LineSplitter, StreamName, log_line

names = st.sampled_from(["stdout", "stderr"])


def frame(name: str, data: bytes) -> bytes:
    return bytes([1 if name == "stdout" else 2, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.tuples(names, st.binary(max_size=50)), max_size=10), st.lists(st.integers(0, 500)))
def test_frames_come_out_whole_however_they_arrive(frames: list[tuple[StreamName, bytes]], places: list[int]) -> None:
    decoder = Demultiplexer()
    wire = b"".join(frame(name, data) for name, data in frames)
    assert [found for part in cut(wire, places) for found in decoder.feed(part)] == frames


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.lists(st.integers(0, 700)))
def test_chunks_come_out_whole_however_they_arrive(chunks: list[bytes], places: list[int]) -> None:
    decoder = Dechunker()
    wire = b"".join(f"{len(chunk):x};name=value\r\n".encode() + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    assert b"".join(decoder.feed(part) for part in cut(wire, places)) == b"".join(chunks)
    assert decoder.finished


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_lines(data: bytes, places: list[int]) -> None:
    splitter = LineSplitter()
    lines = [line for part in cut(data, places) for line in splitter.feed(part)]
    assert b"".join(lines) + splitter.rest() == data
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert b"\n" not in splitter.rest()


@pytest.mark.parametrize("data", [b"hello world", b"\x01\x00\x01\x00\x00\x00\x00\x01x", b"\x07" + bytes(7)])
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(BadStream):
        Demultiplexer().feed(data)


def test_what_is_no_chunk() -> None:
    with pytest.raises(BadStream):
        Dechunker().feed(b"hello\r\n")


@pytest.mark.parametrize(("data", "line"), [
    (b"2026-01-01T00:00:00.000000001Z one two\n", LogLine("stdout", "2026-01-01T00:00:00.000000001Z", b"one two\n")),
    (b"2026-01-01T00:00:00.000000001Z \n", LogLine("stdout", "2026-01-01T00:00:00.000000001Z", b"\n")),
    (b"2026-01-01T00:00:00.000000001Z \xff\x00", LogLine("stdout", "2026-01-01T00:00:00.000000001Z", b"\xff\x00")),
    (b"2026-01-01T00:00:00.000000001Z\n", LogLine("stdout", "2026-01-01T00:00:00.000000001Z", b"\n")),
])
def test_log_lines(data: bytes, line: LogLine) -> None:
    assert log_line("stdout", data) == line


def test_a_log_read_again_gives_each_line_once() -> None:
    lines = [LogLine("stdout", "1", b"a\n"), LogLine("stdout", "2", b"part"), LogLine("stdout", "2", b"part"),
             LogLine("stdout", "2", b"end\n"), LogLine("stderr", "3", b"x\n"), LogLine("stdout", "3", b"x\n")]
    for broken_at in range(len(lines) + 1):
        seen = _Seen()
        seen.reopened()
        taken = [line for line in lines[:broken_at] if seen.is_new(line)]
        seen.reopened()
        taken += [line for line in lines if line.time >= seen.last and seen.is_new(line)]
        assert taken == lines


def test_lines_that_rotation_repeats_are_dropped() -> None:
    """Docker under load reads the new file twice from its beginning."""
    seen = _Seen()
    lines = [LogLine("stdout", str(time), f"{time}\n".encode()) for time in range(1000, 3000)]
    repeated = [*lines[:1002], *lines[1000:], *lines[-900:]]
    assert [line for line in repeated if seen.is_new(line)] == lines
    assert len(seen._recent) <= 1000


def test_a_line_that_rotation_repeats_is_dropped() -> None:
    seen = _Seen()
    line = LogLine("stdout", "1", b"a\n")
    assert [seen.is_new(line), seen.is_new(line), seen.is_new(LogLine("stdout", "2", b"a\n"))] == [True, False, True]
