"""Builds, keeps and hands out the OpenAPI documents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from master.apiserver.openapi import v2, v3
from master.apiserver.openapi.operations import STATUS, operations
from master.apiserver.openapi.proto import encode_document
from sampan.api.resources import Resource

Definitions = Mapping[str, dict[str, Any]]

V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
# What clients ask for is no valid media type (an @ may not stand there); upstream answers with a dot instead.
_V2_ANSWER: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_JSON: Final = "application/json"
_WATCH_EVENT: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"


def accepts_protobuf(accept: str) -> bool:
    """Whether an Accept header names OpenAPI v2 as protobuf, in its old or its new spelling."""
    return V2_PROTOBUF in accept or _V2_ANSWER in accept


@dataclass(frozen=True, slots=True)
class Document:
    """What is sent: the body, its media type, and the hash that is its ETag and its address's `hash` parameter."""

    body: bytes
    content_type: str
    hash: str

    @property
    def etag(self) -> str:
        """As the ETag header carries it, quoted."""
        return f'"{self.hash}"'


class OpenAPI:
    """All documents of one set of resources. A new set (CRDs come and go) is a new `OpenAPI`.

    Nothing is built before it is asked for; what was built is kept as bytes.
    """

    def __init__(self, resources: Sequence[Resource[Any]], definitions: Definitions, version: str = "v1.32.0") -> None:
        self._resources = resources
        self._definitions = definitions
        self._version = version
        self._kept: dict[str, Document] = {}

    def v3_root(self) -> Document:
        """``GET /openapi/v3``: where each group-version's document is, with its hash in the address."""
        kept = self._kept.get("v3")
        if kept is None:
            addresses = {path: {"serverRelativeURL": self.v3_address(path)} for path in self._group_versions()}
            kept = self._kept["v3"] = _document({"paths": addresses})
        return kept

    def v3(self, path: str) -> Document | None:
        """``GET /openapi/v3/{path}``: `path` is ``api/v1``, ``apis/apps/v1``, …; None for one that is not there.

        When the request's `hash` parameter is another than the document's, redirect (301) to `v3_address(path)`;
        when it matches, send ``Cache-Control: public, immutable`` and an Expires a year ahead.
        """
        kept = self._kept.get("v3/" + path)
        if kept is None:
            resources = self._group_versions().get(path)
            if resources is None:
                return None
            tree = v3.document(operations(resources, self._definitions), self._roots(resources), self._definitions,
                               self._version)
            kept = self._kept["v3/" + path] = _document(tree)
        return kept

    def v3_address(self, path: str) -> str:
        """``/openapi/v3/apis/apps/v1?hash=…``; KeyError for a path that is not there."""
        document = self.v3(path)
        if document is None:
            raise KeyError(path)
        return f"/openapi/v3/{path}?hash={document.hash}"

    def v2(self, *, protobuf: bool) -> Document:
        """``GET /openapi/v2``: as protobuf for those whose Accept header `accepts_protobuf`, else as JSON."""
        name = "v2 protobuf" if protobuf else "v2"
        kept = self._kept.get(name)
        if kept is None:
            tree = v2.document(operations(self._resources, self._definitions), self._roots(self._resources),
                               self._definitions, self._version)
            kept = _document(tree, encode_document(tree), _V2_ANSWER) if protobuf else _document(tree)
            self._kept[name] = kept
        return kept

    def _group_versions(self) -> dict[str, list[Resource[Any]]]:
        found: dict[str, list[Resource[Any]]] = {}
        for resource in self._resources:
            found.setdefault(resource.prefix.removeprefix("/"), []).append(resource)
        return dict(sorted(found.items()))

    @staticmethod
    def _roots(resources: Sequence[Resource[Any]]) -> set[str]:
        return {STATUS, _WATCH_EVENT} | {resource.definition for resource in resources}


def _document(tree: dict[str, Any], body: bytes | None = None, content_type: str = _JSON) -> Document:
    data = msgspec.json.encode(tree) if body is None else body
    return Document(data, content_type, hashlib.sha256(data).hexdigest().upper())
