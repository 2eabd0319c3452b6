"""Bring the default roles and bindings up to date at start; what an administrator added to them stays.

Source: pkg/registry/rbac/reconciliation. Whoever sets the annotation rbac.authorization.kubernetes.io/autoupdate to
"false" keeps an object as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from master.apiserver import deletion
from master.apiserver.auth import INTERNAL
from master.apiserver.authorization import defaults
from master.apiserver.authorization.rules import compact, read_rules, uncovered
from master.apiserver.decode import Body
from master.apiserver.registry import Registry
from master.apiserver.write import Target, Writer
from sampan.api.errors import ApiError
from sampan.api.resources import CLUSTERROLEBINDINGS, CLUSTERROLES, ROLEBINDINGS, ROLES, Resource
from sampan.loop.backoff import Backoff

Tree = dict[str, Any]
log = logging.getLogger(__name__)

_TRIES = 3


def wanted() -> Iterator[tuple[Resource[Any], Tree]]:
    """All of them."""
    for resource, trees in ((CLUSTERROLES, defaults.cluster_roles()), (ROLES, defaults.roles()),
                            (CLUSTERROLEBINDINGS, defaults.cluster_role_bindings()),
                            (ROLEBINDINGS, defaults.role_bindings())):
        for tree in trees:
            yield resource, tree


def merged(have: Tree, want: Tree) -> Tree | None:
    """`have` (a copy, changed in place) with what it lacks; None where it lacks nothing or is left alone."""
    meta, wanted_meta = have["metadata"], want["metadata"]
    if (meta.get("annotations") or {}).get(defaults.AUTOUPDATE) == "false":
        return None
    before = msgspec.json.encode(have)
    for key in ("labels", "annotations"):
        missing = {name: value for name, value in wanted_meta[key].items() if name not in (meta.get(key) or {})}
        if missing:
            meta[key] = {**(meta.get(key) or {}), **missing}
    if "roleRef" in want:
        present = have.get("subjects") or []
        more = [subject for subject in want.get("subjects") or () if subject not in present]
        if more:
            have["subjects"] = [*present, *more]
    elif "aggregationRule" in want:
        selectors = have.setdefault("aggregationRule", {}).setdefault("clusterRoleSelectors", [])
        selectors += [item for item in want["aggregationRule"]["clusterRoleSelectors"] if item not in selectors]
    else:
        own, needed = read_rules(have.get("rules")), read_rules(want["rules"])
        missing_rules = compact(uncovered(own, [rule for rule in needed if rule not in own]))
        if missing_rules:
            have["rules"] = [*(have.get("rules") or ()), *(rule.tree() for rule in missing_rules)]
    return have if msgspec.json.encode(have) != before else None


class DefaultRoles:
    """Creates and completes them."""

    def __init__(self, registry: Registry, writer: Writer) -> None:
        self._registry = registry
        self._writer = writer

    async def run(self) -> None:
        """Try until all are there: without them nobody but administrators may do anything."""
        backoff, failures = Backoff(initial=1.0, maximum=30.0), 0
        while not await self.ensure():
            failures += 1
            await self._registry.clock.sleep(backoff.delay(failures))

    async def ensure(self) -> bool:
        """One try, at start; tells whether all are there. A refusal is logged."""
        results = await asyncio.gather(*(self._ensure(resource, tree) for resource, tree in wanted()),
                                       return_exceptions=True)
        for error in results:
            if isinstance(error, ApiError):
                log.warning("default roles: %s", error)
            elif error is not None:
                raise error
        return not any(results)

    async def _ensure(self, resource: Resource[Any], tree: Tree) -> None:
        served = self._registry.of(resource)
        meta = tree["metadata"]
        target = Target(served, INTERNAL, meta.get("namespace", ""), meta["name"])
        for attempt in range(_TRIES):
            entry = await served.cache.get(target.namespace, target.name)
            try:
                if entry is None:
                    await self._writer.create(target, Body(tree=tree))
                    return
                have = entry.decode()
                if "roleRef" in tree and have.get("roleRef") != tree["roleRef"]:
                    if (have["metadata"].get("annotations") or {}).get(defaults.AUTOUPDATE) == "false":
                        return
                    await self._writer.delete(target, deletion.Options(uid=have["metadata"]["uid"]))
                    continue  # what a binding is about never changes: it is made anew
                changed = merged(have, tree)
                if changed is not None:
                    await self._writer.update(target, Body(tree=changed))
                return
            except ApiError as error:
                if not (error.is_conflict or error.is_already_exists) or attempt == _TRIES - 1:
                    raise
