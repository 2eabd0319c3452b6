"""WATCH: an answer that never ends until its time is over, one JSON line or WebSocket message an event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import msgspec
from aiohttp import WSMsgType, web

from master.apiserver.cache import CacheWatch
from master.apiserver.entry import CacheEvent, Match
from master.apiserver.negotiate import Form, Media
from master.apiserver.registry import Registry, Selection, Served
from master.apiserver.request import Query, RequestInfo
from master.apiserver.responses import entry_of, streamed
from master.apiserver.table import Include, TableMaker, partial, read_include
from master.apiserver.websockets import offered, open_websocket, wants_websocket
from sampan.api.codec import encode
from sampan.api.errors import ApiError, FieldError, forbidden, invalid_object, not_supported
from sampan.loop.clock import Clock

MINIMUM_SECONDS = 1800
"""A watch without timeoutSeconds lasts this long and up to twice as long, so that clients do not come back at once."""

LAST_BOOKMARK = 2.0
"""So many seconds before the end of a watch with bookmarks comes one more, so that its client resumes from there."""

READER_SECONDS = 60.0
"""How long a client may leave what it was sent unread; its connection is then closed."""

NOT_OLDER = "NotOlderThan"
INITIAL_END = b'"k8s.io/initial-events-end"'

HEADERS = {"Cache-Control": "no-cache, private"}
Render = Callable[[Sequence[CacheEvent]], bytes]


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch's query says."""

    revision: str
    bookmarks: bool
    timeout: float
    include: Include
    initial: bool | None = None
    """Whether the state comes first, and an annotated bookmark after it (KEP-3157); None leaves it to the revision."""

    @classmethod
    def read(cls, query: Query, registry: Registry) -> WatchOptions:
        """ApiError 422 for options that contradict one another."""
        errors = _check(query)
        if errors:
            raise invalid_object("meta.k8s.io", "ListOptions", "", errors)
        seconds = query.integer("timeoutSeconds")
        timeout = float(seconds) if seconds and seconds > 0 else MINIMUM_SECONDS * (1 + registry.rng.random())
        initial = query.flag("sendInitialEvents") if query.has("sendInitialEvents") else None
        return cls(query.get("resourceVersion"), query.flag("allowWatchBookmarks"), min(timeout, 86400.0),
                   read_include(query.get("includeObject")), initial)


def _check(query: Query) -> list[FieldError]:
    """The texts are upstream's ValidateListOptions'."""
    match, path = query.get("resourceVersionMatch"), "resourceVersionMatch"
    errors = []
    if query.has("sendInitialEvents") and match != NOT_OLDER:
        errors.append(forbidden(path, f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}"))
    if match:
        if not query.has("sendInitialEvents"):
            errors.append(forbidden(path, f"{path} is forbidden for watch unless sendInitialEvents is provided"))
        if match != NOT_OLDER:
            errors.append(not_supported(path, match, (NOT_OLDER,)))
        if query.get("continue"):
            errors.append(forbidden(path, f"{path} is forbidden when continue is provided"))
    return errors


class Watches:
    """All watches that run; `close` ends them in good order."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._timeouts: set[asyncio.Timeout] = set()

    @property
    def count(self) -> int:
        """How many watches run."""
        return len(self._timeouts)

    def close(self) -> None:
        """End every watch as if its time were over."""
        for timeout in list(self._timeouts):
            _end(timeout)

    async def serve(self, request: web.BaseRequest, info: RequestInfo, served: Served, selection: Selection,
                    media: Media) -> web.StreamResponse:
        """Answer a watch request."""
        options = WatchOptions.read(info.query, self._registry)
        namespace = info.namespace if served.resource.namespaced else ""
        render = _renderer(served, media, options.include, self._registry.clock)
        answer = _Messages(request) if wants_websocket(request) else _Lines(request, media.content_type)
        try:
            watch = await served.cache.watch(options.revision, namespace, match=_match(info, selection),
                                             bookmarks=options.bookmarks, send_initial_events=options.initial)
        except ApiError as error:
            if error.code != 410:
                raise
            await answer.begin()  # upstream answers 200 and tells inside
            await answer.write(error_event(error))
            await answer.end()
            return answer.response
        async with aclosing(watch):
            await answer.begin()
            with suppress(TimeoutError), _last_bookmark(watch, options):
                async with asyncio.timeout(options.timeout) as timeout, answer.heard(timeout):
                    self._timeouts.add(timeout)
                    try:
                        async for events in watch:
                            unasked = not options.bookmarks and events[-1].entry is None  # after the initial events
                            if shown := events[:-1] if unasked else events:
                                await _send(answer.write(render(shown)))
                    finally:
                        self._timeouts.discard(timeout)
        await _send(answer.end())
        return answer.response


class _Lines:
    """The events as lines of one body."""

    def __init__(self, request: web.BaseRequest, content_type: str) -> None:
        self._request = request
        self.response: web.StreamResponse = streamed(request, HEADERS | {"Content-Type": content_type})

    async def begin(self) -> None:
        await self.response.prepare(self._request)

    async def write(self, lines: bytes) -> None:
        await self.response.write(lines)

    async def end(self) -> None:
        """By a proper end the client knows that it missed nothing."""
        await self.response.write_eof()

    @asynccontextmanager
    async def heard(self, _: asyncio.Timeout) -> AsyncIterator[None]:
        """Who has heard enough closes the connection, which cancels the task."""
        yield


class _Messages:
    """The events as messages over a WebSocket, as browsers watch: text, one event each (upstream's HandleWS)."""

    response: web.WebSocketResponse

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request

    async def begin(self) -> None:
        self.response = await open_websocket(self._request, next(iter(offered(self._request)), ""))

    async def write(self, lines: bytes) -> None:
        for line in lines.splitlines(keepends=True):
            await self.response.send_str(line.decode())

    async def end(self) -> None:
        await self.response.close()

    @asynccontextmanager
    async def heard(self, timeout: asyncio.Timeout) -> AsyncIterator[None]:
        """Who has heard enough says so; what else a client says is nothing to us."""

        async def listen() -> None:
            while (await self.response.receive()).type in (WSMsgType.BINARY, WSMsgType.TEXT):
                pass
            _end(timeout)

        listener = asyncio.create_task(listen())
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait((listener,))


def _end(timeout: asyncio.Timeout) -> None:
    """End what it limits, as if the time were over."""
    if not timeout.expired():  # its task may not have run since: it ends by itself
        timeout.reschedule(asyncio.get_running_loop().time())


@contextmanager
def _last_bookmark(watch: CacheWatch, options: WatchOptions) -> Iterator[None]:
    left = options.timeout - LAST_BOOKMARK
    if not options.bookmarks or left <= 0:
        yield
        return
    timer = asyncio.get_running_loop().call_later(left, watch.mark)
    try:
        yield
    finally:
        timer.cancel()


async def _send(writing: Awaitable[None]) -> None:
    """Wait until the client has taken what was written; ConnectionError where it does not."""
    try:
        async with asyncio.timeout(READER_SECONDS):
            await writing
    except TimeoutError as error:
        raise ConnectionAbortedError("the client of a watch does not read") from error


def error_event(error: ApiError) -> bytes:
    """A refusal inside a watch that has begun."""
    return encode({"type": "ERROR", "object": error.status()}) + b"\n"


def _match(info: RequestInfo, selection: Selection) -> Match | None:
    """The selection; the deprecated path /watch/…/NAME is about that name alone."""
    match, name = selection.match(), info.name
    if not name:
        return match
    return lambda entry: entry.name == name and (match is None or match(entry))


def _renderer(served: Served, media: Media, include: Include, clock: Clock) -> Render:
    """How events become lines: plain ones are shared by all watches, the other forms are made for each."""
    if media.form is Form.TABLE:
        maker = TableMaker(served.printer, media.version)
        begun = False

        def tables(events: Sequence[CacheEvent]) -> bytes:
            nonlocal begun
            now = clock.now().timestamp()
            lines = []
            for event in events:
                entry = entry_of(_object(event)) if INITIAL_END in event.data and event.entry is None else event.entry
                lines.append(maker.event(event.type, entry, event.revision, include, now, columns=not begun))
                begun = True
            return b"".join(lines)

        return tables
    if media.form in (Form.PARTIAL, Form.PARTIAL_LIST):
        return lambda events: b"".join([_partial_line(event, media.version or "v1") for event in events])
    return lambda events: events[0].data if len(events) == 1 else b"".join([event.data for event in events])


def _partial_line(event: CacheEvent, version: str) -> bytes:
    obj = partial(_object(event) if event.entry is None else event.entry.raw, version)
    return b'{"type":"%b","object":%b}\n' % (event.type.encode(), obj)


def _object(event: CacheEvent) -> bytes:
    """The object of a bookmark."""
    return bytes(msgspec.json.decode(event.data, type=_Line).object)


class _Line(msgspec.Struct):
    object: msgspec.Raw
