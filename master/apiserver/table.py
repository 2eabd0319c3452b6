"""Tables and partial objects: what `kubectl get` asks for instead of whole objects (meta.k8s.io, KEP-1152).

A row is made once for each revision of an object and kept beside it; only the cells that show an age are filled in
when the row is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import msgspec

from master.apiserver.duration import human
from master.apiserver.entry import Entry, EventType
from master.apiserver.strategy import Age, Column, TablePrinter
from sampan.api.errors import bad_request
from sampan.api.times import Time

Tree = dict[str, Any]
Include = Literal["None", "Metadata", "Object"]

UNKNOWN = "<unknown>"
_encode = msgspec.json.Encoder().encode


class _Parts(msgspec.Struct):
    """An object whose metadata stays bytes."""

    metadata: msgspec.Raw


_split = msgspec.json.Decoder(_Parts).decode


def read_include(value: str) -> Include:
    """The query parameter `includeObject`; unset means Metadata."""
    if value in ("None", "Metadata", "Object"):
        return cast("Include", value)
    if value:
        raise bad_request(f'unrecognized includeObject value: "{value}"')
    return "Metadata"


def partial(raw: bytes, version: str = "v1") -> bytes:
    """An object as PartialObjectMetadata, without decoding what is in it."""
    head = b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/%b","metadata":' % version.encode()
    return head + bytes(_split(raw).metadata) + b"}"


class AgeCell:
    """A cell that is filled in when it is sent."""

    __slots__ = ("_after", "_before", "_since")

    def __init__(self, age: Age) -> None:
        try:
            self._since: float | None = Time.parse(age.since).timestamp()
        except ValueError:
            self._since = None
        before, _, after = age.text.partition("{}")
        self._before, self._after = before, after

    def render(self, now: float) -> bytes:
        """The cell as JSON."""
        age = UNKNOWN if self._since is None else human(int(now - self._since))
        return _encode(self._before + age + self._after)


class Row:
    """An object's cells, encoded but for its ages."""

    __slots__ = ("_pieces",)

    def __init__(self, cells: Iterable[Any]) -> None:
        pieces: list[bytes | AgeCell] = []
        text = b""
        for cell in cells:
            if text or pieces:
                text += b","
            if isinstance(cell, Age):
                pieces += [text, AgeCell(cell)] if text else [AgeCell(cell)]
                text = b""
            else:
                text += _encode(cell)
        self._pieces = tuple([*pieces, text] if text else pieces)

    def cells(self, now: float) -> bytes:
        """The cells as JSON, without the brackets; `now` is in seconds since 1970."""
        return b"".join([piece if isinstance(piece, bytes) else piece.render(now) for piece in self._pieces])


class TableMaker:
    """Makes one kind's tables in one version (v1 or v1beta1)."""

    def __init__(self, printer: TablePrinter, version: str = "v1") -> None:
        self._printer = printer
        self._version = version or "v1"
        self._columns = _encode([_definition(column) for column in printer.columns])

    def rows(self, entries: Iterable[Entry], include: Include, now: float) -> Iterator[bytes]:
        """The rows as JSON objects."""
        for entry in entries:
            row = entry.row
            if row is None:
                row = entry.row = Row(self._printer.cells(entry.decode()))
            yield b'{"cells":[%b],"object":%b}' % (row.cells(now), self._object(entry.raw, include))

    def head(self, metadata: Tree, *, columns: bool = True) -> bytes:
        """The table up to its rows, the bracket that opens them included."""
        return b'{"kind":"Table","apiVersion":"meta.k8s.io/%b","metadata":%b,"columnDefinitions":%b,"rows":[' % (
            self._version.encode(), _encode(metadata), self._columns if columns else b"[]")

    def single(self, entry: Entry, include: Include, now: float) -> bytes:
        """A table of one object, as GET of one object answers."""
        row = b"".join(self.rows((entry,), include, now))
        return self.head({"resourceVersion": str(entry.revision)}) + row + b"]}"

    def event(self, kind: EventType, entry: Entry | None, revision: int, include: Include, now: float, *,
              columns: bool) -> bytes:
        """A watch's event whose object is a table of one row (of none for a bookmark); the first has the columns."""
        rows = b"" if entry is None else b"".join(self.rows((entry,), include, now))
        head = self.head({"resourceVersion": str(revision)}, columns=columns)
        return b'{"type":"%b","object":%b%b]}}\n' % (kind.encode(), head, rows)

    def _object(self, raw: bytes, include: Include) -> bytes:
        if include == "Metadata":
            return partial(raw, self._version)
        return raw if include == "Object" else b"null"


def _definition(column: Column) -> Tree:
    return {"name": column.name, "type": column.type, "format": column.format, "description": column.description,
            "priority": column.priority}


