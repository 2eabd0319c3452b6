"""The real kubectl against the API server alone: what needs neither controllers nor nodes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.apiserver import Running, api_server
from tests.support.kubectl import VERSIONS, binary

pytestmark = pytest.mark.kubectl

MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: web:1}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
"""


@dataclass
class Command:
    """kubectl, run beside the server's loop."""

    path: Path
    kubeconfig: Path

    async def run(self, *arguments: str, text: str = "", **environment: str) -> tuple[int, str]:
        """Exit code, and everything it printed."""
        process = await asyncio.create_subprocess_exec(
            self.path, "--kubeconfig", self.kubeconfig, "--cache-dir", self.kubeconfig.parent / "cache", *arguments,
            env={**os.environ, **environment}, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT)
        async with asyncio.timeout(60):
            output, _ = await process.communicate(text.encode())
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def __call__(self, *arguments: str, text: str = "", **environment: str) -> str:
        """A command that must succeed: what it printed."""
        code, output = await self.run(*arguments, text=text, **environment)
        assert code == 0, output
        return output


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Running]:
    async with api_server(tmp_path) as running:
        yield running


@pytest.fixture(params=VERSIONS)
def kubectl(request: pytest.FixtureRequest, api: Running) -> Command:
    return Command(binary(request.param), api.kubeconfig())


async def test_apply_and_change(kubectl: Command) -> None:
    assert await kubectl("apply", "-f", "-", text=MANIFEST) == (
        "deployment.apps/web created\nconfigmap/settings created\n")
    assert "deployment.apps/web unchanged" in await kubectl("apply", "-f", "-", text=MANIFEST)
    changed = MANIFEST.replace("web:1", "web:2").replace('{a: "1"}', '{b: "2"}')
    assert "deployment.apps/web configured" in await kubectl("apply", "-f", "-", text=changed)
    settings = json.loads(await kubectl("get", "cm", "settings", "-o", "json"))
    assert settings["data"] == {"b": "2"}
    line = (await kubectl("get", "deploy", "-o", "wide", "--no-headers")).split()
    assert line[:4] == ["web", "0/2", "0", "0"]
    assert line[5:] == ["main", "web:2", "app=web"]
    await kubectl("label", "deploy", "web", "tier=front")
    await kubectl("annotate", "deploy", "web", "note=hello")
    await kubectl("scale", "deploy", "web", "--replicas=4")
    await kubectl("set", "image", "deploy/web", "main=web:3")
    for kind, patch in (("strategic", '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s"}]}}}}'),
                        ("merge", '{"spec":{"paused":true}}'),
                        ("json", '[{"op":"add","path":"/metadata/labels/x","value":"y"}]')):
        await kubectl("patch", "deploy", "web", "--type", kind, "-p", patch)
    web = json.loads(await kubectl("get", "deploy", "web", "-o", "json"))
    assert web["metadata"]["labels"] == {"app": "web", "tier": "front", "x": "y"}
    assert (web["spec"]["replicas"], web["spec"]["paused"]) == (4, True)
    assert {item["image"] for item in web["spec"]["template"]["spec"]["containers"]} == {"web:3", "s"}


async def test_create_sends_what_the_version_prefers(kubectl: Command) -> None:
    await kubectl("create", "configmap", "c", "--from-literal=k=v")
    await kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    await kubectl("create", "namespace", "extra")
    await kubectl("create", "serviceaccount", "robot")
    await kubectl("create", "deployment", "d", "--image=i", "--port=80", "--replicas=0")
    await kubectl("expose", "deployment", "d", "--port=80")
    await kubectl("run", "p", "--image=i", "--env=A=b", "--restart=Never")
    assert await kubectl("get", "cm/c", "-o", "jsonpath={.data.k}") == "v"
    assert await kubectl("get", "secret/s", "-o", "jsonpath={.data.k}") == "dg=="
    assert await kubectl("get", "deploy/d", "-o", "jsonpath={.spec.replicas}") == "0"
    assert await kubectl("get", "pod/p", "-o", "jsonpath={.spec.containers[0].env[0].value}") == "b"
    assert await kubectl("get", "svc/d", "-o", "jsonpath={.spec.ports[0].targetPort}") == "80"
    assert "AlreadyExists" in (await kubectl.run("create", "namespace", "extra"))[1]


async def test_looking(kubectl: Command, api: Running) -> None:
    await kubectl("run", "p", "--image=i", "--labels=app=x")
    assert (await kubectl("get", "pods", "-l", "app=x", "-o", "name")) == "pod/p\n"
    assert "No resources found" in await kubectl("get", "pods", "-l", "app=y")
    assert (await kubectl("get", "pods", "-A", "--field-selector", "status.phase=Pending", "-o", "name")) == "pod/p\n"
    described = await kubectl("describe", "pod", "p")
    assert "Service Account:  default" in described
    assert "node.kubernetes.io/not-ready:NoExecute op=Exists for 300s" in described
    assert "configmaps" in await kubectl("api-resources")
    assert "apps/v1" in (await kubectl("api-versions")).split()
    assert "terminationGracePeriodSeconds\t<integer>" in await kubectl("explain", "pod.spec")
    assert "v1.32.0+sampan-" in await kubectl("version")
    assert f"127.0.0.1:{api.server.port}" in await kubectl("cluster-info")
    assert (await kubectl("auth", "can-i", "delete", "pods")).strip() == "yes"
    code, output = await kubectl.run("auth", "can-i", "delete", "pods", "--as", "joe")
    assert (code, output.strip().endswith("no")) == (1, True)
    assert "joe" in (await kubectl.run("get", "pods", "--as", "joe"))[1]
    assert "[+]caches ok" in await kubectl("get", "--raw", "/readyz?verbose")


async def test_editing_with_an_editor(kubectl: Command) -> None:
    await kubectl("apply", "-f", "-", text=MANIFEST)
    edited = await kubectl("edit", "cm", "settings", KUBE_EDITOR="sed -i 's/\"1\"/\"changed\"/'")
    assert edited == "configmap/settings edited\n"
    assert await kubectl("get", "cm", "settings", "-o", "jsonpath={.data.a}") == "changed"


async def test_deleting_and_replacing(kubectl: Command) -> None:
    await kubectl("apply", "-f", "-", text=MANIFEST)
    await kubectl("replace", "-f", "-", text=MANIFEST)
    assert "replaced" in await kubectl("replace", "--force", "-f", "-", text=MANIFEST)
    assert await kubectl("diff", "-f", "-", text=MANIFEST.replace("---", "---")) == ""
    code, output = await kubectl.run("diff", "-f", "-", text=MANIFEST.replace("web:1", "web:9"))
    assert code == 1
    assert "+      - image: web:9" in output
    assert "deleted" in await kubectl("delete", "-f", "-", text=MANIFEST)
    await kubectl("run", "p", "--image=i")
    await kubectl("delete", "pod", "p", "--now")
    code, output = await kubectl.run("get", "pod", "p")
    assert (code, output) == (1, 'Error from server (NotFound): pods "p" not found\n')
    await kubectl("create", "cm", "held")
    await kubectl("patch", "cm", "held", "-p", '{"metadata":{"finalizers":["example.com/hold"]}}')
    await kubectl("delete", "cm", "held", "--wait=false")
    await kubectl("patch", "cm", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert await kubectl("wait", "--for=delete", "cm/held", "--timeout=10s") == ""


@pytest.mark.parametrize(("manifest", "message"), [
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {}\n", "spec.containers: Required value"),
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: P}\n", "a lowercase RFC 1123 subdomain must consist of"),
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p}\nnonsense: 1\n", 'unknown field "nonsense"'),
    ("apiVersion: v1\nkind: Gadget\nmetadata: {name: p}\n", 'no matches for kind "Gadget" in version "v1"'),
])
async def test_mistakes_are_told(kubectl: Command, manifest: str, message: str) -> None:
    code, output = await kubectl.run("create", "-f", "-", text=manifest)
    assert code == 1
    assert message in output
