"""SPDY/3.1 framing, as far as exec, attach and port-forward need it (draft-mbelshe-httpbis-spdy-00 and SPDY/3.1).

Go's clients speak it over an upgraded HTTP connection, or wrapped in WebSocket messages. Flow control by
WINDOW_UPDATE is left out as those clients leave it out: TCP's own holds a fast sender back.

This room is pure: bytes in, frames out, and the reverse.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_FIN = 0x01
_ID_MASK = 0x7FFFFFFF
_HEAD = 8
MAX_FRAME = 4 * 1024 * 1024
"""Bytes of one frame's payload that are taken; a frame's length field allows 16 MiB."""
MAX_HEADERS = 64 * 1024
"""Bytes of one header block, unpacked."""

PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 3, 5, 6
"""Status codes of RST_STREAM."""


class SpdyError(ValueError):
    """The peer does not speak SPDY/3.1; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """The peer opens a stream. `fin`: it will send nothing on it."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    """A stream is accepted."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """A stream is given up, both ways."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Is somebody there? The same frame is the answer."""

    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """No streams after `last` will be handled."""

    last: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class Headers:
    """More headers for a stream."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; `fin` ends this direction."""

    stream: int
    data: bytes = b""
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame that needs no answer here (SETTINGS, WINDOW_UPDATE, what the future brings)."""

    kind: int


Frame = SynStream | SynReply | RstStream | Ping | GoAway | Headers | Data | Ignored


class Framer:
    """One connection's framing. Headers are compressed with a state that lives as long as the connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._unpack = zlib.decompressobj(zdict=DICTIONARY)
        self._pack = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes; SpdyError where they are none."""
        self._buffer += data
        while len(self._buffer) >= _HEAD:
            first, rest = struct.unpack_from(">II", self._buffer)
            flags, length = rest >> 24, rest & 0xFFFFFF
            if length > MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes is too long")
            if len(self._buffer) < _HEAD + length:
                return
            payload = bytes(self._buffer[_HEAD:_HEAD + length])
            del self._buffer[:_HEAD + length]
            fin = bool(flags & _FIN)
            if first >> 31:
                yield self._control(first, payload, fin=fin)
            else:
                yield Data(first & _ID_MASK, payload, fin)

    def encode(self, frame: Frame) -> bytes:
        """The frame's bytes. Encode in the order of sending: the header compression depends on it."""
        match frame:
            case Data(stream, data, fin):
                return struct.pack(">II", stream, (fin << 24) | len(data)) + data
            case SynStream(stream, headers, fin):
                return self._frame(_SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + self._compress(headers), fin=fin)
            case SynReply(stream, headers, fin):
                return self._frame(_SYN_REPLY, struct.pack(">I", stream) + self._compress(headers), fin=fin)
            case Headers(stream, headers, fin):
                return self._frame(_HEADERS, struct.pack(">I", stream) + self._compress(headers), fin=fin)
            case RstStream(stream, status):
                return self._frame(_RST_STREAM, struct.pack(">II", stream, status))
            case Ping(number):
                return self._frame(_PING, struct.pack(">I", number))
            case GoAway(last, status):
                return self._frame(_GOAWAY, struct.pack(">II", last, status))
            case Ignored(kind):
                raise SpdyError(f"frames of type {kind} are not sent")

    @staticmethod
    def _frame(kind: int, payload: bytes, *, fin: bool = False) -> bytes:
        return struct.pack(">HHI", 0x8000 | _VERSION, kind, (fin << 24) | len(payload)) + payload

    def _control(self, first: int, payload: bytes, *, fin: bool) -> Frame:
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise SpdyError(f"SPDY version {version} is not spoken here")
        try:
            match kind:
                case 1:
                    stream, _, _ = struct.unpack_from(">IIH", payload)
                    return SynStream(stream & _ID_MASK, self._decompress(payload[10:]), fin)
                case 2:
                    stream, = struct.unpack_from(">I", payload)
                    return SynReply(stream & _ID_MASK, self._decompress(payload[4:]), fin)
                case 3:
                    stream, status = struct.unpack_from(">II", payload)
                    return RstStream(stream & _ID_MASK, status)
                case 6:
                    number, = struct.unpack_from(">I", payload)
                    return Ping(number)
                case 7:
                    last, status = struct.unpack_from(">II", payload)
                    return GoAway(last & _ID_MASK, status)
                case 8:
                    stream, = struct.unpack_from(">I", payload)
                    return Headers(stream & _ID_MASK, self._decompress(payload[4:]), fin)
                case _:
                    return Ignored(kind)
        except struct.error as error:
            raise SpdyError(f"a frame of type {kind} is too short") from error

    def _compress(self, headers: Mapping[str, str]) -> bytes:
        block = bytearray(struct.pack(">I", len(headers)))
        for name, value in headers.items():
            for text in (name.lower().encode("latin-1"), value.encode("latin-1", "replace")):
                block += struct.pack(">I", len(text)) + text
        return self._pack.compress(bytes(block)) + self._pack.flush(zlib.Z_SYNC_FLUSH)

    def _decompress(self, data: bytes) -> dict[str, str]:
        """Names come in lower case; several values of one name are joined by NUL, of which the first counts."""
        try:
            block = self._unpack.decompress(data, MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"a header block cannot be unpacked: {error}") from error
        if self._unpack.unconsumed_tail:
            raise SpdyError(f"a header block has more than {MAX_HEADERS} bytes")
        headers: dict[str, str] = {}
        count, = struct.unpack_from(">I", block)
        position = 4
        for _ in range(count):
            texts = []
            for _ in range(2):
                length, = struct.unpack_from(">I", block, position)
                position += 4
                if position + length > len(block):
                    raise SpdyError("a header is longer than its block")
                texts.append(block[position:position + length].decode("latin-1"))
                position += length
            headers[texts[0].lower()] = texts[1].split("\0")[0]
        return headers


def _dictionary() -> bytes:
    """The compression dictionary of SPDY/3: words with their lengths before them, then one text without."""
    names = (
        "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age "
        "allow authorization cache-control connection content-base content-encoding content-language content-length "
        "content-location content-md5 content-range content-type date etag expect expires from host if-match "
        "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
        "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding "
        "upgrade user-agent vary via warning www-authenticate method get status")
    words = [*names.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
    codes = ("100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
             "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
             "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable")
    dates = "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    rest = ("chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
            "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.")
    prefixed = b"".join(struct.pack(">I", len(word)) + word.encode() for word in words)
    return prefixed + (codes + dates + rest).encode()


DICTIONARY = _dictionary()
"""Its Adler-32 sum stands at the start of every header stream: 0xe3c6a7c2."""
