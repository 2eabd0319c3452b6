from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.streaming import spdy
from master.apiserver.streaming.spdy import (
    Data,
    Framer,
    GoAway,
    Headers,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
)

numbers = st.integers(0, 2**31 - 1)
words = st.integers(0, 2**32 - 1)
names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
headers = st.dictionaries(names, values, max_size=6)
frames = st.one_of(
    st.builds(SynStream, numbers, headers, st.booleans()), st.builds(SynReply, numbers, headers, st.booleans()),
    st.builds(Headers, numbers, headers, st.booleans()), st.builds(RstStream, numbers, words),
    st.builds(Ping, words), st.builds(GoAway, numbers, words),
    st.builds(Data, numbers, st.binary(max_size=300), st.booleans()))


def test_the_dictionary_is_the_one_of_the_draft() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


@given(st.lists(frames, max_size=12), st.data())
def test_frames_survive_the_wire_however_it_is_cut(sent: list[spdy.Frame], data: st.DataObject) -> None:
    writer, reader = Framer(), Framer()
    wire = b"".join(writer.encode(frame) for frame in sent)
    got: list[spdy.Frame] = []
    position = 0
    while position < len(wire):
        size = data.draw(st.integers(1, 400))
        got += reader.feed(wire[position:position + size])
        position += size
    assert got == sent


@given(st.binary(max_size=600))
def test_garbage_is_refused_or_waited_on_but_never_crashes(data: bytes) -> None:
    with contextlib.suppress(SpdyError):
        list(Framer().feed(data))


@given(st.lists(frames, min_size=1, max_size=4), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_crashes(sent: list[spdy.Frame], where: int, flip: int) -> None:
    writer = Framer()
    wire = bytearray(b"".join(writer.encode(frame) for frame in sent))
    wire[where % len(wire)] ^= flip
    with contextlib.suppress(SpdyError):
        list(Framer().feed(bytes(wire)))


def test_what_go_s_library_sends_is_understood() -> None:
    # The first bytes of a real stream: SYN_STREAM 1 with FIN, as kubectl's error stream begins.
    block = b"\0\0\0\x02\0\0\0\x04port\0\0\0\x0280\0\0\0\x0astreamtype\0\0\0\x05error"
    packer = zlib.compressobj(zdict=spdy.DICTIONARY)
    packed = packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH)
    frame = b"\x80\x03\x00\x01\x01" + (10 + len(packed)).to_bytes(3, "big") + b"\0\0\0\x01\0\0\0\0\0\0" + packed
    assert list(Framer().feed(frame)) == [SynStream(1, {"port": "80", "streamtype": "error"}, fin=True)]


def test_frames_that_need_no_answer_are_passed_over() -> None:
    settings = b"\x80\x03\x00\x04\x00\x00\x00\x04\0\0\0\0"
    assert list(Framer().feed(settings)) == [spdy.Ignored(4)]


def test_another_version_is_refused() -> None:
    with pytest.raises(SpdyError, match="version 2"):
        list(Framer().feed(b"\x80\x02\x00\x06\x00\x00\x00\x04\0\0\0\x01"))


def test_a_header_bomb_is_refused() -> None:
    packer = zlib.compressobj(zdict=spdy.DICTIONARY)
    packed = packer.compress(b"\0\0\0\x01" + b"\0" * 10_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
    frame = b"\x80\x03\x00\x01\x00" + (10 + len(packed)).to_bytes(3, "big") + bytes(10) + packed
    with pytest.raises(SpdyError, match="more than"):
        list(Framer().feed(frame))


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(SpdyError, match="too long"):
        list(Framer().feed(b"\0\0\0\x01\x00\xff\xff\xff"))
