"""The definitions that the package carries, and schemas compiled from them when first asked for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final

from master.apiserver.schema import scalars
from master.apiserver.schema.required import is_pointer, is_reported
from master.apiserver.schema.walk import ListWalk, MapWalk, Missing, ObjectWalk, Schema, Walk

Tree = dict[str, Any]
Definitions = Mapping[str, Tree]

def _scalar(canonical: scalars.Scalar) -> Walk:
    """A value without parts has no use for its place."""
    return lambda value, _place, _found: canonical(value)


REFERENCE: Final = "#/definitions/"
_MACHINERY: Final = "io.k8s.apimachinery.pkg."
_PLAIN: Final[Mapping[str, type]] = {"string": str, "boolean": bool}
_GO: Final[Mapping[str, str]] = {"string": "string", "boolean": "bool", "number": "float64"}
_BASE_TYPES: Final[Mapping[str, tuple[Walk, str, Callable[[], Any] | None]]] = {
    _MACHINERY + "api.resource.Quantity": (_scalar(scalars.quantity), "resource.Quantity", lambda: "0"),
    _MACHINERY + "apis.meta.v1.Time": (_scalar(scalars.time), "v1.Time", None),
    _MACHINERY + "apis.meta.v1.MicroTime": (_scalar(scalars.micro_time), "v1.MicroTime", None),
    _MACHINERY + "util.intstr.IntOrString": (_scalar(scalars.int_or_string), "intstr.IntOrString", lambda: 0),
}


def load_definitions() -> dict[str, Tree]:
    """OpenAPI name to schema, as kube-apiserver 1.32 publishes them; about 15 ms, so keep the result."""
    data = (files("sampan.api") / "definitions.json.z").read_bytes()
    result: dict[str, Tree] = json.loads(zlib.decompress(data))
    return result


class SchemaRegistry:
    """Schemas by OpenAPI name, compiled lazily. Make one per process: `SchemaRegistry(load_definitions())`."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._compiled: dict[str, Schema] = {}
        self._walks: dict[str, Walk] = {}

    def of(self, definition: str) -> Schema:
        """The schema of a definition such as ``io.k8s.api.core.v1.Pod``; KeyError for an unknown one."""
        schema = self._compiled.get(definition)
        if schema is None:
            raw = self.definitions[definition]
            version = definition.split(".")[-2]
            schema = Schema(self._definition(definition), raw, definition.rpartition(".")[2], version)
            self._compiled[definition] = schema
        return schema

    def _definition(self, name: str) -> Walk:
        walk = self._walks.get(name)
        if walk is not None:
            return walk
        raw = self.definitions[name]
        if name in _BASE_TYPES:
            walk = _BASE_TYPES[name][0]
        elif "properties" in raw:
            compiled = ObjectWalk(name.rpartition(".")[2], self._go_type({"$ref": REFERENCE + name}))
            self._walks[name] = compiled  # before its fields: definitions refer to themselves
            self._compile_object(compiled, name, raw)
            return compiled
        else:
            walk = _scalar(scalars.any_object if raw.get("type") == "object" else scalars.anything)
        self._walks[name] = walk
        return walk

    def _compile_object(self, target: ObjectWalk, name: str, raw: Tree) -> None:
        needed = list(raw.get("required", ()))
        properties: Tree = raw["properties"]
        # Go has these always, as values: what is missing below them is told with its full path.
        if "metadata" in properties and "spec" in properties:
            needed = [*{"metadata": None, "spec": None} | dict.fromkeys(needed)]
        for key, schema in properties.items():
            plain, walk = self._compile(schema)
            target.fields[key] = (plain, walk, key not in needed and isinstance(walk, (ListWalk, MapWalk)))
        target.required = tuple(self._missing(name, key, properties[key], target.fields[key][1]) for key in needed)
        target.keep_unknown = bool(raw.get("x-kubernetes-preserve-unknown-fields"))

    def _missing(self, name: str, key: str, schema: Tree, walk: Walk) -> Missing:
        is_object = isinstance(walk, ObjectWalk)
        kind = "object" if is_object else str(schema.get("type", "string"))
        report = is_reported(name, key, kind)
        if is_pointer(name, key):
            return Missing(key, report, None, None)
        return Missing(key, report, self._zero(schema), walk if is_object else None)

    def _compile(self, schema: Tree) -> tuple[type | None, Walk]:
        """The plain type and the walk of a property's schema."""
        reference = _reference(schema)
        if reference is not None:
            return None, self._definition(reference)
        kind = str(schema.get("type", ""))
        if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
            return None, _scalar(scalars.int_or_string)
        if kind == "array":
            plain, walk = self._compile(schema["items"])
            return None, ListWalk(plain, walk, self._zero(schema["items"]) or dict, self._go_type(schema))
        if kind == "object":
            return None, self._compile_map(schema)
        if kind == "integer":
            return None, _scalar(scalars.integer(self._go_type(schema)))
        if kind == "number":
            return None, _scalar(scalars.number)
        if schema.get("format") == "byte":
            return None, _scalar(scalars.base64)
        if kind in ("string", "boolean"):
            return _PLAIN[kind], _scalar(scalars.exactly(_PLAIN[kind], _GO[kind]))
        return None, _scalar(scalars.anything)

    def _compile_map(self, schema: Tree) -> Walk:
        if "properties" in schema:
            target = ObjectWalk("", "map[string]interface {}")
            self._compile_object(target, "", schema)
            return target
        values = schema.get("additionalProperties")
        if not isinstance(values, dict):
            return _scalar(scalars.any_object)
        plain, walk = self._compile(values)
        return MapWalk(plain, walk, self._zero(values) or dict, self._go_type(schema))

    def _zero(self, schema: Tree) -> Callable[[], Any] | None:
        """What Go would have for a value that was not given; None where that has no JSON form."""
        reference = _reference(schema)
        if reference is not None and reference in _BASE_TYPES:
            return _BASE_TYPES[reference][2]
        if reference is not None:
            return dict if self.definitions[reference].get("type") == "object" else None
        kind = schema.get("type")
        zeros: Mapping[Any, Callable[[], Any]] = {"string": str, "integer": int, "number": int, "boolean": bool,
                                                  "array": list, "object": dict}
        return zeros.get(kind)

    def _go_type(self, schema: Tree) -> str:
        """The Go type that a schema was made of, as messages name it."""
        reference = _reference(schema)
        if reference is not None and reference in _BASE_TYPES:
            return _BASE_TYPES[reference][1]
        if reference is not None:
            return ".".join(reference.split(".")[-2:])
        kind = schema.get("type")
        if kind == "array":
            return "[]" + self._go_type(schema["items"])
        if kind == "object":
            values = schema.get("additionalProperties")
            return f"map[string]{self._go_type(values) if isinstance(values, dict) else 'interface {}'}"
        if kind == "integer":
            return str(schema.get("format", "int64"))
        if schema.get("format") == "byte":
            return "[]uint8"
        return _GO.get(str(kind), "interface {}")


def _reference(schema: Tree) -> str | None:
    """The definition that a schema refers to; a property named "$ref" is a schema, not a string."""
    reference = schema.get("$ref")
    return reference.removeprefix(REFERENCE) if isinstance(reference, str) else None
