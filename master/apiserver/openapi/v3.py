"""OpenAPI v3: one self-contained document for each group and version.

kubectl reads from it which kinds the server validates (a PATCH with `fieldValidation`), how lists merge, and what
`kubectl explain` prints. Sources: KEP-2896, KEP-3515; OpenAPI 3.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from master.apiserver.openapi.operations import PARAMETERS, Operation, reachable

Tree = dict[str, Any]
Definitions = Mapping[str, dict[str, Any]]

_OLD: Final = "#/definitions/"
_NEW: Final = "#/components/schemas/"
_QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_BEARER: Final = {"description": "Bearer Token authentication", "in": "header", "name": "authorization",
                  "type": "apiKey"}


def document(operations: Sequence[Operation], roots: set[str], definitions: Definitions, version: str) -> Tree:
    """The document of one group-version: its operations, and the schemas that these and `roots` need."""
    needed = roots | {name for operation in operations for name in (operation.body, operation.answer) if name}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths(operations),
        "components": {
            "schemas": {name: definition(name, definitions[name]) for name in reachable(needed, definitions)},
            "securitySchemes": {"BearerToken": _BEARER},
        },
    }


def paths(operations: Sequence[Operation]) -> Tree:
    """Path items by path."""
    result: Tree = {}
    for operation in operations:
        item = result.setdefault(operation.path, {})
        item[operation.method] = _operation(operation)
        if "parameters" not in item:
            item["parameters"] = [parameter(name, "path", operation.gvk[2]) for name in ("name", "namespace")
                                  if f"{{{name}}}" in operation.path]
            item["parameters"].append(parameter("pretty", "query"))
    return result


def _operation(operation: Operation) -> Tree:
    group, version, kind = operation.gvk
    result: Tree = {"tags": [operation.tag], "description": operation.description, "operationId": operation.id}
    if operation.query:
        result["parameters"] = [parameter(name, "query") for name in operation.query]
    if operation.body:
        content = {"schema": {"$ref": _NEW + operation.body}}
        result["requestBody"] = {"content": dict.fromkeys(_consumed(operation), content)}
        if operation.method in ("post", "put", "patch"):
            result["requestBody"]["required"] = True
    schema = {"$ref": _NEW + operation.answer} if operation.answer else {"type": "string"}
    answers = {media: {"schema": schema} for media in operation.produces}
    words = {200: "OK", 201: "Created", 202: "Accepted"}
    result["responses"] = {str(code): {"description": words[code], "content": answers} for code in operation.codes}
    result["responses"]["401"] = {"description": "Unauthorized"}
    result["x-kubernetes-action"] = operation.action
    result["x-kubernetes-group-version-kind"] = {"group": group, "version": version, "kind": kind}
    return result


def _consumed(operation: Operation) -> tuple[str, ...]:
    return operation.consumes if operation.method == "patch" else ("*/*",)


def parameter(name: str, place: str, kind: str = "") -> Tree:
    """A parameter in v3's form; `place` is path or query."""
    json_type, description = PARAMETERS[name]
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "description": description.format(kind=kind), **required,
            "schema": {"type": json_type, "uniqueItems": True}}


def definition(name: str, schema: Mapping[str, Any]) -> Tree:
    """A definition in v3's form."""
    if name == _QUANTITY:
        rest = {key: value for key, value in schema.items() if key != "type"}
        return rest | {"oneOf": [{"type": "string"}, {"type": "number"}]}
    return convert(schema, top="x-kubernetes-group-version-kind" in schema)


def convert(schema: Mapping[str, Any], *, top: bool = False) -> Tree:
    """A schema in v3's form: references point elsewhere, and what stands beside one is kept by wrapping it."""
    result: Tree = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: _without_enum(name, convert(child)) if top else convert(child)
                           for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            result[key] = convert(value)
        elif key != "$ref" or not isinstance(value, str):
            result[key] = value
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = {"$ref": reference.replace(_OLD, _NEW)}
        return result | {"allOf": [target]} if result else target
    if result.get("format") == "int-or-string":
        del result["type"]
        result["oneOf"] = [{"type": "integer"}, {"type": "string"}]
    return result


def _without_enum(name: str, schema: Tree) -> Tree:
    """The definitions at hand bind apiVersion and kind to their values; upstream's document does not."""
    return {key: value for key, value in schema.items() if key != "enum"} if name in ("apiVersion", "kind") else schema
