"""The write path: from a body that a client sent to a revision in the store.

decode → default → admit → prepare → validate → allocate → compare-and-set. Everything works on generic trees; an
object is written whole or not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from master.apiserver import admission, deletion, keys, metadata
from master.apiserver.decode import Body, Decoder, Validation
from master.apiserver.entry import Entry
from master.apiserver.patching import PatchBody
from master.apiserver.registry import Registry, Served
from master.apiserver.schema import encode_with_slot, join_errors
from master.apiserver.strategy import Context, User
from master.store.protocol import KeyExists, KeyMissing, Record, RevisionConflict, StoreError
from sampan.api import names
from sampan.api.errors import (
    ApiError,
    FieldError,
    already_exists,
    bad_request,
    conflict,
    invalid_object,
    unavailable,
)

Tree = dict[str, Any]

NAME_ATTEMPTS = 8
"""How many names are tried for a generateName (KEP-4420)."""

_RETURN_DELETED = frozenset((("", "pods"), ("", "services"), ("", "serviceaccounts")))
"""Kinds whose deletion answers with the object instead of a Status, as upstream's do."""

_tree_of = msgspec.json.Decoder(Tree).decode
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Target:
    """What a write is about, and how it is to be done."""

    served: Served
    user: User
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    dry_run: bool = False
    validation: Validation = "Warn"

    @property
    def key(self) -> str:
        """Where the object lies in the store."""
        return keys.key(self.served.resource, self.namespace, self.name)


@dataclass(slots=True)
class Written:
    """What came of a write: the object's JSON, the HTTP code, and what goes into Warning headers."""

    raw: bytes
    code: int = 200
    warnings: list[str] = field(default_factory=list)
    removed: bool = False


Make = Callable[[Tree], Awaitable[Tree]]
"""From a copy of the stored object to the object that shall replace it, ready to be stored; raises ApiError."""
Check = Callable[[], Awaitable[None]]
"""Raises ApiError where something may not be."""


class Writer:
    """Creates, updates, patches and deletes objects."""

    def __init__(self, registry: Registry, plugins: Sequence[admission.Plugin] = ()) -> None:
        self._registry = registry
        self._plugins = plugins
        self._store = registry.store
        self._decoder = Decoder()

    # --- create ---------------------------------------------------------------------------------------------------

    async def create(self, target: Target, body: Body) -> Written:
        """POST of a new object; `target.name` is only set where a PUT creates."""
        served = target.served
        obj, problems, schema_errors = self._decoder.read(served, body, target.validation)
        self._check_namespace(target, obj)
        meta = obj["metadata"]
        if meta.get("resourceVersion") not in (None, "", "0"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        generate = meta.get("generateName") or ""
        fixed = meta.get("name") or ""
        for _ in range(1 if fixed or not generate else NAME_ATTEMPTS):
            if not fixed and generate:
                meta["name"] = names.generate_name(generate, self._registry.rng)
            try:
                return await self._create_once(target, obj, problems, schema_errors)
            except ApiError as error:
                if fixed or not error.is_already_exists:
                    raise
                last = error
        last.message += ", the server was not able to generate a unique name for the object"
        raise last

    async def _create_once(self, target: Target, pristine: Tree, problems: list[str],
                           schema_errors: Sequence[FieldError]) -> Written:
        served, strategy = target.served, target.served.strategy
        obj = _copy(pristine)
        context = self._context(target)
        metadata.begin(obj, namespace=target.namespace if served.resource.namespaced else "", uid=str(uuid.uuid4()),
                       now=context.now, generation=strategy.has_generation)
        strategy.default(obj)
        await admission.admit_create(self._registry, served, obj)
        for plugin in self._plugins:
            await plugin.create(served, obj, context)
        strategy.prepare_create(obj, context)
        self._refuse_invalid(served, obj, strategy.validate(obj, context), schema_errors)
        target = replace(target, name=obj["metadata"]["name"])
        await strategy.allocate(obj, context)
        written = Written(b"", 201, problems + list(strategy.warnings(obj)))
        if target.dry_run:
            if await self._store.get(target.key) is not None:
                raise self._exists(target)
            written.raw = _json(obj)
            return written
        data, slot = encode_with_slot(obj)
        try:
            record = await self._store.create(target.key, data, slot=slot)
        except KeyExists as error:
            await strategy.release(obj)
            raise self._exists(target) from error
        except StoreError as error:
            await strategy.release(obj)
            raise unavailable(str(error)) from error
        written.raw = record.value
        return written

    def _exists(self, target: Target) -> ApiError:
        resource = target.served.resource
        error = already_exists(resource.group, resource.plural, target.name)
        entry = target.served.cache.peek(target.namespace, target.name)
        if entry is not None and entry.tree["metadata"].get("deletionTimestamp"):
            error.message = "object is being deleted: " + error.message
        return error

    # --- update and patch -----------------------------------------------------------------------------------------

    async def update(self, target: Target, body: Body, may_create: Check | None = None) -> Written:
        """PUT of an object or of one of its subresources that speak the object's own kind.

        Some kinds are created so where they are not there; `may_create` raises for whoever may only update.
        """
        served = target.served
        obj, problems, schema_errors = self._decoder.read(served, body, target.validation)
        self._check_namespace(target, obj)
        check_name(target, obj)
        schema_errors = _of_door(target.subresource, schema_errors)
        pristine = _json(obj)

        async def make(old: Tree) -> Tree:
            new = _tree_of(pristine)
            self.check_preconditions(target, new, old)
            return await self.finish(target, new, old, schema_errors)

        try:
            written = await self.change(target, make)
        except ApiError as error:
            creates = served.strategy.allow_create_on_update and not target.subresource
            if not (error.code == 404 and creates):
                raise
            if uid := obj["metadata"].get("uid"):  # what the client means is gone: it is not brought back
                raise self._broken_precondition(target, "UID", uid, "") from error
            if may_create is not None:
                await may_create()
            obj["metadata"].pop("resourceVersion", None)
            return await self.create(target, Body(tree=obj, problems=tuple(problems)))
        written.warnings += problems
        return written

    async def patch(self, target: Target, patch: PatchBody) -> Written:
        """PATCH of an object or of one of its subresources that speak the object's own kind."""
        served = target.served
        problems: list[str] = []

        async def make(old: Tree) -> Tree:
            body = patch.body(patch.apply(served, old))
            with patch.to_blame():
                new, problems[:], schema_errors = self._decoder.read(served, body, target.validation)
            self._check_namespace(target, new)
            check_name(target, new)
            self.check_preconditions(target, new, old)
            return await self.finish(target, new, old, _of_door(target.subresource, schema_errors))

        written = await self.change(target, make)
        written.warnings += problems
        return written

    async def change(self, target: Target, make: Make) -> Written:
        """Replace the stored object by what `make` says, as often as it takes others to let it through.

        That ends: whenever it loses, another has won; and one that names a revision is refused by `make`. The cache's
        copy is tried first; a refusal counts only once it is known to concern the newest state.
        """
        entry = target.served.cache.peek(target.namespace, target.name)
        raw, revision, fresh = (entry.raw, entry.revision, False) if entry else (b"", 0, False)
        while True:
            if not raw:
                raw, revision, fresh = *await self._newest(target), True
            old = _tree_of(raw)
            try:
                new = await make(_tree_of(raw))
            except ApiError:
                if fresh or (newest := await self._newest(target))[1] == revision:
                    raise
                raw, revision, fresh = *newest, True
                continue
            if new == old:
                if fresh or (newest := await self._newest(target))[1] == revision:
                    return Written(raw)
                raw, revision, fresh = *newest, True
                continue
            if target.dry_run:
                return Written(_json(new), 200, self._warnings(target, new, old))
            try:
                return await self._replace(target, new, old, revision)
            except RevisionConflict as error:
                raw, revision, fresh = error.current.value, error.current.revision, True
            except KeyMissing as error:
                raise target.served.not_found(target.name) from error
            except StoreError as error:
                raise unavailable(str(error)) from error

    async def _replace(self, target: Target, new: Tree, old: Tree, revision: int) -> Written:
        """Store what an update made, or remove what it was the last to hold; StoreError.

        What `new` took from shared pools is given back if it is not stored, what only `old` held once it is.
        """
        strategy = target.served.strategy
        written = Written(b"", 200, self._warnings(target, new, old))
        try:
            if deletion.done_with(new, old):
                written.raw, written.removed = _json(new), True
                await self._store.delete(target.key, expected=revision)
                await strategy.release(new)
            else:
                data, slot = encode_with_slot(new)
                written.raw = (await self._store.update(target.key, data, expected=revision, slot=slot)).value
        except StoreError:
            await strategy.release(new, keep=old)
            raise
        await strategy.release(old, keep=None if written.removed else new)
        return written

    def _warnings(self, target: Target, new: Tree, old: Tree) -> list[str]:
        return [] if target.subresource else list(target.served.strategy.update_warnings(new, old))

    async def _newest(self, target: Target) -> tuple[bytes, int]:
        try:
            record = await self._store.get(target.key)
        except StoreError as error:
            raise unavailable(str(error)) from error
        if record is None:
            raise target.served.not_found(target.name)
        return record.value, record.revision

    async def finish(self, target: Target, new: Tree, old: Tree, schema_errors: Sequence[FieldError]) -> Tree:
        """Everything between decoding and the store, for an update; `new` is completed in place."""
        served, strategy = target.served, target.served.strategy
        context = self._context(target)
        metadata.carry_over(new, old)
        strategy.default(new)
        if not target.subresource:
            admission.admit_update(served, new, old)
        for plugin in self._plugins:
            await plugin.update(served, new, old, context)
        strategy.prepare_update(new, old, context)
        if strategy.has_generation and strategy.changes_generation(new, old):
            new["metadata"]["generation"] = (old["metadata"].get("generation") or 0) + 1
        own = [*strategy.validate(new, context), *strategy.validate_update(new, old, context)]
        self._refuse_invalid(served, new, _unique(own), schema_errors, metadata.validate_update(new, old))
        await strategy.allocate_update(new, old, context)
        return new

    def check_preconditions(self, target: Target, new: Tree, old: Tree) -> None:
        """The revision and the uid that the client saw are those that are there."""
        resource = target.served.resource
        wanted, present = new["metadata"].get("resourceVersion"), old["metadata"].get("resourceVersion")
        uid, present_uid = new["metadata"].get("uid"), old["metadata"].get("uid")
        if uid and uid != present_uid:
            raise self._broken_precondition(target, "UID", uid, present_uid)
        if wanted and wanted != "0":
            if wanted != present:
                raise self._conflict(target)
        elif not target.served.strategy.allow_unconditional_update:
            raise invalid_object(resource.group, resource.kind, target.name, [
                FieldError("metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0x0: must be specified for "
                                                                            "an update")])

    # --- delete ---------------------------------------------------------------------------------------------------

    async def delete(self, target: Target, options: deletion.Options) -> Written:
        """DELETE of one object: removes it, or marks it and leaves the rest to graceful ends and finalizers."""
        served = target.served
        admission.admit_delete(served, target.name)
        raw, revision = await self._newest(target)
        while True:
            obj = _tree_of(raw)
            self._check_delete_preconditions(target, obj, options)
            for plugin in self._plugins:
                await plugin.delete(served, obj, self._context(target))
            grace = served.strategy.grace_period(obj, options.grace_period)
            plan = deletion.plan(obj, options, grace=grace, now=self._registry.clock.now(),
                                 orphans=served.strategy.keeps_dependents)
            try:
                return await self._carry_out(target, plan, revision, options)
            except RevisionConflict as error:
                raw, revision = error.current.value, error.current.revision
            except KeyMissing as error:
                raise served.not_found(target.name) from error
            except StoreError as error:
                raise unavailable(str(error)) from error

    async def _carry_out(self, target: Target, plan: deletion.Plan, revision: int,
                         options: deletion.Options) -> Written:
        dry_run = target.dry_run or options.dry_run
        if plan.action == "remove":
            if not dry_run:
                record = await self._remove(target, plan.obj, revision)
                plan.obj["metadata"]["resourceVersion"] = str(record.revision)
            return Written(self._deleted(target.served, plan.obj), removed=True)
        code = 202 if options.waits_for_dependents else 200
        if plan.action == "keep" or dry_run:
            return Written(_json(plan.obj), code)
        data, slot = encode_with_slot(plan.obj)
        record = await self._store.update(target.key, data, expected=revision, slot=slot)
        return Written(record.value, code)

    async def _remove(self, target: Target, obj: Tree, revision: int) -> Record:
        record = await self._store.delete(target.key, expected=revision)
        await target.served.strategy.release(obj)
        return record

    def _check_delete_preconditions(self, target: Target, obj: Tree, options: deletion.Options) -> None:
        meta = obj["metadata"]
        for word, wanted, present in (("UID", options.uid, meta.get("uid")),
                                      ("ResourceVersion", options.revision, meta.get("resourceVersion"))):
            if wanted and wanted != present:
                raise self._broken_precondition(target, word, wanted, present)

    def _deleted(self, served: Served, obj: Tree) -> bytes:
        """What the answer to a completed deletion shows."""
        resource = served.resource
        if resource.key in _RETURN_DELETED:
            return _json(obj)
        details = {"name": obj["metadata"]["name"]}
        if resource.group:
            details["group"] = resource.group
        details |= {"kind": resource.plural, "uid": obj["metadata"].get("uid", "")}
        return success(details)

    async def delete_collection(self, target: Target, entries: Sequence[Entry], options: deletion.Options) -> None:
        """DELETE of all of these, as long as they are there."""
        for entry in entries:
            one = replace(target, namespace=entry.namespace, name=entry.name)
            try:
                await self.delete(one, options)
            except ApiError as error:
                if error.code != 404:
                    raise

    # --- shared ---------------------------------------------------------------------------------------------------

    def _context(self, target: Target) -> Context:
        return Context(target.user, self._registry.clock.now(), target.dry_run, target.subresource)

    def _conflict(self, target: Target, why: str = "") -> ApiError:
        return conflict(target.served.resource.group, target.served.resource.plural, target.name, why)

    def _broken_precondition(self, target: Target, word: str, wanted: str, present: str | None) -> ApiError:
        return self._conflict(target, f"Precondition failed: {word} in precondition: {wanted}, {word} in object meta: "
                                      f"{present}")

    def _check_namespace(self, target: Target, obj: Tree) -> None:
        """The body's namespace is the path's, or unsaid; kinds without namespaces drop it."""
        meta = obj["metadata"]
        if not target.served.resource.namespaced:
            meta.pop("namespace", None)
        elif not meta.get("namespace"):
            meta["namespace"] = target.namespace
        elif meta["namespace"] != target.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    def _refuse_invalid(self, served: Served, obj: Tree, own: Sequence[FieldError], schema: Sequence[FieldError],
                        change: Sequence[FieldError] = ()) -> None:
        resource = served.resource
        errors = [*metadata.validate(obj, namespaced=resource.namespaced, name_rule=served.strategy.name_rule),
                  *change, *join_errors(own, schema)]
        if errors:
            raise invalid_object(resource.group, resource.kind, obj["metadata"].get("name") or "", errors)


def check_name(target: Target, obj: Tree) -> None:
    """The body's name is the path's; ApiError 400."""
    name = obj["metadata"].get("name")
    if not name:
        raise bad_request(f"the name of the object ({target.name} based on URL) was undeterminable: name must be "
                          "provided")
    if name != target.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")


def _of_door(subresource: str, errors: Sequence[FieldError]) -> Sequence[FieldError]:
    """The findings that matter: whoever writes the status need not send a whole spec, it is left as it is."""
    if subresource not in ("status", "approval"):
        return errors
    return [error for error in errors if error.path.startswith(("status", "metadata"))]


def success(details: Tree, code: Literal[0, 201] = 0) -> bytes:
    """A Status that tells that something was done."""
    status: Tree = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    return _json(status | ({"code": code} if code else {}))


def _copy(tree: Tree) -> Tree:
    return _tree_of(_json(tree))


def _unique(errors: Sequence[FieldError]) -> list[FieldError]:
    """Both validations of an update may find the same fault."""
    return list(dict.fromkeys(errors))
