"""Requests for resources: from a RequestInfo to an answer, by way of the cache, the writer and the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

from aiohttp import HttpVersion11, web

from master.apiserver import deletion, patching, reviews
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.connect import ConnectHandlers, read_name
from master.apiserver.decode import Body, read_validation
from master.apiserver.entry import Entry, Listing
from master.apiserver.kinds import SCALE_TABLE
from master.apiserver.negotiate import Form, negotiate
from master.apiserver.protobuf import is_protobuf, read_protobuf
from master.apiserver.registry import Registry, Selection, Served
from master.apiserver.request import RequestInfo
from master.apiserver.responses import send, send_list, send_object
from master.apiserver.reviews import Reviews
from master.apiserver.schema import parse
from master.apiserver.schema.parse import MAX_BODY
from master.apiserver.security import Security
from master.apiserver.strategy import User
from master.apiserver.subresources import DELETE_OPTIONS, Subresources, find
from master.apiserver.table import read_include
from master.apiserver.watch import Watches
from master.apiserver.write import Target, Writer, Written
from sampan.api.codec import encode
from sampan.api.errors import ApiError, bad_request, forbidden, invalid_object
from sampan.api.resources import Resource
from sampan.api.times import Time

T = TypeVar("T")
Tree = dict[str, Any]

_OBJECT_FORMS = frozenset((Form.PLAIN, Form.TABLE, Form.PARTIAL))
_LIST_FORMS = frozenset((Form.PLAIN, Form.TABLE, Form.PARTIAL_LIST))
_WATCH_FORMS = frozenset((Form.PLAIN, Form.TABLE, Form.PARTIAL, Form.PARTIAL_LIST))
_PLAIN = frozenset((Form.PLAIN,))
_OWN_KIND = frozenset(("status", "approval", "finalize", "ephemeralcontainers", "resize"))
_NO_CRDS = ("apiextensions.k8s.io", "customresourcedefinitions", "list")
_EMPTY_CRDS = (b'{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1",'
               b'"metadata":{"resourceVersion":"1"},"items":[]}')
"""kubectl looks here when it meets a kind that it does not know; told that there are none it says what is wrong."""
_NAMED = frozenset(("get", "update", "patch", "delete"))
"""Verbs that concern one object; the others concern the collection."""
BODY_SECONDS = 45.0
"""How long a body may take to arrive: less than the whole request may, so that it is the client who is told."""
_negotiate = lru_cache(maxsize=256)(negotiate)  # clients send the same few headers again and again

Shield = Callable[[Coroutine[Any, Any, T]], Awaitable[T]]


class ResourceHandlers:
    """Answers requests for resources. Authentication and authorisation are done by then."""

    def __init__(self, registry: Registry, writer: Writer, security: Security, watches: Watches,
                 connect: ConnectHandlers, finish: Shield[Any]) -> None:
        """`finish` runs a write to its end even when the client goes away meanwhile."""
        self._registry = registry
        self._writer = writer
        self._subresources = Subresources(registry, writer)
        self._reviews = Reviews(security.access, security.authentication, security.accounts, registry.schemas)
        self._access = security.access
        self._tokens = security.tokens
        self._watches = watches
        self._connect = connect
        self._finish = finish

    async def handle(self, request: web.BaseRequest, info: RequestInfo, user: User) -> web.StreamResponse:
        """Answer; raises ApiError for every refusal."""
        served = self._registry.find(info.group, info.version, info.plural)
        if served is None:
            if (info.group, info.plural, info.verb) == _NO_CRDS:
                return send(_EMPTY_CRDS)
            review = reviews.find(info.group, info.version, info.plural)
            if review is None or info.name or bool(info.namespace) != review.namespaced:
                raise no_such_resource()
            return await self._review(request, info, user, review)
        if request.method == "HEAD" and info.subresource != "proxy":
            raise no_such_method()  # as upstream; an answer that is streamed would have a body
        resource = served.resource
        # A Namespace is said to be within itself. Within another one it would be ruled by who has rights there.
        if info.namespace and not resource.namespaced and (info.plural, info.name) != ("namespaces", info.namespace):
            raise no_such_resource()
        if info.subresource:
            return await self._subresource(request, info, served, user)
        _require_verb(info, resource)
        match info.verb:
            case "get":
                return await self._get(request, info, served)
            case "list":
                return await self._list(request, info, served)
            case "watch":
                selection = self._select(served, info)
                media = _negotiate(_accept(request), forms=_WATCH_FORMS, yaml=False)
                return await self._watches.serve(request, info, served, selection, media)
            case "create":
                body = await read_body(request)
                return await self._write(request, info, served, self._writer.create(self._target(info, served, user),
                                                                                    body))
            case "update":
                body = await read_body(request)
                may_create = partial(self._access.check, user, replace(Attributes.of(info), verb="create"))
                return await self._write(request, info, served, self._writer.update(self._target(info, served, user),
                                                                                    body, may_create))
            case "patch":
                patch = await self._read_patch(request)
                return await self._write(request, info, served, self._writer.patch(self._target(info, served, user),
                                                                                   patch))
            case "delete":
                return await self._delete(request, info, served, user)
        return await self._delete_collection(request, info, served, user)

    # --- reads ----------------------------------------------------------------------------------------------------

    async def _get(self, request: web.BaseRequest, info: RequestInfo, served: Served) -> web.Response:
        media = _negotiate(_accept(request), forms=_OBJECT_FORMS)
        include = read_include(info.query.get("includeObject"))
        entry = await self._entry(info, served)
        return send_object(entry.raw, served, media, include, self._now(), entry=entry)

    async def _entry(self, info: RequestInfo, served: Served) -> Entry:
        namespace = info.namespace if served.resource.namespaced else ""
        entry = await served.cache.get(namespace, info.name, revision=info.query.get("resourceVersion"))
        if entry is None:
            raise served.not_found(info.name)
        return entry

    async def _list(self, request: web.BaseRequest, info: RequestInfo, served: Served) -> web.StreamResponse:
        media = _negotiate(_accept(request), forms=_LIST_FORMS)
        include = read_include(info.query.get("includeObject"))
        if info.query.has("sendInitialEvents"):
            raise invalid_object("meta.k8s.io", "ListOptions", "", [
                forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")])
        selection = self._select(served, info)
        listing = await self._listing(info, served, selection)
        return await send_list(request, listing, served, media, include, self._now())

    async def _listing(self, info: RequestInfo, served: Served, selection: Selection) -> Listing:
        query, namespace = info.query, info.namespace if served.resource.namespaced else ""
        limit = query.integer("limit") or 0
        revision, match = query.get("resourceVersion"), selection.match()
        token, revision_match = query.get("continue"), query.get("resourceVersionMatch")
        one_place = namespace or not served.resource.namespaced
        if selection.name and one_place and revision in ("", "0") and not token and not revision_match:
            entry = await served.cache.get(namespace, selection.name, revision=revision)
            entries = [entry] if entry is not None and (match is None or match(entry)) else []
            return Listing(entries, served.cache.revision)
        return await served.cache.list(namespace, match=match, limit=max(limit, 0), continue_token=token,
                                       revision=revision, revision_match=revision_match)

    def _select(self, served: Served, info: RequestInfo) -> Selection:
        return self._registry.select(served, info.query.get("labelSelector"), info.query.get("fieldSelector"))

    # --- writes ---------------------------------------------------------------------------------------------------

    def _target(self, info: RequestInfo, served: Served, user: User) -> Target:
        values = info.query.all("dryRun")
        errors = deletion.check_dry_run(values)
        options = f"{info.verb.capitalize()}Options"
        if errors:
            raise invalid_object("meta.k8s.io", options, "", errors)
        return Target(served, user, info.namespace if served.resource.namespaced else "", info.name, info.subresource,
                      bool(values), read_validation(info.query.get("fieldValidation"), options))

    async def _write(self, request: web.BaseRequest, info: RequestInfo, served: Served,
                     work: Coroutine[Any, Any, Written]) -> web.Response:
        try:
            media = _negotiate(_accept(request), forms=_OBJECT_FORMS)
            include = read_include(info.query.get("includeObject"))
        except ApiError:
            work.close()
            raise
        written: Written = await self._finish(work)
        return send_object(written.raw, served, media, include, self._now(), code=written.code,
                           warnings=written.warnings)

    async def _read_patch(self, request: web.BaseRequest) -> patching.PatchBody:
        return patching.read_patch(*await read_bytes(request), self._registry.schemas.definitions)

    async def _read_delete_options(self, request: web.BaseRequest, info: RequestInfo) -> deletion.Options:
        body = await read_body(request)
        tree = body.tree or {}
        if body.data.strip():
            tree = parse(body.data, body.content_type).tree
        if tree:
            deletion.check_kind(tree)
            self._registry.schemas.of(DELETE_OPTIONS).clean(tree)
        return deletion.read_options(tree, info.query)

    async def _delete(self, request: web.BaseRequest, info: RequestInfo, served: Served,
                      user: User) -> web.Response:
        media = _negotiate(_accept(request), forms=_OBJECT_FORMS)
        options = await self._read_delete_options(request, info)
        target = self._target(info, served, user)
        written: Written = await self._finish(self._writer.delete(target, options))
        if b'"kind":"Status"' in written.raw[:40]:
            return send(written.raw, written.code)
        return send_object(written.raw, served, media, "Metadata", self._now(), code=written.code)

    async def _delete_collection(self, request: web.BaseRequest, info: RequestInfo, served: Served,
                                 user: User) -> web.StreamResponse:
        media = _negotiate(_accept(request), forms=_LIST_FORMS)
        selection = self._select(served, info)
        options = await self._read_delete_options(request, info)
        target = self._target(info, served, user)
        listing = await self._listing(info, served, selection)
        await self._finish(self._writer.delete_collection(target, listing.entries, options))
        return await send_list(request, listing, served, media, "Metadata", self._now())

    async def _review(self, request: web.BaseRequest, info: RequestInfo, user: User, review: Any) -> web.Response:
        if info.verb != "create":
            raise no_such_method()
        body = await read_body(request)
        now = Time.of(self._registry.clock.now())
        tree = await self._reviews.answer(review, body, user, info.namespace, now)
        media = _negotiate(_accept(request), forms=_PLAIN)
        return send(encode(tree), 201, media.content_type)

    # --- subresources ---------------------------------------------------------------------------------------------

    async def _subresource(self, request: web.BaseRequest, info: RequestInfo, served: Served,
                           user: User) -> web.StreamResponse:
        name = info.subresource
        subresource = find(served, name)
        below = len(info.parts) > 3 and name != "proxy"  # whose path goes on behind it
        if subresource is None or below or (served.resource.namespaced and not info.namespace):
            raise no_such_resource()
        if info.verb not in subresource.verbs and (name, request.method) != ("proxy", "OPTIONS"):
            raise no_such_method()
        handler = self._connect.get((info.plural, name))
        if handler is not None:
            meant = read_name(info.plural, info.name).name if name == "proxy" else info.name
            entry = await self._entry(replace(info, name=meant, query=type(info.query)()), served)
            return await handler(request, info, entry.decode())
        if name == "scale":
            return await self._scale(request, info, served, user)
        if name == "token" and self._tokens is not None:
            tree, warnings = await self._tokens.create(self._target(info, served, user), await read_body(request))
            return send(encode(tree), 201, warnings=warnings)
        if name in ("binding", "eviction"):
            target = self._target(info, served, user)
            body = await read_body(request)
            work = self._subresources.bind if name == "binding" else self._subresources.evict
            written: Written = await self._finish(work(target, body))
            return send(written.raw, written.code, warnings=written.warnings)
        if name not in _OWN_KIND:
            raise no_such_resource()  # a stream that nobody serves in this process
        if info.verb == "get":
            return await self._get(request, info, served)
        target = self._target(info, served, user)
        if info.verb == "patch":
            return await self._write(request, info, served, self._writer.patch(target,
                                                                               await self._read_patch(request)))
        return await self._write(request, info, served, self._writer.update(target, await read_body(request)))

    async def _scale(self, request: web.BaseRequest, info: RequestInfo, served: Served, user: User) -> web.Response:
        media = _negotiate(_accept(request), forms=_OBJECT_FORMS)
        include = read_include(info.query.get("includeObject"))
        if info.verb == "get":
            entry = await self._entry(info, served)
            scale = encode(self._subresources.scale_of(served, entry.decode()))
            return send_object(scale, served, media, include, self._now(), printer=SCALE_TABLE)
        target = self._target(info, served, user)
        if info.verb == "patch":
            work = self._subresources.patch_scale(target, await self._read_patch(request))
        else:
            work = self._subresources.update_scale(target, await read_body(request))
        written: Written = await self._finish(work)
        return send_object(written.raw, served, media, include, self._now(), code=written.code,
                           warnings=written.warnings, printer=SCALE_TABLE)

    def _now(self) -> float:
        return self._registry.clock.now().timestamp()


def _require_verb(info: RequestInfo, resource: Resource[Any]) -> None:
    """404 for a path that no method has, 405 for a verb that this one has not."""
    misplaced = resource.namespaced and not info.namespace and info.verb not in ("list", "watch")
    if misplaced and info.name:
        raise no_such_resource()
    named = bool(info.name) == (info.verb in _NAMED) or info.verb == "watch"
    if misplaced or not named or info.verb not in resource.verbs:
        raise no_such_method()


def _accept(request: web.BaseRequest) -> str:
    return ",".join(request.headers.getall("Accept", ()))


async def read_body(request: web.BaseRequest) -> Body:
    """The body, already decoded where it is protobuf; ApiError as below, or 400."""
    data, content_type = await read_bytes(request)
    if is_protobuf(content_type) and data:
        return Body(tree=read_protobuf(data))
    return Body(data, content_type)


async def read_bytes(request: web.BaseRequest) -> tuple[bytes, str]:
    """The body, of at most 3 MiB, and its content type; ApiError 413 or 408."""
    try:
        if request.content.is_eof():  # a small one came with the headers: no timer needed
            data = await request.read()
        else:
            async with asyncio.timeout(BODY_SECONDS):
                await ask_for_body(request)
                data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY}") from error
    except TimeoutError as error:
        raise ApiError(408, "Timeout", "the request's body did not arrive in time") from error
    except (web.HTTPException, web.RequestPayloadError, ValueError) as error:
        raise bad_request(f"the request's body cannot be read: {error}") from error
    return data, request.headers.get("Content-Type") or "application/json"


async def ask_for_body(request: web.BaseRequest) -> None:
    """Answer ``Expect: 100-continue`` (RFC 9110, 10.1.1); curl waits for it before it sends a large body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # that was not yet the answer


def no_such_resource() -> ApiError:
    """404 for a path that names nothing."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def no_such_method() -> ApiError:
    """405 for a verb that the resource does not have."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

