"""From a request's body to a canonical tree of the kind that the path names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from master.apiserver.registry import Served
from master.apiserver.schema import parse, strict_error, strict_problems
from sampan.api.errors import FieldError, bad_request, invalid_object, not_supported

Tree = dict[str, Any]
Validation = Literal["Strict", "Warn", "Ignore"]


@dataclass(slots=True)
class Body:
    """What a client sent: bytes still to be parsed, or a tree (in-process callers, and results of patches)."""

    data: bytes = b""
    content_type: str = "application/json"
    tree: Tree | None = None
    duplicates: tuple[str, ...] = field(default=())
    problems: tuple[str, ...] = field(default=())
    """What has been found already that fieldValidation is about, in words."""


def read_validation(value: str, options: str = "CreateOptions") -> Validation:
    """The query parameter `fieldValidation`; unset means Warn, as upstream has it. `options` are its kind's name."""
    if value in ("", "Warn"):
        return "Warn"
    if value in ("Strict", "Ignore"):
        return cast("Validation", value)
    raise invalid_object("meta.k8s.io", options, "", [
        not_supported("fieldValidation", value, ("", "Ignore", "Strict", "Warn"))])


class Decoder:
    """Parses and cleans bodies."""

    def read(self, served: Served, body: Body, validation: Validation) -> tuple[Tree, list[str], Sequence[FieldError]]:
        """The object, the texts for Warning headers, and what the schema finds wrong (for the 422 to come).

        ApiError 400 where the body is not such an object, or breaks what fieldValidation=Strict asks for.
        """
        resource = served.resource
        if body.tree is None:
            parsed = parse(body.data, body.content_type, find_duplicates=validation != "Ignore")
            tree, duplicates = parsed.tree, parsed.duplicates
        else:
            tree, duplicates = body.tree, body.duplicates
        check_kind(tree, resource.api_version, resource.version, resource.kind)
        outcome = served.schema.clean(tree)
        problems = []
        if validation != "Ignore":
            problems = [*body.problems, *strict_problems(outcome.unknown, duplicates)]
        if problems and validation == "Strict":
            raise strict_error(resource.version, resource.kind, problems)
        if not isinstance(tree.get("metadata"), dict):
            tree["metadata"] = {}
        return tree, problems, outcome.errors


def check_kind(tree: Tree, api_version: str, version: str, kind: str) -> None:
    """The body is of the kind that the path asks for; both names may be left out. In place; ApiError 400."""
    given_version, given_kind = tree.get("apiVersion") or api_version, tree.get("kind") or kind
    if not isinstance(given_version, str) or not isinstance(given_kind, str):
        raise bad_request(f"couldn't get version/kind; json parse error: {kind} has an apiVersion or kind that is no "
                          "string")
    if given_version != api_version:
        raise bad_request(f"the API version in the data ({given_version}) does not match the expected API version "
                          f"({api_version})")
    if given_kind != kind:
        raise bad_request(f'{given_kind} in version "{version}" cannot be handled as a {kind}: no kind "{given_kind}" '
                          f'is registered here for version "{given_version}"')
    tree["apiVersion"], tree["kind"] = api_version, kind
