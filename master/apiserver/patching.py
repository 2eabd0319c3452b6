"""PATCH bodies: which patch type a request has, and how it is applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from master.apiserver.patch import apply_json_patch, apply_merge_patch, apply_strategic_patch
from master.apiserver.registry import Served
from master.apiserver.schema import parse
from master.apiserver.schema.parse import NO_OBJECT, parse_value
from master.apiserver.schema.registry import Definitions
from sampan.api.errors import ApiError, bad_request

Tree = dict[str, Any]
Kind = Literal["json", "merge", "strategic"]

TYPES: dict[str, Kind] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
APPLY = frozenset(("application/apply-patch+yaml", "application/apply-patch+cbor"))


@dataclass(frozen=True, slots=True)
class PatchBody:
    """A patch that has been read. `definitions` say how a strategic patch merges lists."""

    kind: Kind
    value: Any
    definitions: Definitions
    duplicates: tuple[str, ...] = ()

    def apply(self, served: Served, tree: Tree) -> Tree:
        """The patched copy of an object of that resource."""
        return self.apply_to(tree, served.resource.definition)

    def apply_to(self, tree: Tree, definition: str) -> Tree:
        """The patched copy of a tree of that definition; ApiError 400 or 422."""
        if self.kind == "json":
            return apply_json_patch(tree, self.value)
        if self.kind == "merge":
            return apply_merge_patch(tree, self.value)
        return apply_strategic_patch(tree, self.value, definition, self.definitions)


def read_patch(data: bytes, content_type: str, definitions: Definitions) -> PatchBody:
    """Read a PATCH request's body; ApiError 400, or 415 for a type that is not served."""
    media = content_type.partition(";")[0].strip().lower()
    kind = TYPES.get(media)
    if kind is None:
        if media in APPLY:
            raise unsupported("server-side apply is not supported by this server yet; use client-side apply "
                              "(kubectl apply without --server-side)")
        raise unsupported("the body of the request was in an unknown format - accepted media types include: "
                          + ", ".join(TYPES))
    try:
        if kind == "json":
            return PatchBody(kind, parse_value(data), definitions)
        parsed = parse(data, find_duplicates=True)
    except ApiError as error:  # a patch is no object, so the reader's words do not fit
        why = error.message.removeprefix(NO_OBJECT)
        raise bad_request(why if kind == "strategic" else f"error decoding patch: {why}") from error
    return PatchBody(kind, parsed.tree, definitions, parsed.duplicates)


def unsupported(message: str) -> ApiError:
    """415 with the supported list, as kubectl prints it."""
    return ApiError(415, "UnsupportedMediaType", message)
