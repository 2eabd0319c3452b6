"""From protobuf to the same tree that the JSON form would have given.

Source: the encoding section of the API concepts (the envelope), protobuf.dev's encoding reference (the wire format).
Go writes every field that is no pointer, also when it is empty; JSON leaves such fields out, and so do we.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from master.apiserver.protobuf.fields import Field, message, message_of
from sampan.api.errors import bad_request
from sampan.api.times import MicroTime, Time

Tree = dict[str, Any]

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
MAX_DEPTH = 100

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ABSENT: Any = object()


class _Malformed(Exception):
    """The bytes are no such message."""


def is_protobuf(content_type: str) -> bool:
    """Whether a Content-Type header names the protobuf form."""
    return content_type.partition(";")[0].strip().lower() == CONTENT_TYPE


def read_protobuf(body: bytes) -> Tree:
    """The object in a request's body; ApiError 400 where there is none, or of a kind that is not known."""
    if not body.startswith(MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        api_version, kind, raw = _envelope(body[len(MAGIC):])
        name = message_of(api_version, kind)
        if name is None:
            raise bad_request(f'no kind "{kind}" is registered for version "{api_version}"')
        tree = _message(name, raw, 0)
    except _Malformed as error:
        raise bad_request(f"the body of the request is no valid protobuf message: {error}") from error
    assert isinstance(tree, dict)
    return {"apiVersion": api_version, "kind": kind, **tree}


def _envelope(data: bytes) -> tuple[str, str, bytes]:
    """runtime.Unknown: the object's type, and its bytes."""
    api_version = kind = ""
    raw = b""
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            texts = {inner: _text(part) for inner, part in _fields(value) if isinstance(part, bytes)}
            api_version, kind = texts.get(1, ""), texts.get(2, "")
        elif number == 2 and isinstance(value, bytes):
            raw = value
    return api_version, kind, raw


def _message(name: str, data: bytes, depth: int) -> Any:
    """One message as a dict, or as a list for those that are lists."""
    table = message(name)
    if table is None or depth > MAX_DEPTH:
        raise _Malformed(f"{name} is not known" if table is None else "it is nested too deeply")
    result: Tree = {}
    for number, raw in _fields(data):
        field = table.get(number)
        if field is None:
            continue  # of a newer version than ours: JSON's unknown fields are pruned too
        if field.flag == "%":
            key, value = _entry(field, raw, depth)
            result.setdefault(field.name, {})[key] = value
        elif field.flag == "*":
            result.setdefault(field.name, []).extend(_value(field, item, depth) for item in _unpack(field, raw))
        elif field.name == ".":
            result.update(_value(field, raw, depth))
        else:
            value = _value(field, raw, depth)
            if value is not _ABSENT and (value or field.flag == "!"):
                result[field.name] = value
    return result.get("", []) if "" in (field.name for field in table.values()) else result


def _unpack(field: Field, raw: int | bytes) -> Iterator[int | bytes]:
    """A list's entry; or several where numbers stand packed in one field, which readers must understand."""
    if field.scalar not in ("i", "t") or isinstance(raw, int):
        yield raw
        return
    at = 0
    while at < len(raw):
        value, at = _varint(raw, at)
        yield value


def _entry(field: Field, raw: int | bytes, depth: int) -> tuple[str, Any]:
    """A map's entry: key 1, value 2, either left out when empty."""
    parts = dict(_fields(_bytes(raw)))
    value = parts.get(2, 0 if field.scalar in ("i", "t") else b"")
    return _text(_bytes(parts.get(1, b""))), _value(field, value, depth)


def _value(field: Field, raw: int | bytes, depth: int) -> Any:
    """A field's value as JSON has it; _ABSENT for a time that is none."""
    match field.scalar:
        case "s":
            return _text(_bytes(raw))
        case "b":
            return base64.b64encode(_bytes(raw)).decode()
        case "i":
            return _integer(raw)
        case "t":
            return bool(_integer(raw))
        case "d":
            data = _bytes(raw)
            if len(data) != 8:
                raise _Malformed("a double has not eight bytes")
            return struct.unpack("<d", data)[0]
    data = _bytes(raw)
    match field.message:
        case "quantity":
            return _text(_bytes(dict(_fields(data)).get(1, b"")))
        case "time" | "microtime":
            return _time(data, micro=field.message == "microtime")
        case "intstr":
            parts = dict(_fields(data))
            return _text(_bytes(parts.get(3, b""))) if parts.get(1) else _integer(parts.get(2, 0))
        case "raw":
            return _json(_bytes(dict(_fields(data)).get(1, b"")))
        case "duration":
            return f"{_integer(dict(_fields(data)).get(1, 0))}ns"
    return _message(field.message, data, depth + 1)


def _time(data: bytes, *, micro: bool) -> Any:
    parts = dict(_fields(data))
    if not parts:
        return _ABSENT
    seconds, nanos = _integer(parts.get(1, 0)), _integer(parts.get(2, 0))
    try:
        instant = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError as error:
        raise _Malformed("a time is out of range") from error
    return str(MicroTime.of(instant) if micro else Time.of(instant))


def _json(data: bytes) -> Any:
    """An object in JSON within the message (RawExtension); nothing where there is none."""
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Malformed(f"embedded JSON cannot be read: {error}") from error


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in the order in which they come: number, and an integer or bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {wire} is not used")
        if at + size > end:
            raise _Malformed("it ends too early")
        yield number, data[at:at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise _Malformed("a number does not end")


def _integer(raw: int | bytes) -> int:
    if not isinstance(raw, int):
        raise _Malformed("bytes stand where a number belongs")
    return raw - (1 << 64) if raw >= 1 << 63 else raw


def _bytes(raw: int | bytes) -> bytes:
    if not isinstance(raw, bytes):
        raise _Malformed("a number stands where bytes belong")
    return raw


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _Malformed("a text is not UTF-8") from error
