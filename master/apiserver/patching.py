"""PATCH bodies: which patch type a request has, and how it is applied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from master.apiserver.decode import Body
from master.apiserver.patch import apply_json_patch, apply_merge_patch, apply_strategic_patch
from master.apiserver.patch.lists import go_value
from master.apiserver.registry import Served
from master.apiserver.schema import parse
from master.apiserver.schema.parse import NO_OBJECT, parse_value
from master.apiserver.schema.registry import Definitions
from sampan.api.codec import encode
from sampan.api.errors import ApiError, bad_request, invalid, invalid_object

Tree = dict[str, Any]
Kind = Literal["json", "merge", "strategic"]

TYPES: dict[str, Kind] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
_OPERATION = frozenset(("op", "path", "from", "value"))
_WHAT_KIND = re.compile(r'\S+ in version "\S+" cannot be handled as a \S+: ')
APPLY = frozenset(("application/apply-patch+yaml", "application/apply-patch+cbor"))


@dataclass(frozen=True, slots=True)
class PatchBody:
    """A patch that has been read. `definitions` say how a strategic patch merges lists."""

    kind: Kind
    value: Any
    definitions: Definitions
    duplicates: tuple[str, ...] = ()
    """Members that stand twice in the patch; of a JSON patch they are among the problems."""
    problems: tuple[str, ...] = ()
    """What else a strict reader has to say of the patch itself."""

    def body(self, patched: Tree) -> Body:
        """What the patch made, as it goes on its way like any body."""
        return Body(tree=patched, duplicates=self.duplicates, problems=self.problems)

    @contextmanager
    def to_blame(self) -> Iterator[None]:
        """What is wrong with the patched object is the patch's fault: 400 becomes upstream's 422 about `patch`.

        The patch is shown, where upstream shows the whole object for some types: that may be a Secret, which whoever
        may change it need not be allowed to read.
        """
        try:
            yield
        except ApiError as error:
            if error.code != 400:
                raise
            shown = go_value(self.value) if self.kind == "strategic" else encode(self.value).decode()
            raise invalid_object("", "", "", [
                invalid("patch", shown, _WHAT_KIND.sub("", error.message, count=1))]) from error

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
            value, duplicates = parse_value(data)
            return PatchBody(kind, value, definitions, problems=json_patch_problems(value, duplicates))
        parsed = parse(data, find_duplicates=True)
    except ApiError as error:  # a patch is no object, so the reader's words do not fit
        why = error.message.removeprefix(NO_OBJECT)
        raise bad_request(why if kind == "strategic" else f"error decoding patch: {why}") from error
    return PatchBody(kind, parsed.tree, definitions, parsed.duplicates)


def json_patch_problems(value: Any, duplicates: Sequence[str]) -> tuple[str, ...]:
    """Members of the operations that mean nothing or stand twice."""
    unknown = [f'json patch unknown field "[{index}].{name}"'
               for index, operation in enumerate(value if isinstance(value, list) else ())
               for name in (operation if isinstance(operation, dict) else ()) if name not in _OPERATION]
    members = (re.fullmatch(r"\[\d+\]\.\w+", path) for path in duplicates)  # not within an operation's value
    return (*unknown, *(f'json patch duplicate field "{match[0]}"' for match in members if match))


def unsupported(message: str) -> ApiError:
    """415 with the supported list, as kubectl prints it."""
    return ApiError(415, "UnsupportedMediaType", message)
