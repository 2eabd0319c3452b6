"""Whatever a client sends, it gets a Status that blames it, and what is stored can always be read again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sampan.api.codec import decode
from tests.support.apiserver import Running, api_server

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
CORE, APPS = "/api/v1/namespaces/default/", "/apis/apps/v1/namespaces/default/"
POD_SPEC = {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "A",
                                                                                                "value": "x"}],
                            "resources": {"requests": {"cpu": "1"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a", "operator": "Exists"}]}
WORKLOAD = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}}
OBJECTS: dict[str, dict[str, Any]] = {
    CORE + "pods": {"spec": POD_SPEC},
    APPS + "deployments": {"spec": {**WORKLOAD, "strategy": {"rollingUpdate": {"maxSurge": "25%"}}}},
    APPS + "replicasets": {"spec": WORKLOAD},
    APPS + "controllerrevisions": {"data": {"a": 1}, "revision": 1},
    CORE + "services": {"spec": {"ports": [{"port": 80, "targetPort": "x"}], "clusterIP": "10.96.3.4"}},
    CORE + "configmaps": {"data": {"a": "b"}, "binaryData": {"x": "AAAA"}},
    CORE + "secrets": {"type": "Opaque", "data": {"a": "YQ=="}},
    CORE + "serviceaccounts": {"secrets": [{"name": "x"}]},
    CORE + "endpoints": {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]},
    CORE + "events": {"involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}, "reason": "r",
                      "firstTimestamp": "2026-01-01T00:00:00Z", "count": 1},
    "/api/v1/nodes": {"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"capacity": {"cpu": "1"}}},
    "/api/v1/namespaces": {},
    "/apis/coordination.k8s.io/v1/namespaces/default/leases": {
        "spec": {"holderIdentity": "x", "renewTime": "2026-01-01T00:00:00.000000Z"}},
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices": {
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 1}]},
    "/apis/certificates.k8s.io/v1/certificatesigningrequests": {
        "spec": {"request": "AAAA", "signerName": "a/b", "usages": ["client auth"]}},
}
VALUES: list[Any] = [
    None, True, 0, -1, 3.5, 1e300, 2**63, 2**64, "", "x", "ü", "a b", "\ud800", "\x00", "9" * 400, "10.0.0.1",
    "2026-13-01T00:00:00Z", [], [None], [[]], [{}], {}, {"a": None}, {"a": {"b": [1]}}, "../x", "%00", [1, "a", None]]
BROKEN = [b"", b"\xff", b"[]", b"null", b"1", b'"x"', b"{" * 5000, b"[" * 100_000, b"{}{}", b"k8s\0\xff"]
TYPES = ["application/json"] * 6 + ["application/yaml", "text/plain", "application/vnd.kubernetes.protobuf", "\xff"]
PATCHES = ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"]
ACCEPTS = ["application/json"] * 4 + [TABLE, PARTIAL, "application/yaml", "x/y", ";;", "*/*"]
QUERY = ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersionMatch", "includeObject"]


class Careless:
    """A client that sends anything; the seed decides what."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.pick = self._rng.choice

    def request(self) -> tuple[str, str, bytes | None, str]:
        """Method, target, body and content type."""
        base = self.pick(list(OBJECTS))
        body = {"metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"a": "b"}}, **OBJECTS[base]}
        query = self.pick(["", "?dryRun=All", "?fieldValidation=Strict", "?fieldValidation=x", "?dryRun=x"])
        door = self.pick(["", "", "", "/status", "/scale", "/approval", "/finalize", "/binding", "/eviction"])
        match self.pick(["POST", "POST", "PUT", "PATCH", "PATCH", "DELETE", "GET"]):
            case "POST":
                below = "/p" + door if door and self._rng.random() < 0.3 else ""
                return "POST", base + below + query, self.body(body), self.pick(TYPES)
            case "PUT":
                return "PUT", f"{base}/p{door}{query}", self.body(body), self.pick(TYPES)
            case "PATCH":
                kind = self.pick(PATCHES)
                data = self.operations(body) if "json-patch" in kind else self.body(body)
                return "PATCH", f"{base}/p{door}{query}", data, kind
            case "DELETE":
                options = {"gracePeriodSeconds": self.pick(VALUES), "propagationPolicy": self.pick(VALUES)}
                return "DELETE", base + "/p", json.dumps(options).encode(), "application/json"
        words = "&".join(f"{name}={self.word()}" for name in self._rng.sample(QUERY, 2))
        return "GET", f"{base}{self.pick(['', '', '/p', '/p/scale', '/x'])}?{words}", None, ""

    def body(self, tree: dict[str, Any]) -> bytes:
        if self._rng.random() < 0.05:
            return self.pick(BROKEN)
        tree = copy.deepcopy(tree)
        if self._rng.random() < 0.4:  # nothing wrong with this one
            tree["metadata"]["name"] = self.pick(["p", f"q{self._rng.randrange(1000)}"])
            return json.dumps(tree).encode()
        for _ in range(self.pick([1, 1, 1, 2, 3])):
            path = self.pick([path for path in places(tree) if path])
            holder = tree
            for step in path[:-1]:
                holder = holder[step]
            if isinstance(holder, dict) and self._rng.random() < 0.15:
                del holder[path[-1]]
            else:
                holder[path[-1]] = copy.deepcopy(self.pick(VALUES))
        return json.dumps(tree).encode()

    def operations(self, tree: dict[str, Any]) -> bytes:
        paths = ["/" + "/".join(map(str, path)) for path in places(tree)] + ["", "/a/b", "x"]
        return json.dumps([{"op": self.pick(["add", "remove", "replace", "test", "move", "copy", "x"]),
                            "path": self.pick(paths), "from": self.pick(paths), "value": self.pick(VALUES)}
                           for _ in range(self.pick([1, 2]))]).encode()

    def word(self) -> str:
        text = str(self.pick([*VALUES, "a=b", "a in (b", "!", "a>1", ",", "metadata.name=p", "spec.nodeName!=x"]))
        return quote(text.encode("utf-8", "surrogatepass"))


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path in a tree."""
    yield path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield from places(value, (*path, key))


async def everything_can_be_read(api: Running) -> None:
    for served in api.parts.registry.all:
        for accept in ("application/json", TABLE):
            answer = await api.request("GET", served.resource.path(), accept=accept)
            assert answer.code == 200, (served.resource.plural, answer.body)
        for entry in (await served.cache.list()).entries:
            decode(served.resource.type, entry.raw)
            assert not entry.altered


@pytest.mark.parametrize("seed", range(4))
async def test_careless_clients_get_4xx(tmp_path: Path, seed: int) -> None:
    client = Careless(seed)
    codes: dict[int, int] = {}
    async with api_server(tmp_path) as api:
        for round_ in range(700):
            if round_ % 100 == 0:
                for base, body in OBJECTS.items():  # so that there is something to change
                    await api.request("POST", base, {"metadata": {"name": "p"}, **body})
            method, target, body, content_type = client.request()
            answer = await api.request(method, target, body, content_type=content_type, accept=client.pick(ACCEPTS))
            codes[answer.code] = codes.get(answer.code, 0) + 1
            assert answer.code < 500, (method, target, content_type, body, answer.body)
            if answer.code >= 400:
                assert answer.json["kind"] == "Status"
        await everything_can_be_read(api)
    assert codes.get(200, 0) + codes.get(201, 0) > 15, codes  # it does not refuse everything
