"""A Client in memory, for tests: the API's bookkeeping without defaults, validation or a network.

It keeps what controllers depend on: resourceVersions and conflicts, generation, graceful deletion and finalizers,
watches that resume or are too late, selectors, and the separation of status. Objects are stored as trees and decoded
for each caller, as a real client would.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from sampan.api import errors
from sampan.api.codec import from_tree, to_tree
from sampan.api.resources import BUILT_IN, Object, Resource, by_kind
from sampan.api.selectors import SelectorError, parse_fields, parse_labels
from sampan.api.times import Time
from sampan.client.fake_patch import apply_patch
from sampan.client.protocol import PLAIN_DELETE, DeleteOptions, EventType, Page, Patch, WatchEvent
from sampan.loop.clock import Clock

T = TypeVar("T", bound=Object)
Tree = dict[str, Any]
Key = tuple[str, str, str, str]
"""Group, plural, namespace and name."""

_SERVER_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as tests look at it afterwards."""

    verb: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class _Change:
    revision: int
    key: Key
    old: Tree | None
    new: Tree | None


class FakeClient:
    """Implements `sampan.client.protocol.Client`. One instance is one cluster."""

    def __init__(self, clock: Clock, resources: Sequence[Resource[Any]] = BUILT_IN, *, seed: int = 0) -> None:
        self.calls: list[Call] = []
        """Every request so far."""
        self.on_call: Callable[[Call], None] | None = None
        """Called before each request is carried out; what it raises is the request's answer."""
        self._clock = clock
        self._resources = tuple(resources)
        self._random = random.Random(seed)  # noqa: S311 - names and uids of a test
        self._objects: dict[Key, Tree] = {}
        self._history: list[_Change] = []
        self._revision = 1
        self._oldest = 1
        self._epoch = 0
        self._written = asyncio.Event()
        self._pages: dict[str, tuple[str, list[Tree]]] = {}
        self._tokens = itertools.count(1)

    # What tests do to the cluster behind the client's back

    @property
    def revision(self) -> int:
        """The revision of the last write."""
        return self._revision

    def put(self, obj: T) -> T:
        """Store an object as it is, status included, whether or not it is there; returns what was stored."""
        resource = by_kind(obj.api_version, obj.kind, self._resources)
        assert resource is not None, f"{obj.api_version} {obj.kind} is not served"
        tree = to_tree(obj)
        key = _key(resource, tree["metadata"].get("namespace", ""), tree["metadata"]["name"])
        old = self._objects.get(key)
        self._fill(tree, old)
        self._write(key, tree)
        return cast("T", from_tree(resource.type, tree))

    def remove(self, resource: Resource[Any], name: str, namespace: str = "") -> None:
        """Make an object vanish, whatever finalizers it has."""
        self._erase(_key(resource, namespace, name))

    def compact(self) -> None:
        """Forget history: watches from the past get 410, and so do continue tokens."""
        self._oldest = self._revision
        self._history.clear()
        self._pages.clear()

    def drop_watches(self) -> None:
        """End every watch that is open, as a server does that restarts."""
        self._epoch += 1
        self._wake()

    def count(self, verb: str, plural: str = "", subresource: str | None = None) -> int:
        """How many requests of a kind were made."""
        return sum(call.verb == verb and plural in ("", call.plural) and subresource in (None, call.subresource)
                   for call in self.calls)

    # The protocol

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """One object."""
        await self._enter("get", resource, namespace, name)
        return from_tree(resource.type, self._find(resource, namespace, name))

    async def list(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                   field_selector: str = "", limit: int = 0, continue_token: str = "", revision: str = "") -> Page[T]:
        """Objects in order of namespace and name."""
        await self._enter("list", resource, namespace)
        if continue_token:
            if continue_token not in self._pages:
                raise errors.expired("The provided continue parameter is too old to display a consistent list result.")
            read_at, trees = self._pages.pop(continue_token)
        else:
            matches = _matcher(resource, namespace, label_selector, field_selector)
            read_at = str(self._revision)
            trees = [tree for key, tree in sorted(self._objects.items()) if matches(key, tree)]
        token = ""
        if limit and len(trees) > limit:
            token = f"{read_at}-{next(self._tokens)}"
            self._pages[token] = read_at, trees[limit:]
            trees = trees[:limit]
        return Page([from_tree(resource.type, tree) for tree in trees], read_at, token)

    async def watch(self, resource: Resource[T], namespace: str = "", *, revision: str = "", label_selector: str = "",
                    field_selector: str = "", timeout_seconds: int = 0) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes in order of revision; without a revision, first what is there."""
        await self._enter("watch", resource, namespace)
        matches = _matcher(resource, namespace, label_selector, field_selector)
        epoch, loop = self._epoch, asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds if timeout_seconds else None
        position = int(revision or 0)
        if not position:
            position = self._revision
            for _, tree in sorted(item for item in self._objects.items() if matches(*item)):
                yield WatchEvent("ADDED", from_tree(resource.type, tree), tree["metadata"]["resourceVersion"])
        while epoch == self._epoch:
            if position < self._oldest:
                raise errors.expired(f"too old resource version: {position} ({self._oldest})")
            for change in [change for change in self._history if change.revision > position]:
                position = change.revision
                event = _seen(change, matches)
                if event is not None:
                    yield WatchEvent(event[0], from_tree(resource.type, event[1]), str(change.revision))
            if self._revision > position:
                continue
            written = self._written
            try:
                async with asyncio.timeout_at(deadline):
                    await written.wait()
            except TimeoutError:
                return

    async def create(self, resource: Resource[T], obj: T, namespace: str = "", *, dry_run: bool = False) -> T:
        """Store a new object under its own or a generated name."""
        tree = to_tree(obj)
        meta = tree.setdefault("metadata", {})
        namespace = (namespace or meta.get("namespace", "")) if resource.namespaced else ""
        await self._enter("create", resource, namespace, meta.get("name", ""))
        if resource.namespaced:
            if not namespace:
                raise errors.bad_request("an empty namespace may not be set during creation")
            self._check_namespace(resource, namespace, meta.get("name", ""))
            meta["namespace"] = namespace
        if not meta.get("name") and not meta.get("generateName"):
            raise errors.invalid_object(resource.group, resource.kind, "", [
                errors.required("metadata.name", "name or generateName is required")])
        if not meta.get("name"):
            meta["name"] = meta["generateName"] + "".join(self._random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        key = _key(resource, namespace, meta["name"])
        if key in self._objects:
            raise errors.already_exists(resource.group, resource.plural, meta["name"])
        for field in (*_SERVER_FIELDS, "resourceVersion"):
            meta.pop(field, None)
        if _has_status(resource):
            tree.pop("status", None)
        _newborn(resource, tree)
        self._fill(tree, None)
        if not dry_run:
            self._write(key, tree)
        return from_tree(resource.type, tree)

    async def update(self, resource: Resource[T], obj: T, *, subresource: str = "") -> T:
        """Replace the main part, the status, or what another subresource stands for."""
        tree = to_tree(obj)
        meta = tree["metadata"]
        namespace = meta.get("namespace", "") if resource.namespaced else ""
        await self._enter("update", resource, namespace, meta["name"], subresource)
        old = self._find(resource, namespace, meta["name"])
        return from_tree(resource.type, self._replace(resource, old, tree, subresource))

    async def patch(self, resource: Resource[T], name: str, patch: Patch, namespace: str = "", *,
                    subresource: str = "") -> T:
        """Change part of an object."""
        await self._enter("patch", resource, namespace, name, subresource)
        old = self._find(resource, namespace, name)
        return from_tree(resource.type, self._replace(resource, old, apply_patch(old, patch), subresource))

    async def delete(self, resource: Resource[T], name: str, namespace: str = "",
                     options: DeleteOptions = PLAIN_DELETE) -> None:
        """Delete, or begin to."""
        await self._enter("delete", resource, namespace, name)
        self._delete(resource, self._find(resource, namespace, name), options)

    async def delete_collection(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                                field_selector: str = "", options: DeleteOptions = PLAIN_DELETE) -> None:
        """Delete each that matches."""
        await self._enter("deletecollection", resource, namespace)
        matches = _matcher(resource, namespace, label_selector, field_selector)
        for _, tree in [item for item in self._objects.items() if matches(*item)]:
            self._delete(resource, tree, options)

    async def post(self, resource: Resource[Any], name: str, subresource: str, body: Tree,
                   namespace: str = "") -> Tree:
        """pods/binding and pods/eviction."""
        await self._enter("create", resource, namespace, name, subresource)
        old = self._find(resource, namespace, name)
        if subresource == "binding":
            self._bind(resource, old, body)
        elif subresource == "eviction":
            self._delete(resource, old, DeleteOptions())
        else:
            raise errors.not_found(resource.group, resource.plural, f"{name}/{subresource}")
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    async def server_resources(self) -> Sequence[Resource[Any]]:
        """What the fake was made with."""
        await self._enter("discover", None)
        return [resource.metadata_only() for resource in self._resources]

    # Bookkeeping

    async def _enter(self, verb: str, resource: Resource[Any] | None, namespace: str = "", name: str = "",
                     subresource: str = "") -> None:
        call = Call(verb, resource.plural if resource else "", namespace, name, subresource)
        self.calls.append(call)
        await asyncio.sleep(0)  # a real client never answers at once
        if self.on_call is not None:
            self.on_call(call)

    def _find(self, resource: Resource[Any], namespace: str, name: str) -> Tree:
        tree = self._objects.get(_key(resource, namespace, name))
        if tree is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return tree

    def _check_namespace(self, resource: Resource[Any], namespace: str, name: str) -> None:
        found = self._objects.get(("", "namespaces", "", namespace))
        if found and found["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = errors.forbidden_request(resource.group, resource.plural, name, why)
            error.causes = (errors.Cause("NamespaceTerminating", f"namespace {namespace} is being terminated",
                                         "metadata.namespace"),)
            raise error

    def _replace(self, resource: Resource[Any], old: Tree, tree: Tree, subresource: str) -> Tree:
        meta, old_meta = tree["metadata"], old["metadata"]
        for field in ("resourceVersion", "uid"):
            if meta.get(field) and meta[field] != old_meta[field]:
                raise errors.conflict(resource.group, resource.plural, old_meta["name"])
        new = _merge_parts(resource, old, copy.deepcopy(tree), subresource)
        if new.get("spec") != old.get("spec") and new["metadata"].get("generation"):
            new["metadata"]["generation"] += 1
        key = _key(resource, old_meta.get("namespace", ""), old_meta["name"])
        if new == old:
            return old
        if new["metadata"].get("deletionTimestamp") and not _held(resource, new):
            self._write(key, new)
            self._erase(key)
            return new
        self._write(key, new)
        return new

    def _delete(self, resource: Resource[Any], old: Tree, options: DeleteOptions) -> None:
        meta = old["metadata"]
        for given, field, text in ((options.uid, "uid", "UID"), (options.revision, "resourceVersion",
                                                                 "ResourceVersion")):
            if given and given != meta[field]:
                raise errors.conflict(resource.group, resource.plural, meta["name"],
                                      f"Precondition failed: {text} in precondition: {given}, "
                                      f"{text} in object meta: {meta[field]}")
        new = copy.deepcopy(old)
        _begin_deletion(resource, new, options, self._clock)
        key = _key(resource, meta.get("namespace", ""), meta["name"])
        if not _held(resource, new):
            self._erase(key)
        elif new != old:
            self._write(key, new)

    def _bind(self, resource: Resource[Any], old: Tree, body: Tree) -> None:
        name = old["metadata"]["name"]
        if old["spec"].get("nodeName"):
            raise errors.conflict("", "pods/binding", name,
                                  f'pod {name} is already assigned to node "{old["spec"]["nodeName"]}"')
        new = copy.deepcopy(old)
        new["spec"]["nodeName"] = body["target"]["name"]
        conditions = new.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [item for item in conditions if item["type"] != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True",
                           "lastTransitionTime": str(Time.of(self._clock.now()))})
        self._write(_key(resource, new["metadata"]["namespace"], name), new)

    def _fill(self, tree: Tree, old: Tree | None) -> None:
        meta = tree["metadata"]
        was = old["metadata"] if old else {}
        meta["uid"] = was.get("uid") or meta.get("uid") or str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        meta.setdefault("creationTimestamp", was.get("creationTimestamp") or str(Time.of(self._clock.now())))
        if "spec" in tree:
            changed = int(bool(old) and tree["spec"] != (old or {}).get("spec"))
            meta["generation"] = meta.get("generation") or was.get("generation", 1) + changed

    def _write(self, key: Key, tree: Tree) -> None:
        self._revision += 1
        tree["metadata"]["resourceVersion"] = str(self._revision)
        self._history.append(_Change(self._revision, key, self._objects.get(key), tree))
        self._objects[key] = tree
        self._wake()

    def _erase(self, key: Key) -> None:
        old = self._objects.pop(key, None)
        if old is not None:
            self._revision += 1
            self._history.append(_Change(self._revision, key, old, None))
            self._wake()

    def _wake(self) -> None:
        written, self._written = self._written, asyncio.Event()
        written.set()


def _key(resource: Resource[Any], namespace: str, name: str) -> Key:
    return resource.group, resource.plural, namespace if resource.namespaced else "", name


def _has_status(resource: Resource[Any]) -> bool:
    return any(item.name == "status" for item in resource.subresources)


def _newborn(resource: Resource[Any], tree: Tree) -> None:
    """The two things set by the server without which no controller works."""
    if resource.key == ("", "namespaces"):
        tree.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        tree["status"] = {"phase": "Active"}
    elif resource.key == ("", "pods"):
        tree["status"] = {"phase": "Pending"}


def _merge_parts(resource: Resource[Any], old: Tree, tree: Tree, subresource: str) -> Tree:
    """The stored object after a write through one of its doors: each changes only its own part."""
    if subresource:
        new = copy.deepcopy(old)
        if subresource == "finalize":
            new["spec"] = {**old.get("spec", {}), "finalizers": (tree.get("spec") or {}).get("finalizers", [])}
        elif subresource in ("status", "approval"):
            new["status"] = tree.get("status", {})
        else:
            raise errors.not_found(resource.group, resource.plural, f"{old['metadata']['name']}/{subresource}")
    else:
        new = tree
        new["metadata"] |= {name: old["metadata"][name] for name in _SERVER_FIELDS if name in old["metadata"]}
        if _has_status(resource):
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
    if new["metadata"].get("finalizers") == []:
        del new["metadata"]["finalizers"]
    return new


def _begin_deletion(resource: Resource[Any], tree: Tree, options: DeleteOptions, clock: Clock) -> None:
    meta = tree["metadata"]
    grace = _grace(resource, tree, options.grace_period)
    finalizers = set(meta.get("finalizers", ()))
    if options.propagation:
        finalizers -= {"orphan", "foregroundDeletion"}
        finalizers |= {"Orphan": {"orphan"}, "Foreground": {"foregroundDeletion"}}.get(options.propagation, set())
    if finalizers != set(meta.get("finalizers", ())):
        meta["finalizers"] = sorted(finalizers)
    if "deletionTimestamp" in meta and grace >= meta.get("deletionGracePeriodSeconds", 0):
        return
    meta["deletionTimestamp"] = str(Time.of(clock.now() + timedelta(seconds=grace)))
    meta["deletionGracePeriodSeconds"] = grace
    if resource.key == ("", "namespaces"):
        tree.setdefault("status", {})["phase"] = "Terminating"


def _grace(resource: Resource[Any], tree: Tree, requested: int | None) -> int:
    if resource.key != ("", "pods") or not tree["spec"].get("nodeName"):
        return 0
    if tree.get("status", {}).get("phase") in ("Failed", "Succeeded"):
        return 0
    return int(requested if requested is not None else tree["spec"].get("terminationGracePeriodSeconds", 30))


def _held(resource: Resource[Any], tree: Tree) -> bool:
    """Whether something must still happen before an object that is being deleted may go."""
    meta = tree["metadata"]
    own = tree.get("spec", {}).get("finalizers") if resource.key == ("", "namespaces") else None
    return bool(meta.get("finalizers") or own or meta.get("deletionGracePeriodSeconds"))


def _matcher(resource: Resource[Any], namespace: str, labels: str, fields: str) -> Callable[[Key, Tree], bool]:
    try:
        label_selector, field_selector = parse_labels(labels), parse_fields(fields)
    except SelectorError as error:
        raise errors.bad_request(str(error)) from error

    def matches(key: Key, tree: Tree) -> bool:
        if key[:2] != resource.key or (namespace and key[2] != namespace):
            return False
        return label_selector.matches(tree["metadata"].get("labels")) and field_selector.matches(
            {item.field: _field(tree, item.field) for item in field_selector.requirements})
    return matches


def _field(tree: Tree, path: str) -> str:
    value: Any = tree
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _seen(change: _Change, matches: Callable[[Key, Tree], bool]) -> tuple[EventType, Tree] | None:
    """What a change looks like through a selector: objects enter and leave its view."""
    before = change.old is not None and matches(change.key, change.old)
    after = change.new is not None and matches(change.key, change.new)
    if after:
        return ("MODIFIED" if before else "ADDED"), cast("Tree", change.new)
    if before:
        last = copy.deepcopy(cast("Tree", change.new or change.old))
        last["metadata"]["resourceVersion"] = str(change.revision)
        return "DELETED", last
    return None


def seeded(clock: Clock, objects: Iterable[Object]) -> FakeClient:
    """A fake that already holds some objects."""
    client = FakeClient(clock)
    for obj in objects:
        client.put(obj)
    return client
