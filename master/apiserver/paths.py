"""Paths that name no resource: discovery, OpenAPI, version, health, metrics, the CA's certificate."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from aiohttp import web

from master.apiserver import discovery
from master.apiserver.handlers import no_such_method, no_such_resource
from master.apiserver.health import Check, Health
from master.apiserver.metrics import CONTENT_TYPE, Metrics
from master.apiserver.negotiate import Form, Media, negotiate
from master.apiserver.openapi import Document, OpenAPI
from master.apiserver.openapi.documents import V2_PROTOBUF
from master.apiserver.registry import Registry
from master.apiserver.request import RequestInfo
from master.apiserver.responses import as_yaml, send
from master.apiserver.reviews import REVIEWS
from sampan import __version__
from sampan.api.codec import encode

Tree = dict[str, Any]

VERSION = "v1.32.0"
_DISCOVERY_FORMS = frozenset((Form.PLAIN, Form.DISCOVERY))
_TEXT = "text/plain; charset=utf-8"
_HEALTH = ("healthz", "livez", "readyz")
_ROOTS = (*_HEALTH, "openapi", "version", "cacerts", "metrics")
_negotiate = lru_cache(maxsize=64)(negotiate)


def version_info() -> Tree:
    """``GET /version``: what we are compatible with, and in the build part of the version what we are."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {"major": "1", "minor": "32", "gitVersion": f"{VERSION}+sampan-{__version__}", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": platform.python_implementation(),
            "platform": f"linux/{machine}"}


class Paths:
    """Answers them."""

    def __init__(self, registry: Registry, metrics: Metrics, *, ca_certificate: bytes, address: str,
                 checks: Mapping[str, Check], documents: Mapping[str, tuple[bytes, str]]) -> None:
        """`checks` are the readiness checks by name; `address` is host:port as clients reach the server.

        `documents` are fixed answers by path, with their content types.
        """
        self._resources = [*registry.resources, *REVIEWS]
        self._metrics = metrics
        self._ca = ca_certificate
        self._address = address
        self._health = Health(checks)
        self._fixed = documents
        self._openapi = OpenAPI(self._resources, registry.schemas.definitions)
        self._documents: dict[tuple[str, str], tuple[bytes, str]] = {}

    async def handle(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        """Answer; ApiError 404 for unknown paths."""
        parts = [part for part in info.path.split("/") if part]
        if request.method not in ("GET", "HEAD"):
            raise no_such_method() if self._is_known(parts, info.path) else no_such_resource()
        match parts:
            case []:
                return send(encode({"paths": self._index()}))
            case ["api" | "apis", *rest] if len(rest) <= 2:
                return self._discovery(request, parts[0], rest)
            case ["openapi", "v2"]:
                return self._openapi_v2(request)
            case ["openapi", "v3", *rest]:
                return self._openapi_v3(request, info, "/".join(rest))
            case ["version"]:
                return send(encode(version_info()))
            case ["healthz" | "livez" | "readyz", *names]:
                return await self._healthy(parts[0], names, info)
            case ["cacerts"]:
                return send(self._ca, content_type=_TEXT)
            case ["metrics"]:
                return send(await self._metrics.render(), content_type=CONTENT_TYPE)
            case ["metrics", "state"]:
                return send(await self._metrics.render("state"), content_type=CONTENT_TYPE)
        if info.path in self._fixed:
            body, content_type = self._fixed[info.path]
            return send(body, content_type=content_type, headers={"Cache-Control": "public, max-age=3600"})
        raise no_such_resource()

    def _is_known(self, parts: list[str], path: str) -> bool:
        if parts and parts[0] in ("api", "apis"):
            return len(parts) <= 3 and self._document(parts[0], parts[1:], Media()) is not None
        return not parts or parts[0] in _ROOTS or path in self._fixed

    # --- discovery ------------------------------------------------------------------------------------------------

    def _discovery(self, request: web.BaseRequest, root: str, rest: list[str]) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        media = _negotiate(accept, forms=_DISCOVERY_FORMS if not rest else frozenset((Form.PLAIN,)))
        key = ("/".join((root, *rest)), media.content_type)
        found = self._documents.get(key)
        if found is None:
            tree = self._document(root, rest, media)
            if tree is None:
                raise no_such_resource()
            body = encode(tree)
            body = as_yaml(body) if media.encoding == "yaml" else body
            found = self._documents[key] = (body, f'"{hashlib.sha256(body).hexdigest().upper()}"')
        body, etag = found
        return _cacheable(request, body, media.content_type, etag, {"Vary": "Accept"})

    def _document(self, root: str, rest: list[str], media: Media) -> Tree | None:
        if media.form is Form.DISCOVERY:
            return discovery.aggregated(self._resources, core=root == "api", version=media.version or "v2")
        if root == "api":
            if not rest:
                return discovery.api_versions(self._address)
            return discovery.resource_list(self._resources, "", rest[0]) if len(rest) == 1 else None
        if not rest:
            return discovery.group_list(self._resources)
        if len(rest) == 1:
            return discovery.group(self._resources, rest[0])
        return discovery.resource_list(self._resources, rest[0], rest[1])

    # --- OpenAPI --------------------------------------------------------------------------------------------------

    def _openapi_v2(self, request: web.BaseRequest) -> web.Response:
        protobuf = V2_PROTOBUF in ",".join(request.headers.getall("Accept", ()))
        document = self._openapi.v2(protobuf=protobuf)
        return _send_document(request, document, {"Vary": "Accept"})

    def _openapi_v3(self, request: web.BaseRequest, info: RequestInfo, path: str) -> web.Response:
        if not path:
            return _send_document(request, self._openapi.v3_root(), {})
        document = self._openapi.v3(path)
        if document is None:
            raise no_such_resource()
        wanted = info.query.get("hash")
        if wanted and wanted != document.hash:
            return web.Response(status=301, headers={"Location": self._openapi.v3_address(path)})
        forever = {"Cache-Control": "public, immutable", "Expires": "Fri, 31 Dec 2100 23:59:59 GMT"}
        return _send_document(request, document, forever if wanted else {})

    # --- health ---------------------------------------------------------------------------------------------------

    async def _healthy(self, which: str, names: list[str], info: RequestInfo) -> web.Response:
        name = "/".join(names)
        if name and name not in self._health.names(which):
            raise no_such_resource()
        return await self._health.answer(which, name, info.query)

    def _index(self) -> list[str]:
        groups = {(item.group, item.version) for item in self._resources if item.group}
        paths = {"/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/metrics", "/metrics/state",
                 "/openapi/v2", "/openapi/v3", "/version", "/cacerts", *self._fixed}
        paths |= {f"/{which}/{name}" for which in _HEALTH for name in self._health.names(which)}
        paths |= {f"/apis/{group}" for group, _ in groups} | {f"/apis/{group}/{version}" for group, version in groups}
        return sorted(paths)


def _cacheable(request: web.BaseRequest, body: bytes, content_type: str, etag: str,
               headers: dict[str, str]) -> web.Response:
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag, **headers})
    return send(body, content_type=content_type, headers={"ETag": etag, **headers})


def _send_document(request: web.BaseRequest, document: Document, headers: dict[str, str]) -> web.Response:
    return _cacheable(request, document.body, document.content_type, document.etag, headers)
