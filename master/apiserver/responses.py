"""Answers: objects, lists, statuses, in the form that was negotiated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from master.apiserver.compression import accepts_gzip, compressed, mark
from master.apiserver.entry import Entry, Listing
from master.apiserver.negotiate import Form, Media
from master.apiserver.registry import Served
from master.apiserver.strategy import TablePrinter
from master.apiserver.table import Include, TableMaker, partial
from sampan.api.codec import encode
from sampan.api.errors import ApiError

Tree = dict[str, Any]

JSON = "application/json"
WHOLE = 1 << 20
"""Bytes up to which an answer is sent in one piece; a larger one goes out in slices, others being served between."""
SLICE = 512 * 1024
ROWS = 250
"""Rows of a table that are made in one go."""
WARNING_LENGTH = 256
WARNINGS = 32

_NO_CACHE = {"Cache-Control": "no-cache, private"}


def send(body: bytes, code: int = 200, content_type: str = JSON, warnings: Sequence[str] = (),
         headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in one piece."""
    fields: CIMultiDict[str] = CIMultiDict(_NO_CACHE)
    fields["Content-Type"] = content_type
    if headers:
        fields.update(headers)
    for text in dict.fromkeys(warnings[:WARNINGS]):
        fields.add("Warning", f'299 - "{_quote(text)}"')
    return web.Response(body=body, status=code, headers=fields)


def streamed(request: web.BaseRequest, headers: Mapping[str, str]) -> web.StreamResponse:
    """An answer of unknown length: in chunks, or for HTTP/1.0, which proxies speak, until the connection ends."""
    response = web.StreamResponse(headers=headers)
    if request.version < HttpVersion11:
        response.force_close()
    return response


def _quote(text: str) -> str:
    """A warning as a header can carry it (RFC 9110, quoted-string)."""
    text = "".join(char if char.isprintable() else " " for char in text)
    if len(text) > WARNING_LENGTH:
        text = text[:WARNING_LENGTH]
    return text.replace("\\", "\\\\").replace('"', '\\"')


def refuse(error: ApiError) -> web.Response:
    """An error as its Status."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return send(safe_encode(error.status()), error.code, headers=headers)


def safe_encode(tree: Tree) -> bytes:
    """JSON, also of text that came in as broken UTF-8."""
    try:
        return encode(tree)
    except UnicodeEncodeError:
        return json.dumps(tree, ensure_ascii=True).encode()


def as_yaml(raw: bytes) -> bytes:
    """JSON bytes as YAML."""
    import yaml  # noqa: PLC0415 - few clients ask for it

    return yaml.dump(msgspec.json.decode(raw), Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True).encode()


def send_object(raw: bytes, served: Served, media: Media, include: Include, now: float, *, code: int = 200,
                warnings: Sequence[str] = (), entry: Entry | None = None,
                printer: TablePrinter | None = None) -> web.Response:
    """One object; `entry` is the cache's where it came from there, so that its row is made once.

    `printer` is for a subresource of another kind than its object.
    """
    if media.form is Form.TABLE:
        raw = TableMaker(printer or served.printer, media.version).single(entry or entry_of(raw), include, now)
    elif media.form is Form.PARTIAL:
        raw = partial(raw, media.version or "v1")
    if media.encoding == "yaml":
        raw = as_yaml(raw)
    return send(raw, code, media.content_type, warnings)


def entry_of(raw: bytes) -> Entry:
    """An entry for an object that does not come from a cache."""
    meta = msgspec.json.decode(raw).get("metadata") or {}
    return Entry(raw, int(meta.get("resourceVersion") or 0), meta.get("namespace", ""), meta.get("name", ""))


async def send_list(request: web.BaseRequest, listing: Listing, served: Served, media: Media, include: Include,
                    now: float) -> web.StreamResponse:
    """A list, a table or a list of partial objects."""
    resource = served.resource
    if media.form is Form.TABLE:
        maker = TableMaker(served.printer, media.version)
        head = maker.head(listing.metadata())
        items: Iterator[bytes] = maker.rows(listing.entries, include, now)
        return await _send_items(request, head, items, media, ROWS)
    api_version, kind = resource.api_version, served.list_kind
    if media.form is Form.PARTIAL_LIST:
        version = media.version or "v1"
        api_version, kind = f"meta.k8s.io/{version}", "PartialObjectMetadataList"
        items = (partial(entry.raw, version) for entry in listing.entries)
    else:
        items = (entry.raw for entry in listing.entries)
    head = encode({"kind": kind, "apiVersion": api_version, "metadata": listing.metadata()})[:-1] + b',"items":['
    return await _send_items(request, head, items, media, 0)


async def _send_items(request: web.BaseRequest, head: bytes, items: Iterable[bytes], media: Media,
                      most: int) -> web.StreamResponse:
    """Items between `head` and the closing brackets. At most `most` are taken at a time where making them costs."""
    if media.encoding == "yaml":
        # Thousands of objects take seconds, in which a thread lets others be served.
        return send(await asyncio.to_thread(as_yaml, head + b",".join(items) + b"]}"), 200, media.content_type)
    pieces = _slices(head, items, most)
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        return send(first, 200, media.content_type)
    response = streamed(request, _NO_CACHE | {"Content-Type": media.content_type})
    pieces = chain((first, second), pieces)
    if accepts_gzip(request):
        mark(response)
        await response.prepare(request)
        async for piece in compressed(pieces):
            await response.write(piece)
    else:
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
    await response.write_eof()
    return response


def _slices(head: bytes, items: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The whole answer in slices of about `SLICE` bytes; an answer below `WHOLE` is one slice."""
    buffer, size, limit = [head], len(head), WHOLE
    separator, count = b"", 0
    for item in items:
        buffer.append(separator)
        buffer.append(item)
        separator = b","
        size += len(item) + 1
        count += 1
        if size >= limit or count == most:
            yield b"".join(buffer)
            buffer, size, count, limit = [], 0, 0, SLICE
    buffer.append(b"]}")
    yield b"".join(buffer)
