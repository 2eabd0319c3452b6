"""How the fields of a definition merge: the schema's x-kubernetes-patch-strategy and -merge-key, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Definitions = Mapping[str, dict[str, Any]]

_REFERENCE = "#/definitions/"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of an object's fields; without a schema all is free form: objects merge, lists are replaced."""

    schema: Mapping[str, Any] | None
    definitions: Definitions

    def field(self, name: str) -> FieldRule:
        """How one field merges."""
        schema = (self.schema or {}).get("properties", {}).get(name)
        if schema is None:
            values = (self.schema or {}).get("additionalProperties")
            return FieldRule(False, False, "", Rules(values if isinstance(values, dict) else None, self.definitions))
        strategies = str(schema.get("x-kubernetes-patch-strategy", "")).split(",")
        inner = schema.get("items") if schema.get("type") == "array" else schema
        return FieldRule("merge" in strategies, "replace" in strategies,
                         str(schema.get("x-kubernetes-patch-merge-key", "")),
                         Rules(self._resolve(inner), self.definitions))

    def _resolve(self, schema: Any) -> Mapping[str, Any] | None:
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if isinstance(reference, str):
            return self.definitions.get(reference.removeprefix(_REFERENCE))
        return schema if isinstance(schema, dict) else None


@dataclass(frozen=True, slots=True)
class FieldRule:
    """`merge` is for lists, `replace` for objects; `inner` are the rules of the object or of the list's entries."""

    merge: bool
    replace: bool
    merge_key: str
    inner: Rules



def rules_of(definition: str, definitions: Definitions) -> Rules:
    """The rules of a definition."""
    return Rules(definitions.get(definition), definitions)
