"""The definitions that the package carries, and schemas compiled from them when first asked for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from master.apiserver.schema.walk import Schema

Definitions = Mapping[str, dict[str, Any]]


def load_definitions() -> dict[str, dict[str, Any]]:
    """OpenAPI name to schema, as kube-apiserver 1.32 publishes them; about 15 ms, so keep the result."""
    data = (files("sampan.api") / "definitions.json.z").read_bytes()
    result: dict[str, dict[str, Any]] = json.loads(zlib.decompress(data))
    return result


class SchemaRegistry:
    """Schemas by OpenAPI name, compiled lazily. Make one per process: `SchemaRegistry(load_definitions())`."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._compiled: dict[str, Schema] = {}

    def of(self, definition: str) -> Schema:
        """The schema of a definition such as ``io.k8s.api.core.v1.Pod``; KeyError for an unknown one."""
        raise NotImplementedError
