"""Subresources that speak another kind than their object: scale, binding, eviction."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import msgspec

from master.apiserver import deletion
from master.apiserver.decode import Body, check_kind
from master.apiserver.patching import PatchBody
from master.apiserver.registry import Registry, Served
from master.apiserver.request import Query
from master.apiserver.schema import SchemaRegistry, parse, strict_error, strict_problems
from master.apiserver.write import Target, Writer, Written, check_name, success
from sampan.api.errors import ApiError, FieldError, bad_request, conflict, invalid, invalid_object, required
from sampan.api.resources import Subresource
from sampan.api.times import Time

Tree = dict[str, Any]

SCALE = "io.k8s.api.autoscaling.v1.Scale"
BINDING = "io.k8s.api.core.v1.Binding"
EVICTION = "io.k8s.api.policy.v1.Eviction"
DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"

_json = msgspec.json.Encoder().encode


class Subresources:
    """Serves them on top of the writer."""

    def __init__(self, registry: Registry, writer: Writer) -> None:
        self._registry = registry
        self._writer = writer

    # --- scale ----------------------------------------------------------------------------------------------------

    def scale_of(self, served: Served, obj: Tree) -> Tree:
        """An object's autoscaling/v1 Scale; ApiError 404 for kinds without one."""
        scale = served.strategy.scale(obj)
        if scale is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        meta = obj["metadata"]
        own = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
               if key in meta}
        return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": own, **scale}

    async def update_scale(self, target: Target, body: Body) -> Written:
        """PUT of a Scale."""
        scale, problems = read_as(self._registry.schemas, body, target, SCALE, "autoscaling/v1", "Scale")

        async def make(old: Tree) -> Tree:
            return await self._with_scale(target, old, scale)

        return self._scaled(target, await self._writer.change(target, make), problems)

    async def patch_scale(self, target: Target, patch: PatchBody) -> Written:
        """PATCH of a Scale: applied to the Scale, not to the object."""
        problems: list[str] = []

        async def make(old: Tree) -> Tree:
            patched = patch.apply_to(self.scale_of(target.served, old), SCALE)
            with patch.to_blame():
                scale, problems[:] = read_as(self._registry.schemas, patch.body(patched), target, SCALE,
                                             "autoscaling/v1", "Scale")
            return await self._with_scale(target, old, scale)

        return self._scaled(target, await self._writer.change(target, make), problems)

    async def _with_scale(self, target: Target, old: Tree, scale: Tree) -> Tree:
        meta = scale["metadata"]
        check_name(target, scale)
        replicas = (scale.get("spec") or {}).get("replicas") or 0
        if replicas < 0:
            raise invalid_object("autoscaling", "Scale", target.name, [
                invalid("spec.replicas", replicas, "must be greater than or equal to 0")])
        new = copy.deepcopy(old)
        target.served.strategy.set_scale(new, replicas)
        if meta.get("resourceVersion"):
            new["metadata"]["resourceVersion"] = meta["resourceVersion"]
        if meta.get("uid"):
            new["metadata"]["uid"] = meta["uid"]
        self._writer.check_preconditions(target, new, old)
        return await self._writer.finish(target, new, old, ())

    def _scaled(self, target: Target, written: Written, problems: list[str]) -> Written:
        written.raw = _json(self.scale_of(target.served, msgspec.json.decode(written.raw)))
        written.warnings = problems
        return written

    # --- binding --------------------------------------------------------------------------------------------------

    async def bind(self, target: Target, body: Body) -> Written:
        """POST of a Binding: puts a pod on a node, once."""
        binding, problems = read_as(self._registry.schemas, body, target, BINDING, "v1", "Binding")
        goal = binding.get("target") or {}
        errors: list[FieldError] = []
        if goal.get("kind") not in (None, "", "Node"):
            errors.append(invalid("target.kind", goal["kind"], "must be Node"))
        if not goal.get("name"):
            errors.append(required("target.name"))
        if errors:
            raise invalid_object("", "Binding", target.name, errors)
        if binding["metadata"].get("name") not in (None, "", target.name):
            raise bad_request("name in URL does not match name in Binding object")

        async def make(old: Tree) -> Tree:
            return self._bound(target, old, binding)

        written = await self._writer.change(target, make)
        return Written(success({}, 201), 201, problems + written.warnings)

    def _bound(self, target: Target, old: Tree, binding: Tree) -> Tree:
        def refuse(why: str) -> ApiError:
            return conflict("", "pods/binding", target.name, why)

        meta = old["metadata"]
        wanted = binding["metadata"]
        if wanted.get("uid") and wanted["uid"] != meta.get("uid"):
            raise refuse(f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: "
                         f"{meta.get('uid')}")
        if meta.get("deletionTimestamp"):
            raise refuse(f"pod {target.name} is being deleted, cannot be assigned to a host")
        spec = old.setdefault("spec", {})
        if spec.get("nodeName"):
            raise refuse(f'pod {target.name} is already assigned to node "{spec["nodeName"]}"')
        if spec.get("schedulingGates"):
            raise refuse(f"pod {target.name} has non-empty .spec.schedulingGates")
        spec["nodeName"] = binding["target"]["name"]
        if wanted.get("annotations"):
            meta["annotations"] = {**(meta.get("annotations") or {}), **wanted["annotations"]}
        status = old.setdefault("status", {})
        others = [item for item in status.get("conditions") or () if item.get("type") != "PodScheduled"]
        now = str(Time.of(self._registry.clock.now()))
        status["conditions"] = [*others, {"type": "PodScheduled", "status": "True", "lastProbeTime": None,
                                          "lastTransitionTime": now}]
        return old

    # --- eviction -------------------------------------------------------------------------------------------------

    async def evict(self, target: Target, body: Body) -> Written:
        """POST of an Eviction: a deletion that may be refused, once there are disruption budgets."""
        eviction, problems = read_as(self._registry.schemas, body, target, EVICTION, "policy/v1", "Eviction")
        if eviction["metadata"].get("name") not in (None, "", target.name):
            raise bad_request("name in URL does not match name in Eviction object")
        options = deletion.read_options(eviction.get("deleteOptions") or {}, Query())
        await self._writer.delete(replace(target, subresource=""), options)
        return Written(success({}, 201), 201, problems)


def read_as(schemas: SchemaRegistry, body: Body, target: Target, definition: str, api_version: str,
            kind: str) -> tuple[Tree, list[str]]:
    """Decode a body of another kind than the target's: the tree, and what deserves a warning; ApiError 400."""
    if body.tree is None:
        parsed = parse(body.data, body.content_type, find_duplicates=target.validation != "Ignore")
        tree, duplicates = parsed.tree, parsed.duplicates
    else:
        tree, duplicates = body.tree, body.duplicates
    version = api_version.rpartition("/")[2]
    check_kind(tree, api_version, version, kind)
    outcome = schemas.of(definition).clean(tree)
    problems = []
    if target.validation != "Ignore":
        problems = [*body.problems, *strict_problems(outcome.unknown, duplicates)]
    if problems and target.validation == "Strict":
        raise strict_error(version, kind, problems)
    if not isinstance(tree.get("metadata"), dict):
        tree["metadata"] = {}
    if tree["metadata"].get("namespace") not in (None, "", target.namespace):
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    return tree, problems


def find(served: Served, name: str) -> Subresource | None:
    """A resource's subresource of that name."""
    return next((entry for entry in served.resource.subresources if entry.name == name), None)
