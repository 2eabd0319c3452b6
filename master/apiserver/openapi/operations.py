"""Every operation that a table of resources makes, in a form from which both OpenAPI versions are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sampan.api.resources import Resource, Subresource

Definitions = Mapping[str, dict[str, Any]]

_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
STATUS: Final = _META + "Status"
DELETE_OPTIONS: Final = _META + "DeleteOptions"
PATCH: Final = _META + "Patch"

JSON_TYPES: Final = ("application/json", "application/yaml")
WATCH_TYPES: Final = (*JSON_TYPES, "application/json;stream=watch")
PATCH_TYPES: Final = ("application/json-patch+json", "application/merge-patch+json",
                      "application/strategic-merge-patch+json")

_LIST: Final = ("allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion",
                "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch")
_WRITE: Final = ("dryRun", "fieldManager", "fieldValidation")
_DELETE: Final = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
_DELETE_COLLECTION: Final = tuple(sorted({*_LIST, *_DELETE} - {"allowWatchBookmarks", "watch"}))

# Name: JSON type, description.
PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "allowWatchBookmarks": ("boolean", "Ask for BOOKMARK events in a watch; they carry only a resourceVersion."),
    "continue": ("string", "The token of the previous page's list metadata, to get the next page."),
    "dryRun": ("string", "All: do everything but store the result."),
    "fieldManager": ("string", "Who changes the object; part of what server-side apply keeps."),
    "fieldSelector": ("string", "Restrict the list to objects with these field values. Defaults to everything."),
    "fieldValidation": ("string", "Ignore drops unknown and duplicate fields, Warn tells of them, Strict refuses."),
    "force": ("boolean", "Take over fields that other managers own. Only for apply patches."),
    "gracePeriodSeconds": ("integer", "Seconds until the object is deleted; zero deletes it at once."),
    "labelSelector": ("string", "Restrict the list to objects with these labels. Defaults to everything."),
    "limit": ("integer", "The most objects of one page; the rest follows with continue."),
    "name": ("string", "name of the {kind}"),
    "namespace": ("string", "object name and auth scope, such as for teams and projects"),
    "orphanDependents": ("boolean", "Deprecated: use propagationPolicy."),
    "pretty": ("string", "If 'true', the output is indented."),
    "propagationPolicy": ("string", "What becomes of the object's dependents: Orphan, Background or Foreground."),
    "resourceVersion": ("string", "How old the answer may be, or from where on to watch."),
    "resourceVersionMatch": ("string", "How resourceVersion applies to a list: Exact or NotOlderThan."),
    "sendInitialEvents": ("boolean", "Begin a watch with the objects that are there."),
    "timeoutSeconds": ("integer", "When to end the call."),
    "watch": ("boolean", "Answer with a stream of changes instead of a list."),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `gvk` is group, version and kind; body and answer are definitions' names."""

    path: str
    method: str
    action: str
    gvk: tuple[str, str, str]
    id: str
    description: str
    tag: str
    query: tuple[str, ...] = ()
    body: str = ""
    consumes: tuple[str, ...] = JSON_TYPES
    answer: str = ""
    produces: tuple[str, ...] = JSON_TYPES
    codes: tuple[int, ...] = (200,)


def by_kind(definitions: Definitions) -> dict[tuple[str, str, str], str]:
    """Definitions by the group, version and kind that they stand for; kinds that belong to many groups are left out."""
    found: dict[tuple[str, str, str], str] = {}
    for name, schema in definitions.items():
        kinds = schema.get("x-kubernetes-group-version-kind") or []
        if len(kinds) == 1:
            only = kinds[0]
            found[only["group"], only["version"], only["kind"]] = name
    return found


def operations(resources: Sequence[Resource[Any]], definitions: Definitions) -> list[Operation]:
    """All operations of all resources, in the order of their paths."""
    kinds = by_kind(definitions)
    result = [operation for resource in resources for operation in _of_resource(resource, definitions)]
    result += [operation for resource in resources for subresource in resource.subresources
               for operation in _of_subresource(resource, subresource, kinds)]
    return sorted(result, key=lambda operation: operation.path)


def _of_resource(resource: Resource[Any], definitions: Definitions) -> Iterator[Operation]:
    gvk = (resource.group, resource.version, resource.kind)
    tag, camel = names(resource.group, resource.version)
    scope = "Namespaced" if resource.namespaced else ""
    collection = resource.path("{namespace}")
    one = resource.path("{namespace}", "{name}")
    body = resource.definition if resource.definition in definitions else ""
    listed = body + "List" if body + "List" in definitions else ""
    kind = resource.kind

    def operation(path: str, method: str, action: str, verb: str, description: str, **rest: Any) -> Operation:
        return Operation(path, method, action, gvk, f"{verb}{camel}{scope}{kind}", description, tag, **rest)

    if "list" in resource.verbs:
        yield operation(collection, "get", "list", "list", f"list or watch objects of kind {kind}", query=_LIST,
                        answer=listed, produces=WATCH_TYPES)
        if resource.namespaced:
            yield Operation(resource.path(), "get", "list", gvk, f"list{camel}{kind}ForAllNamespaces",
                            f"list or watch objects of kind {kind}", tag, query=_LIST, answer=listed,
                            produces=WATCH_TYPES)
    if "create" in resource.verbs:
        yield operation(collection, "post", "post", "create", f"create {_a(kind)}", query=_WRITE, body=body,
                        answer=body, codes=(200, 201, 202))
    if "deletecollection" in resource.verbs:
        yield operation(collection, "delete", "deletecollection", "deleteCollection", f"delete collection of {kind}",
                        query=_DELETE_COLLECTION, body=DELETE_OPTIONS, answer=STATUS)
    if "get" in resource.verbs:
        yield operation(one, "get", "get", "read", f"read the specified {kind}", answer=body)
    if "update" in resource.verbs:
        yield operation(one, "put", "put", "replace", f"replace the specified {kind}", query=_WRITE, body=body,
                        answer=body, codes=(200, 201))
    if "patch" in resource.verbs:
        yield operation(one, "patch", "patch", "patch", f"partially update the specified {kind}",
                        query=(*_WRITE, "force"), body=PATCH, consumes=PATCH_TYPES, answer=body, codes=(200, 201))
    if "delete" in resource.verbs:
        yield operation(one, "delete", "delete", "delete", f"delete {_a(kind)}", query=_DELETE, body=DELETE_OPTIONS,
                        answer=body if kind == "Pod" else STATUS, codes=(200, 202))


_METHODS: Final[Mapping[str, tuple[str, str, str]]] = {
    "get": ("get", "get", "read"), "update": ("put", "put", "replace"), "patch": ("patch", "patch", "patch"),
    "create": ("post", "post", "create"), "delete": ("delete", "delete", "delete"),
}


def _of_subresource(resource: Resource[Any], subresource: Subresource,
                    kinds: Mapping[tuple[str, str, str], str]) -> Iterator[Operation]:
    gvk = (subresource.group, subresource.version, subresource.kind)
    tag, camel = names(resource.group, resource.version)
    scope = "Namespaced" if resource.namespaced else ""
    path = resource.path("{namespace}", "{name}", subresource.name)
    suffix = f"{camel}{scope}{resource.kind}{subresource.name[:1].upper()}{subresource.name[1:]}"
    body = kinds.get(gvk, "")
    connects = subresource.kind.endswith("Options")
    for verb in subresource.verbs:
        method, action, word = _METHODS[verb]
        what = f"{subresource.name} of the specified {resource.kind}"
        if connects:
            yield Operation(path, method, "connect", gvk, f"connect{method.capitalize()}{suffix}",
                            f"connect {method.upper()} requests to {what}", tag, produces=("*/*",))
        elif subresource.name == "log":
            yield Operation(path, method, action, gvk, word + suffix, f"read {what}", tag, produces=("text/plain",))
        elif verb == "get":
            yield Operation(path, method, action, gvk, word + suffix, f"read {what}", tag, answer=body)
        elif verb == "patch":
            yield Operation(path, method, action, gvk, word + suffix, f"partially update {what}", tag,
                            query=(*_WRITE, "force"), body=PATCH, consumes=PATCH_TYPES, answer=body)
        else:
            yield Operation(path, method, action, gvk, word + suffix, f"{word} {what}", tag, query=_WRITE, body=body,
                            answer=body, codes=(200, 201, 202) if verb == "create" else (200, 201))


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def names(group: str, version: str) -> tuple[str, str]:
    """A group-version in tags (``rbacAuthorization_v1``) and in operation ids (``RbacAuthorizationV1``)."""
    parts = group.removesuffix(".k8s.io").split(".") if group else ["core"]
    camel = "".join(part[:1].upper() + part[1:] for part in parts)
    return f"{camel[:1].lower()}{camel[1:]}_{version}", camel + version.capitalize()


def reachable(roots: set[str], definitions: Definitions, prefix: str = "#/definitions/") -> list[str]:
    """The definitions that these refer to, and those in turn, by name."""
    found: set[str] = set()
    waiting = [name for name in roots if name in definitions]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [target for target in _references(definitions[name], prefix) if target in definitions]
    return sorted(found)


def _references(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield reference.removeprefix(prefix)
    for child in schema.get("properties", {}).values():
        yield from _references(child, prefix)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _references(schema[key], prefix)
