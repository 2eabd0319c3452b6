"""OpenAPI v2 (Swagger): one document for everything. Old clients read it; kubectl falls back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from master.apiserver.openapi.operations import PARAMETERS, Operation, reachable

Tree = dict[str, Any]
Definitions = Mapping[str, dict[str, Any]]

_REFERENCE: Final = "#/definitions/"
_BEARER: Final = {"BearerToken": {"description": "Bearer Token authentication", "in": "header",
                                  "name": "authorization", "type": "apiKey"}}


def document(operations: Sequence[Operation], roots: set[str], definitions: Definitions, version: str) -> Tree:
    """The document of the whole server."""
    needed = roots | {name for operation in operations for name in (operation.body, operation.answer) if name}
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": _paths(operations),
        "definitions": {name: _definition(definitions[name]) for name in reachable(needed, definitions)},
        "securityDefinitions": _BEARER,
        "security": [{"BearerToken": []}],
    }


def _paths(operations: Sequence[Operation]) -> Tree:
    result: Tree = {}
    for operation in operations:
        item = result.setdefault(operation.path, {})
        item[operation.method] = _operation(operation)
        if "parameters" not in item:
            item["parameters"] = [_parameter(name, "path", operation.gvk[2]) for name in ("name", "namespace")
                                  if f"{{{name}}}" in operation.path]
            item["parameters"].append(_parameter("pretty", "query"))
    return result


def _operation(operation: Operation) -> Tree:
    group, version, kind = operation.gvk
    parameters: list[Tree] = []
    if operation.body:
        parameters.append({"name": "body", "in": "body", "schema": {"$ref": _REFERENCE + operation.body}}
                          | ({"required": True} if operation.method in ("post", "put", "patch") else {}))
    parameters += [_parameter(name, "query") for name in operation.query]
    schema = {"$ref": _REFERENCE + operation.answer} if operation.answer else {"type": "string"}
    words = {200: "OK", 201: "Created", 202: "Accepted"}
    responses: Tree = {str(code): {"description": words[code], "schema": schema} for code in operation.codes}
    responses["401"] = {"description": "Unauthorized"}
    return {
        "tags": [operation.tag], "description": operation.description, "operationId": operation.id,
        "produces": list(operation.produces),
        "consumes": list(operation.consumes) if operation.method == "patch" else ["*/*"],
        "parameters": parameters, "responses": responses, "schemes": ["https"],
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    }


def _parameter(name: str, place: str, kind: str = "") -> Tree:
    json_type, description = PARAMETERS[name]
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "description": description.format(kind=kind), **required, "type": json_type,
            "uniqueItems": True}


def _definition(schema: Mapping[str, Any]) -> Tree:
    """The definitions at hand are in this form already, but for apiVersion and kind bound to their values."""
    if "x-kubernetes-group-version-kind" not in schema or "properties" not in schema:
        return dict(schema)
    properties = dict(schema["properties"])
    for name in ("apiVersion", "kind"):
        if name in properties:
            properties[name] = {key: value for key, value in properties[name].items() if key != "enum"}
    return {**schema, "properties": properties}
