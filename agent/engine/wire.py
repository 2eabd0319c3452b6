"""What Docker's streams look like on the wire, as incremental decoders that know no socket.

Source: the Engine API reference, "Stream format" of ContainerAttach, and RFC 9112 section 7.1 (chunked coding).
"""

from __future__ import annotations

from typing import Literal

from agent.engine.protocol import LogLine

StreamName = Literal["stdout", "stderr"]

_HEADER = 8
_NAMES: dict[int, StreamName] = {0: "stdout", 1: "stdout", 2: "stderr"}


class BadStream(ValueError):
    """The bytes are not what the format says."""


class Demultiplexer:
    """Takes apart the frames in which Docker sends both outputs over one connection.

    A frame is one byte for the stream (0 stdin's echo, 1 stdout, 2 stderr, 3 an error of the daemon's own), three of
    zero, four for the length (big endian), and that many bytes of output.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[StreamName, bytes]]:
        """The frames that are complete now; the rest waits for more bytes."""
        self._buffer += data
        frames: list[tuple[StreamName, bytes]] = []
        position = 0
        while len(self._buffer) - position >= _HEADER:
            kind = self._buffer[position]
            if kind > 3 or any(self._buffer[position + 1:position + 4]):
                raise BadStream(f"no frame header: {bytes(self._buffer[position:position + _HEADER])!r}")
            end = position + _HEADER + int.from_bytes(self._buffer[position + 4:position + _HEADER], "big")
            if end > len(self._buffer):
                break
            frames.append((_NAMES.get(kind, "stderr"), bytes(self._buffer[position + _HEADER:end])))
            position = end
        del self._buffer[:position]
        return frames


class Dechunker:
    """Undoes HTTP's chunked transfer coding; `finished` once the last chunk has come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # bytes of the current chunk that are still to come, with its closing line break
        self.finished = False

    def feed(self, data: bytes) -> bytes:
        """The body's bytes that are certain now."""
        self._buffer += data
        body = bytearray()
        while self._buffer and not self.finished:
            if self._left == 0 and not self._begin_chunk():
                break
            self._take(body)
        return bytes(body)

    def _begin_chunk(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError as error:
            raise BadStream(f"no chunk size: {bytes(line[:40])!r}") from error
        self._buffer = rest
        self._left = size + 2
        self.finished = size == 0
        return True

    def _take(self, body: bytearray) -> None:
        part = self._buffer[:self._left]
        del self._buffer[:len(part)]
        # The chunk's last two bytes are a line break that is not part of the body.
        body += part[:max(0, self._left - 2)]
        self._left -= len(part)


class LineSplitter:
    """Cuts a flow of bytes into lines, each with its line break."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        self._buffer += data
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        return [line + b"\n" for line in lines]

    def rest(self) -> bytes:
        """What was left without a line break."""
        return bytes(self._buffer)


def log_line(stream: StreamName, frame: bytes) -> LogLine:
    """A frame of a log with timestamps: RFC 3339 with nine digits, a space, and the line (or part) as written."""
    time, separator, data = frame.partition(b" ")
    if not separator:
        time, data = frame.rstrip(b"\n"), frame[len(frame.rstrip(b"\n")):]
    return LogLine(stream, time.decode("ascii", "replace"), data)
