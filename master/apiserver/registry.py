"""All that is served, over one store: what HTTP, the in-process client and the start-up share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from master.apiserver.cache import ResourceCache
from master.apiserver.entry import Entry, Match
from master.apiserver.kinds.table import DEFAULT_PRINTER
from master.apiserver.schema import Schema, SchemaRegistry
from master.apiserver.strategy import Strategy, TablePrinter
from master.store.protocol import Store
from sampan.api.errors import ApiError, bad_request, not_found
from sampan.api.resources import BUILT_IN, NAMESPACES, Resource
from sampan.api.selectors import EVERY_FIELD, EVERYTHING, FieldSelector, SelectorError, parse_fields, parse_labels
from sampan.loop.clock import Clock

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One resource with everything that serving it needs."""

    resource: Resource[Any]
    strategy: Strategy
    printer: TablePrinter
    cache: ResourceCache
    schema: Schema
    field_labels: frozenset[str]
    """What field selectors may ask for."""

    @property
    def list_kind(self) -> str:
        """``PodList``."""
        return f"{self.resource.kind}List"

    def not_found(self, name: str) -> ApiError:
        """404 for one object of this resource."""
        return not_found(self.resource.group, self.resource.plural, name)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list or a watch is about."""

    labels: Any = EVERYTHING
    fields: FieldSelector = EVERY_FIELD

    @property
    def name(self) -> str | None:
        """The one object's name, where the field selector says it."""
        return self.fields.exact("metadata.name")

    def match(self) -> Match | None:
        """As the cache takes it; None where everything matches."""
        labels, fields = self.labels, self.fields
        if labels.empty and fields.empty:
            return None
        if fields.empty:
            return lambda entry: labels.matches(entry.labels)
        if labels.empty:
            return _match_fields(fields)
        by_fields = _match_fields(fields)
        return lambda entry: labels.matches(entry.labels) and by_fields(entry)


def _match_fields(fields: FieldSelector) -> Match:
    """Names are compared without looking into the object."""
    name, namespace = fields.exact("metadata.name"), fields.exact("metadata.namespace")

    def match(entry: Entry) -> bool:
        if (name is not None and entry.name != name) or (namespace is not None and entry.namespace != namespace):
            return False
        return fields.matches(entry.fields)

    return match


class Registry:
    """The resources that are served. `run` keeps their caches; reads wait until these are filled."""

    def __init__(self, store: Store, clock: Clock, schemas: SchemaRegistry, *,
                 resources: Iterable[Resource[Any]] = BUILT_IN, strategies: Mapping[Key, Strategy] | None = None,
                 printers: Mapping[Key, TablePrinter] | None = None, rng: random.Random | None = None) -> None:
        self.store = store
        self.clock = clock
        self.schemas = schemas
        self.rng = rng or random.Random()  # noqa: S311 - suffixes of names and spread timeouts, no secrets
        self._served: dict[Key, Served] = {}
        for resource in resources:
            strategy = (strategies or {}).get(resource.key) or Strategy()
            known = {"metadata.name", *strategy.fields({})}
            if resource.namespaced:
                known.add("metadata.namespace")
            self._served[resource.key] = Served(
                resource, strategy, (printers or {}).get(resource.key) or DEFAULT_PRINTER,
                ResourceCache(resource, store, clock, fields=strategy.fields), schemas.of(resource.definition),
                frozenset(known))

    @property
    def resources(self) -> Sequence[Resource[Any]]:
        """Everything served, in the table's order."""
        return [served.resource for served in self._served.values()]

    @property
    def all(self) -> Sequence[Served]:
        """The same with what serves them."""
        return list(self._served.values())

    def find(self, group: str, version: str, plural: str) -> Served | None:
        """What a path names; None where nothing of that name is served in that version."""
        served = self._served.get((group, plural))
        return served if served is not None and served.resource.version == version else None

    def of(self, resource: Resource[Any]) -> Served:
        """What serves a resource; ApiError 404 where it is none of ours."""
        served = self._served.get(resource.key)
        if served is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return served

    async def run(self) -> None:
        """Keep the caches filled until cancelled."""
        async with asyncio.TaskGroup() as group:
            for served in self._served.values():
                group.create_task(served.cache.run(), name=f"cache-{served.resource.plural}")

    async def ready(self) -> None:
        """Return when every cache has been filled once, however slow the disk is."""
        for served in self._served.values():
            while served.cache.revision < 0:
                with suppress(ApiError):
                    await served.cache.wait_for(0)

    def select(self, served: Served, labels: str, fields: str) -> Selection:
        """Read selectors; ApiError 400 with upstream's text."""
        if not labels and not fields:
            return _EVERYTHING
        try:
            by_label = parse_labels(labels) if labels else EVERYTHING
        except SelectorError as error:
            raise bad_request(str(error)) from error
        try:
            by_field = parse_fields(fields) if fields else EVERY_FIELD
            by_field.check(served.field_labels)
        except SelectorError as error:
            raise bad_request(str(error)) from error
        return Selection(by_label, by_field)

    async def namespace(self, name: str) -> Entry | None:
        """A namespace, looked up again in the store's newest state before it is said to be missing."""
        cache = self.of(NAMESPACES).cache
        return cache.peek("", name) or await cache.get("", name)


_EVERYTHING = Selection()
