"""Builds, keeps and hands out the OpenAPI documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.api.resources import Resource

Definitions = Mapping[str, dict[str, Any]]

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


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
    """All documents of one set of resources. A new set (CRDs come and go) is a new `OpenAPI`."""

    def __init__(self, resources: Sequence[Resource[Any]], definitions: Definitions, version: str = "v1.32.0") -> None:
        self._resources = resources
        self._definitions = definitions
        self._version = version

    def v3_root(self) -> Document:
        """``GET /openapi/v3``: where each group-version's document is, with its hash in the address."""
        raise NotImplementedError

    def v3(self, path: str) -> Document | None:
        """``GET /openapi/v3/{path}``: `path` is ``api/v1``, ``apis/apps/v1``, …; None for one that is not there.

        When the request's `hash` parameter is another than the document's, redirect (301) to `v3_address(path)`;
        when it matches, send ``Cache-Control: public, immutable`` and an Expires a year ahead.
        """
        raise NotImplementedError

    def v3_address(self, path: str) -> str:
        """``/openapi/v3/apis/apps/v1?hash=…``."""
        raise NotImplementedError

    def v2(self, *, protobuf: bool) -> Document:
        """``GET /openapi/v2``: as protobuf for those whose Accept names `V2_PROTOBUF`, else as JSON."""
        raise NotImplementedError
