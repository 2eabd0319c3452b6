"""The real kubectl reads our discovery and OpenAPI documents, off a server that has nothing else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from master.apiserver import discovery
from master.apiserver.negotiate import Form, negotiate
from master.apiserver.openapi import Document, OpenAPI, accepts_protobuf
from master.apiserver.patch import apply_strategic_patch
from master.apiserver.schema import load_definitions
from sampan.api.resources import BUILT_IN
from tests.support.kubectl import VERSIONS, binary

pytestmark = pytest.mark.kubectl

VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.0", "platform": "linux/amd64"}
LIVE = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {
    "name": "web", "namespace": "default",
    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"apiVersion":"apps/v1","kind":"Deployment",'
                    '"metadata":{"name":"web"},"spec":{"template":{"spec":{"containers":[{"name":"old"}]}}}}'}},
    "spec": {"template": {"spec": {"containers": [{"name": "old"}, {"name": "sidecar"}]}}}}
APPLIED = ('{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"template":{"spec":'
           '{"containers":[{"name":"new"}]}}}}')


@dataclass
class Documents:
    """Serves documents, takes any write, and remembers what it was asked."""

    aggregated: bool = True
    with_v3: bool = True
    openapi: OpenAPI = field(default_factory=lambda: OpenAPI(BUILT_IN, load_definitions()))
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append((request.method, request.path_qs, body))
        if request.method in ("POST", "PATCH"):
            answer = body if request.method == "POST" else msgspec.json.encode(LIVE)
            return web.Response(body=answer, content_type="application/json")
        return self.send(request)

    def send(self, request: web.Request) -> web.Response:
        answer = self.answer(request.path.strip("/").split("/"), request.headers.get("Accept", ""))
        if isinstance(answer, Document):
            return web.Response(body=answer.body, headers={"Content-Type": answer.content_type})
        if answer is None:
            answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}, ""
        tree, content_type = answer
        return web.Response(status=200 if content_type else 404, body=msgspec.json.encode(tree),
                            headers={"Content-Type": content_type or "application/json"})

    def answer(self, parts: list[str], accept: str) -> Document | tuple[object, str] | None:
        plain = "application/json"
        match parts:
            case ["version"]:
                return VERSION, plain
            case ["openapi", "v2"]:
                return self.openapi.v2(protobuf=accepts_protobuf(accept))
            case ["openapi", "v3", *rest] if self.with_v3:
                return self.openapi.v3("/".join(rest)) if rest else self.openapi.v3_root()
            case ["api" | "apis" as root]:
                media = negotiate(accept, forms=frozenset({Form.DISCOVERY} if self.aggregated else ()))
                if media.form is Form.DISCOVERY:
                    return discovery.aggregated(BUILT_IN, core=root == "api", version=media.version), media.content_type
                return (discovery.api_versions("localhost") if root == "api" else discovery.group_list(BUILT_IN)), plain
            case ["api", version]:
                return discovery.resource_list(BUILT_IN, "", version), plain
            case ["apis", group, version]:
                return discovery.resource_list(BUILT_IN, group, version), plain
            case [*_, "deployments", "web"]:
                return LIVE, plain
        return None


@dataclass
class Kubectl:
    """kubectl of one version against the documents."""

    version: str
    documents: Documents
    address: str
    home: Path

    async def __call__(self, *arguments: str, stdin: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            str(binary(self.version)), f"--server={self.address}", f"--cache-dir={self.home}/cache", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"HOME": str(self.home)})
        out, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        assert process.returncode == 0, out.decode()
        return out.decode()


@pytest.fixture(params=VERSIONS)
async def kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kubectl]:
    documents = Documents()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", documents.serve)
    async with TestServer(application) as server:
        yield Kubectl(request.param, documents, str(server.make_url("/")), tmp_path)


@pytest.mark.parametrize("aggregated", [True, False])
async def test_discovery(kubectl: Kubectl, aggregated: bool) -> None:
    kubectl.documents.aggregated = aggregated
    lines = (await kubectl("api-resources", "--no-headers", "-o", "name")).split()
    wanted = {f"{entry.plural}.{entry.group}".rstrip(".") for entry in BUILT_IN}
    assert set(lines) == wanted
    assert set((await kubectl("api-versions")).split()) == {entry.api_version for entry in BUILT_IN}
    asked = [path for _, path, _ in kubectl.documents.seen if path.startswith("/apis/apps")]
    assert bool(asked) is not aggregated


@pytest.mark.parametrize("output", ["plaintext", "plaintext-openapiv2"])
async def test_explain(kubectl: Kubectl, output: str) -> None:
    text = await kubectl("explain", "pod.spec.containers.ports", f"--output={output}")
    assert "containerPort" in text
    assert "-required-" in text
    everything = await kubectl("explain", "deployments", "--recursive", f"--output={output}")
    assert len(everything.splitlines()) > 1000
    assert "matchExpressions" in everything
    if output == "plaintext-openapiv2":
        assert any(path.startswith("/openapi/v2") for _, path, _ in kubectl.documents.seen)


@pytest.mark.parametrize("with_v3", [True, False])
async def test_the_server_is_trusted_to_validate(kubectl: Kubectl, with_v3: bool) -> None:
    kubectl.documents.with_v3 = with_v3
    manifest = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"bogus":1}'
    assert "configmap/x created" in await kubectl("create", "--validate=strict", "-f", "-", stdin=manifest)
    method, path, body = kubectl.documents.seen[-1]
    assert (method, "fieldValidation=Strict" in path) == ("POST", True)
    assert b"bogus" in body


@pytest.mark.parametrize("with_v3", [True, False])
async def test_apply_merges_lists_by_the_published_keys(kubectl: Kubectl, with_v3: bool) -> None:
    kubectl.documents.with_v3 = with_v3
    await kubectl("apply", "-f", "-", stdin=APPLIED)
    method, _, body = kubectl.documents.seen[-1]
    assert method == "PATCH"
    patch = msgspec.json.decode(body)
    merged = apply_strategic_patch(LIVE, patch, "io.k8s.api.apps.v1.Deployment", load_definitions())
    names = [item["name"] for item in merged["spec"]["template"]["spec"]["containers"]]
    assert sorted(names) == ["new", "sidecar"]
