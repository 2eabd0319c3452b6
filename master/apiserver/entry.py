"""What the watch cache holds: objects as the bytes that clients get, and the events made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sampan.api.codec import Tree, encode

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
Fields = Callable[[Tree], Mapping[str, str]]

_decode_tree = msgspec.json.Decoder(Tree).decode


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Metadata


_decode_labels = msgspec.json.Decoder(_Labelled).decode  # skips all else, so that a first look at labels is cheap


class Entry:
    """One object at one revision. Never changed: a write to the object makes a new entry.

    `raw` is the object's JSON; everything else is read from it when first asked for, and kept.
    """

    __slots__ = ("_fields", "_labels", "_read_fields", "_tree", "name", "namespace", "raw", "revision", "row")

    def __init__(self, raw: bytes, revision: int, namespace: str, name: str, read_fields: Fields | None = None) -> None:
        self.raw = raw
        self.revision = revision
        self.namespace = namespace
        self.name = name
        self.row: Any = None
        """A place for the table printer to keep this object's row; nobody else looks at it."""
        self._read_fields = read_fields
        self._tree: Tree | None = None
        self._labels: Mapping[str, str] | None = None
        self._fields: Mapping[str, str] | None = None

    def decode(self) -> Tree:
        """The object as a tree of the caller's own, free to be changed. A few microseconds for a pod."""
        return _decode_tree(self.raw)

    @property
    def tree(self) -> Tree:
        """The object as a tree that all share and nobody may change.

        It is kept as long as the entry, and takes several times the memory of `raw`: for a look at all objects of a
        kind take `decode`.
        """
        if self._tree is None:
            self._tree = self.decode()
        return self._tree

    @property
    def labels(self) -> Mapping[str, str]:
        """metadata.labels, empty if there are none."""
        if self._labels is None:
            self._labels = _decode_labels(self.raw).metadata.labels or {}
        return self._labels

    @property
    def fields(self) -> Mapping[str, str]:
        """What field selectors may ask for: metadata.name and .namespace, and the kind's own."""
        if self._fields is None:
            own = self._read_fields(self._tree or self.decode()) if self._read_fields else {}
            names = {"metadata.name": self.name}
            if self.namespace:
                names["metadata.namespace"] = self.namespace
            self._fields = {**own, **names}
        return self._fields

    def at(self, revision: int) -> Entry:
        """The same object with another resourceVersion: how a deletion shows the object that is gone."""
        tree = self.decode()
        tree.setdefault("metadata", {})["resourceVersion"] = str(revision)
        return Entry(encode(tree), revision, self.namespace, self.name, self._read_fields)

    @property
    def altered(self) -> bool:
        """Whether somebody changed the shared tree in place: always a fault. For tests."""
        return self._tree is not None and self._tree != self.decode()

    def __repr__(self) -> str:
        return f"Entry({self.namespace}/{self.name}@{self.revision})"


Match = Callable[[Entry], bool]


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """One event of a watch.

    `entry` is None for a BOOKMARK. `data` is the event as a watch's JSON line, made once for all who watch.
    """

    type: EventType
    entry: Entry | None
    revision: int
    data: bytes

    @classmethod
    def of(cls, type: EventType, entry: Entry) -> CacheEvent:  # noqa: A002 - the event's own word for it
        """An event about an object."""
        return cls(type, entry, entry.revision, b'{"type":"%b","object":%b}\n' % (type.encode(), entry.raw))


def bookmark(api_version: str, kind: str, revision: int, *, initial_end: bool = False) -> CacheEvent:
    """Tells a watcher how far it has got; `initial_end` marks the end of the state at the start (KEP-3157)."""
    metadata: Tree = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj = {"kind": kind, "apiVersion": api_version, "metadata": metadata}
    return CacheEvent("BOOKMARK", None, revision, encode({"type": "BOOKMARK", "object": obj}) + b"\n")


@dataclass(frozen=True, slots=True)
class Listing:
    """The answer to a list, in key order, as of `revision`.

    `remaining` counts what comes after this page; None at the end, and where a selector makes it unknown.
    """

    entries: Sequence[Entry]
    revision: int
    continue_token: str = ""
    remaining: int | None = None

    def metadata(self) -> Tree:
        """The list's ListMeta."""
        meta: Tree = {"resourceVersion": str(self.revision)}
        if self.continue_token:
            meta["continue"] = self.continue_token
        if self.remaining is not None:
            meta["remainingItemCount"] = self.remaining
        return meta

    def encode(self, api_version: str, list_kind: str) -> bytes:
        """The list as JSON: the objects' bytes, joined."""
        head = encode({"kind": list_kind, "apiVersion": api_version, "metadata": self.metadata()})
        parts = [entry.raw for entry in self.entries] or [b""]
        parts[0] = b'%b,"items":[%b' % (head[:-1], parts[0])  # at the ends, so that all is copied once only
        parts[-1] += b"]}"
        return b",".join(parts)
