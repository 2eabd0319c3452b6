"""The Client protocol inside the API server's process: the same rules and the same caches, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from master.apiserver import deletion
from master.apiserver.auth import INTERNAL
from master.apiserver.decode import Body
from master.apiserver.patching import PatchBody
from master.apiserver.registry import Registry, Served
from master.apiserver.strategy import User
from master.apiserver.subresources import Subresources, find
from master.apiserver.write import Target, Writer
from sampan.api.codec import decode, to_tree
from sampan.api.errors import ApiError, internal_error
from sampan.api.resources import Object, Resource
from sampan.client.protocol import DeleteOptions, Page, Patch, WatchEvent

T = TypeVar("T", bound=Object)
R = TypeVar("R")
Tree = dict[str, Any]

REQUEST_SECONDS = 60.0


class LocalClient:
    """Calls the registry as a member of system:masters."""

    def __init__(self, registry: Registry, writer: Writer, user: User = INTERNAL) -> None:
        self._registry = registry
        self._writer = writer
        self._subresources = Subresources(registry, writer)
        self._user = user
        self._writing: set[asyncio.Task[Any]] = set()

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """One object, as new as the store."""
        served = self._registry.of(resource)
        entry = await served.cache.get(_place(resource, namespace), name)
        if entry is None:
            raise served.not_found(name)
        return _typed(resource, entry.raw)

    async def list(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                   field_selector: str = "", limit: int = 0, continue_token: str = "", revision: str = "") -> Page[T]:
        """Objects from the cache."""
        served = self._registry.of(resource)
        match = self._registry.select(served, label_selector, field_selector).match()
        listing = await served.cache.list(_place(resource, namespace), match=match, limit=limit,
                                          continue_token=continue_token, revision=revision)
        items = [_typed(resource, entry.raw) for entry in listing.entries]
        return Page(items, str(listing.revision), listing.continue_token)

    async def watch(self, resource: Resource[T], namespace: str = "", *, revision: str = "", label_selector: str = "",
                    field_selector: str = "", timeout_seconds: int = 0) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes from the cache; objects are decoded from its bytes."""
        served = self._registry.of(resource)
        match = self._registry.select(served, label_selector, field_selector).match()
        watch = await served.cache.watch(revision, _place(resource, namespace), match=match, bookmarks=True)
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_seconds if timeout_seconds else None
        async with aclosing(watch):
            while True:
                try:
                    async with asyncio.timeout_at(ends):
                        events = await anext(watch)
                except (TimeoutError, StopAsyncIteration):
                    return
                for event in events:
                    obj = None if event.entry is None else _typed(resource, event.entry.raw)
                    yield WatchEvent(event.type, obj, str(event.revision))

    async def create(self, resource: Resource[T], obj: T, namespace: str = "", *, dry_run: bool = False) -> T:
        """Store a new object."""
        target = self._target(resource, namespace or obj.metadata.namespace, "", dry_run=dry_run)
        return _typed(resource, (await self._run(self._writer.create(target, _body(obj, resource)))).raw)

    async def update(self, resource: Resource[T], obj: T, *, subresource: str = "") -> T:
        """Replace an object, or what the subresource covers of it."""
        target = self._target(resource, obj.metadata.namespace, obj.metadata.name, subresource)
        return _typed(resource, (await self._run(self._writer.update(target, _body(obj, resource)))).raw)

    async def patch(self, resource: Resource[T], name: str, patch: Patch, namespace: str = "", *,
                    subresource: str = "") -> T:
        """Change part of an object."""
        target = self._target(resource, namespace, name, subresource)
        value = msgspec.json.decode(msgspec.json.encode(to_plain(patch.body)))
        body = PatchBody(patch.kind, value, self._registry.schemas.definitions)
        if subresource == "scale":
            await self._run(self._subresources.patch_scale(target, body))
            return await self.get(resource, name, namespace)
        return _typed(resource, (await self._run(self._writer.patch(target, body))).raw)

    async def delete(self, resource: Resource[T], name: str, namespace: str = "",
                     options: DeleteOptions = DeleteOptions()) -> None:  # noqa: B008 - immutable
        """Delete one object, or begin to."""
        await self._run(self._writer.delete(self._target(resource, namespace, name), _options(options)))

    async def delete_collection(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                                field_selector: str = "",
                                options: DeleteOptions = DeleteOptions()) -> None:  # noqa: B008 - immutable
        """Delete all that the selectors match."""
        target = self._target(resource, namespace, "")
        selection = self._registry.select(target.served, label_selector, field_selector)
        listing = await target.served.cache.list(target.namespace, match=selection.match())
        await self._run(self._writer.delete_collection(target, listing.entries, _options(options)))

    async def post(self, resource: Resource[Any], name: str, subresource: str, body: Tree,
                   namespace: str = "") -> Tree:
        """Create on a subresource."""
        target = self._target(resource, namespace, name, subresource)
        if find(target.served, subresource) is None or subresource not in ("binding", "eviction"):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        work = self._subresources.bind if subresource == "binding" else self._subresources.evict
        written = await self._run(work(target, Body(tree=msgspec.json.decode(msgspec.json.encode(body)))))
        result: Tree = msgspec.json.decode(written.raw)
        return result

    async def server_resources(self) -> Sequence[Resource[Any]]:
        """Everything that is served."""
        return [resource.metadata_only() for resource in self._registry.resources]

    def _target(self, resource: Resource[Any], namespace: str, name: str, subresource: str = "", *,
                dry_run: bool = False) -> Target:
        served: Served = self._registry.of(resource)
        return Target(served, self._user, _place(resource, namespace), name, subresource, dry_run, "Ignore")

    async def _run(self, work: Coroutine[Any, Any, R]) -> R:
        """As long as an HTTP request may take.

        A write goes on when nobody waits for it any more: what it has reserved is used or given back.
        """
        task = asyncio.ensure_future(work)
        self._writing.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._written)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise ApiError(504, "Timeout", "the request took too long") from error

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits for it


def to_plain(value: Any) -> Any:
    """Typed objects within a patch as plain JSON."""
    return msgspec.to_builtins(value, enc_hook=str)


def _place(resource: Resource[Any], namespace: str) -> str:
    return namespace if resource.namespaced else ""


def _typed(resource: Resource[T], raw: bytes) -> T:
    try:
        return decode(resource.type, raw)
    except msgspec.DecodeError as error:
        raise internal_error(f"a stored {resource.kind} cannot be read: {error}") from error


def _body(obj: Object, resource: Resource[Any]) -> Body:
    tree = to_tree(obj)
    tree["apiVersion"], tree["kind"] = resource.api_version, resource.kind
    return Body(tree=tree)


def _options(options: DeleteOptions) -> deletion.Options:
    return deletion.Options(options.grace_period, options.propagation or "", None, options.uid, options.revision)


