"""The Client over HTTPS.

Every call has a timeout. A call is repeated only where that is safe: when the server says that it did not carry it
out and names a time (429 or 503 with Retry-After, as client-go does). A request on a kept connection that the server
had closed meanwhile is sent again by aiohttp where its method is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import msgspec

from sampan.api import errors
from sampan.api.codec import decode, encode
from sampan.api.errors import ApiError
from sampan.api.resources import BUILT_IN, Object, PartialObjectMetadata, Resource, Subresource
from sampan.api.types.meta_v1 import ListMeta
from sampan.client.kubeconfig import Connection
from sampan.client.protocol import PLAIN_DELETE, DeleteOptions, Page, Patch, WatchEvent
from sampan.loop.clock import Clock, SystemClock

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T", bound=Object)
I = TypeVar("I")  # noqa: E741 - the type of a list's items
Tree = dict[str, Any]

log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds for a whole call."""
CONNECT_TIMEOUT = 10.0
WATCH_SLACK = 60.0
"""Seconds of silence beyond a watch's own timeout after which its connection counts as lost."""
TRIES = 5
PATCH_TYPES = {"json": "application/json-patch+json", "merge": "application/merge-patch+json",
               "strategic": "application/strategic-merge-patch+json"}
_METADATA = "application/json;as={kind};g=meta.k8s.io;v=v1"


class _List(msgspec.Struct, Generic[I], frozen=True):
    metadata: ListMeta
    items: list[I] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class HttpClient:
    """Implements `sampan.client.protocol.Client`; an async context manager that owns its connections."""

    def __init__(self, connection: Connection, *, clock: Clock | None = None, timeout: float = TIMEOUT,
                 user_agent: str = "sampan") -> None:
        self._connection = connection
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._agent = user_agent
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        if self._open is not None:
            session, self._open = self._open, None
            await session.close()

    # The protocol

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """One object."""
        return _decoded(resource.type, await self.request("GET", resource.path(namespace, name),
                                                          accept=_accept(resource, "PartialObjectMetadata")))

    async def list(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                   field_selector: str = "", limit: int = 0, continue_token: str = "", revision: str = "") -> Page[T]:
        """One page."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "continue": continue_token,
                 "limit": str(limit or ""), "resourceVersion": "" if continue_token else revision}
        body = await self.request("GET", resource.path(namespace), query,
                                  accept=_accept(resource, "PartialObjectMetadataList"))
        kind = resource.type
        page = cast("_List[T]", _decoded(cast("Any", _List)[kind], body))
        return Page(page.items or [], page.metadata.resource_version or "", page.metadata.continue_ or "")

    async def watch(self, resource: Resource[T], namespace: str = "", *, revision: str = "", label_selector: str = "",
                    field_selector: str = "", timeout_seconds: int = 0) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes, until the server ends the watch."""
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": revision,
                 "labelSelector": label_selector, "fieldSelector": field_selector,
                 "timeoutSeconds": str(timeout_seconds or "")}
        silence = timeout_seconds + WATCH_SLACK if timeout_seconds else None
        async with self._sent("GET", resource.path(namespace), query, None, silence=silence,
                              accept=_accept(resource, "PartialObjectMetadata")) as answer:
            if answer.status >= 400:
                raise _refusal(answer.status, await answer.read(), answer.headers)
            async for line in _lines(answer.content.iter_any()):
                yield _event(resource, line)

    async def create(self, resource: Resource[T], obj: T, namespace: str = "", *, dry_run: bool = False) -> T:
        """Store a new object."""
        path = resource.path(namespace or obj.metadata.namespace)
        return _decoded(resource.type, await self.request("POST", path, {"dryRun": "All" if dry_run else ""},
                                                          encode(obj)))

    async def update(self, resource: Resource[T], obj: T, *, subresource: str = "") -> T:
        """Replace an object."""
        path = resource.path(obj.metadata.namespace, obj.metadata.name, subresource)
        return _decoded(resource.type, await self.request("PUT", path, body=encode(obj)))

    async def patch(self, resource: Resource[T], name: str, patch: Patch, namespace: str = "", *,
                    subresource: str = "") -> T:
        """Change part of an object."""
        path = resource.path(namespace, name, subresource)
        return _decoded(resource.type, await self.request(
            "PATCH", path, body=encode(patch.body), content=PATCH_TYPES[patch.kind],
            accept=_accept(resource, "PartialObjectMetadata")))

    async def delete(self, resource: Resource[T], name: str, namespace: str = "",
                     options: DeleteOptions = PLAIN_DELETE) -> None:
        """Delete one object."""
        await self.request("DELETE", resource.path(namespace, name), body=encode(_delete_body(options)))

    async def delete_collection(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                                field_selector: str = "", options: DeleteOptions = PLAIN_DELETE) -> None:
        """Delete many."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        await self.request("DELETE", resource.path(namespace), query, encode(_delete_body(options)))

    async def post(self, resource: Resource[Any], name: str, subresource: str, body: Tree,
                   namespace: str = "") -> Tree:
        """Create on a subresource."""
        answer = await self.request("POST", resource.path(namespace, name, subresource), body=encode(body))
        return _decoded(Tree, answer)

    async def server_resources(self) -> Sequence[Resource[Any]]:
        """Read from discovery: the preferred version of every group."""
        core = _decoded(Tree, await self.request("GET", "/api/v1"))
        found = list(_resources("", "v1", core))
        groups = _decoded(Tree, await self.request("GET", "/apis"))
        for group in groups.get("groups") or ():
            version = group["preferredVersion"]["version"]
            document = _decoded(Tree, await self.request("GET", f"/apis/{group['name']}/{version}"))
            found += _resources(group["name"], version, document)
        return found

    # Requests

    async def request(self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes | None = None,
                      *, content: str = "application/json", accept: str = "application/json") -> bytes:
        """Any request to the server's paths; the answer's body. ApiError for refusals, 503 for a lost connection."""
        for attempt in range(1, TRIES + 1):
            try:
                async with asyncio.timeout(self._timeout), self._sent(
                        method, path, query, body, content=content, accept=accept) as answer:
                    data = await answer.read()
                    if answer.status < 400:
                        return data
                    error = _refusal(answer.status, data, answer.headers)
                    if attempt == TRIES or not (error.code in (429, 503) and error.retry_after):
                        raise error
                    delay = float(error.retry_after)
            except TimeoutError as late:
                raise errors.timeout(f"{method} {path}: no answer within {self._timeout:g} s") from late
            log.debug("%s %s: %s; again in %g s", method, path, error, delay)
            await self._clock.sleep(delay)
        raise AssertionError("the loop returns or raises")

    @asynccontextmanager
    async def _sent(self, method: str, path: str, query: Mapping[str, str] | None, body: bytes | None, *,
                    content: str = "application/json", accept: str, silence: float | None = None,
                    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; whatever aiohttp complains of becomes an ApiError."""
        import aiohttp  # noqa: PLC0415 - 15 MB that a process without HTTP client does not need

        session = self._session()
        headers = {"Accept": accept} | ({"Content-Type": content} if body is not None else {})
        if self._connection.token or self._connection.token_file:
            headers["Authorization"] = f"Bearer {self._token()}"
        try:
            async with session.request(
                    method, self._connection.server + path, data=body, headers=headers,
                    params={name: value for name, value in (query or {}).items() if value},
                    server_hostname=self._connection.tls_server_name or None,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence),
            ) as answer:
                yield answer
        except aiohttp.ServerTimeoutError as error:
            raise errors.unavailable(f"{method} {self._connection.server}{path}: the connection fell silent"
                                     ) from error
        except aiohttp.ClientError as error:
            raise errors.unavailable(f"{method} {self._connection.server}{path}: {error or type(error).__name__}"
                                     ) from error

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415 - as above

        if self._open is None:
            secure = self._connection.server.startswith("https:")
            connector = aiohttp.TCPConnector(limit=0, ssl=self._connection.ssl_context() if secure else True)
            self._open = aiohttp.ClientSession(connector=connector, headers={"User-Agent": self._agent})
        return self._open

    def _token(self) -> str:
        """A token's file is read each time: it is rotated."""
        if self._connection.token_file is None:
            return self._connection.token
        try:
            return self._connection.token_file.read_text().strip()
        except OSError as error:
            raise errors.unavailable(f"{self._connection.token_file}: {error.strerror}") from error


def _accept(resource: Resource[Any], kind: str) -> str:
    if resource.type is PartialObjectMetadata:
        return _METADATA.format(kind=kind) + ",application/json"
    return "application/json"


def _decoded(kind: type[I], data: bytes) -> I:
    try:
        return decode(kind, data)
    except msgspec.MsgspecError as error:
        raise errors.internal_error(f"the server's answer is no {getattr(kind, '__name__', kind)}: {error}") from error


def _refusal(code: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    try:
        tree = decode(Tree, body)
        error = ApiError.from_status(tree) if tree.get("kind") == "Status" else None
    except msgspec.MsgspecError:
        error = None
    if error is None:
        text = body[:200].decode(errors="replace").strip()
        error = ApiError(code, "Unknown", text or f"the server answered {code}")
    after = headers.get("Retry-After", "")
    error.retry_after = int(after) if after.isdecimal() else 0  # only the header invites to try again
    return error


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Cut a stream at its newlines; objects may be far longer than any reader's line limit."""
    rest: list[bytes] = []
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for part in others:
            line = b"".join(rest)
            if line.strip():
                yield line
            rest = [part]


def _event(resource: Resource[T], line: bytes) -> WatchEvent[T]:
    event = _decoded(_Event, line)
    if event.type == "ERROR":
        raise ApiError.from_status(_decoded(Tree, bytes(event.object)))
    if event.type == "BOOKMARK":
        mark = _decoded(PartialObjectMetadata, bytes(event.object))
        return WatchEvent("BOOKMARK", None, mark.metadata.resource_version)
    obj = _decoded(resource.type, bytes(event.object))
    return WatchEvent(cast("Any", event.type), obj, obj.metadata.resource_version)


def _delete_body(options: DeleteOptions) -> Tree:
    conditions = {name: value for name, value in (("uid", options.uid), ("resourceVersion", options.revision)) if value}
    body: Tree = {"kind": "DeleteOptions", "apiVersion": "v1"}
    if options.grace_period is not None:
        body["gracePeriodSeconds"] = options.grace_period
    if options.propagation:
        body["propagationPolicy"] = options.propagation
    return body | ({"preconditions": conditions} if conditions else {})


def _resources(group: str, version: str, document: Tree) -> list[Resource[Any]]:
    """The resources of one APIResourceList; ours keep what our table knows of them beside."""
    entries = document.get("resources") or []
    known = {resource.key: resource for resource in BUILT_IN if resource.version == version}
    result: list[Resource[Any]] = []
    for item in entries:
        name = item["name"]
        if "/" in name:
            continue
        if (group, name) in known:
            result.append(known[group, name].metadata_only())
            continue
        below = tuple(Subresource(sub["name"].partition("/")[2], sub.get("group", group), sub.get("version", version),
                                  sub["kind"], tuple(sub.get("verbs") or ()))
                      for sub in entries if sub["name"].startswith(f"{name}/"))
        result.append(Resource(group, version, item["kind"], name, PartialObjectMetadata,
                               namespaced=bool(item.get("namespaced")), singular=item.get("singularName") or "",
                               short_names=tuple(item.get("shortNames") or ()),
                               categories=tuple(item.get("categories") or ()), subresources=below,
                               verbs=tuple(item.get("verbs") or ())))
    return result
