"""Read the Kubernetes v1.32 definitions out of kubernetes-validate and cut them to what Sampan serves.

The package ships the OpenAPI definitions as JSON Schema in its "strict" form: optional types are
``["string", "null"]`` and objects carry ``additionalProperties: false``. Both are undone here, so that what
Sampan keeps reads like the OpenAPI document that kube-apiserver publishes.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

Schema = dict[str, Any]

VERSION = "v1.32.0"
GENERALLY_AVAILABLE = re.compile(r"\.v\d+\.\w+$")
PREFIXES = ("io.k8s.api.", "io.k8s.apimachinery.", "io.k8s.apiextensions-apiserver.", "io.k8s.kube-aggregator.")
# Types that have no version in their name, or whose meaning is older than the API groups.
UNVERSIONED = ("io.k8s.apimachinery.pkg.api.", "io.k8s.apimachinery.pkg.util.", "io.k8s.apimachinery.pkg.runtime.",
               "io.k8s.apimachinery.pkg.version.")


def load() -> dict[str, Schema]:
    """All generally available definitions by their OpenAPI name, with descriptions, in upstream's form."""
    source = files("kubernetes_validate") / "kubernetes-json-schema" / f"{VERSION}-local-strict"
    raw: dict[str, Schema] = json.loads((source / "_definitions.json").read_text("utf-8"))["$defs"]
    return {name: _normal(schema) for name, schema in sorted(raw.items()) if _wanted(name)}


def _wanted(name: str) -> bool:
    if name.startswith(UNVERSIONED):
        return True
    return name.startswith(PREFIXES) and bool(GENERALLY_AVAILABLE.search(name))


def _normal(schema: Schema) -> Schema:
    """One schema without its null alternatives; properties are walked by name, for one may be called ``type``."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: _normal(child) for name, child in schema["properties"].items()}
        if result.get("additionalProperties") is False:
            del result["additionalProperties"]
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _normal(result[key])
    if isinstance(result.get("type"), list):
        result["type"] = next(name for name in result["type"] if name != "null")
    if isinstance(result.get("$ref"), str):
        result["$ref"] = result["$ref"].replace("#/$defs/", "#/definitions/")
    if "oneOf" in result:  # only IntOrString and Quantity are written so
        alternatives = [option["type"] for option in result.pop("oneOf")]
        result["type"] = "string"
        if any("integer" in alternative for alternative in alternatives):
            result["format"] = "int-or-string"
    return result
