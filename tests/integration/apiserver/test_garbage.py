"""Garbage in every place where a client may put some: never an answer of 500 or more, always a Status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from master.apiserver.reviews import REVIEWS
from sampan.api.resources import BUILT_IN
from tests.support.apiserver import Answer, Running, api_server

NS = "/api/v1/namespaces/default"
SLOW = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json")

words = st.sampled_from(["api", "apis", "v1", "apps", "namespaces", "default", "pods", "watch", "status", "nodes", "x",
                         "", ".", "..", "%2e%2e", "%2F", "%00", "%ff", "%", "%zz", "configmaps", "scale", "binding",
                         "openapi", "v2", "v3", "healthz", "finalize", "log", "deployments"]) | st.text(max_size=5).map(
                             lambda text: quote(text.encode("utf-8", "surrogatepass")))
values = st.text(max_size=12).map(lambda text: quote(text.encode("utf-8", "surrogatepass"))) | st.sampled_from([
    "a=b", "a+in+(b)", "a+in+(", "!a", "a%3E1", "metadata.name=x", "spec.nodeName!=", "0", "1", "-1", "99999999", "All",
    "true", "Exact", "NotOlderThan", "Strict", "Object", "Foreground", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MX0"])
names = st.sampled_from([
    "labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "dryRun", "pretty", "includeObject",
    "resourceVersionMatch", "fieldValidation", "gracePeriodSeconds", "fieldManager", "propagationPolicy",
    "orphanDependents", "sendInitialEvents", "verbose", "hash"])
queries = st.lists(st.tuples(names, values).map("=".join), max_size=4).map("&".join)
keys = st.sampled_from([
    "metadata", "spec", "status", "name", "kind", "apiVersion", "labels", "$patch", "containers", "data", "op", "path",
    "value", "replicas", "target", "dryRun", "resourceAttributes", "nonResourceAttributes",
    "verb", "finalizers", "$setElementOrder/containers", "x"])
trees = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
header_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30) | st.sampled_from([
    "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=;v;g", "*/*;q=x", ",;=,", "application/yaml",
    "application/json; charset=\"", "Bearer a.b", "Basic !", "Bearer abcdef.0123456789abcdef"])
COLLECTIONS = [resource.path("default") for resource in (*BUILT_IN, *REVIEWS)]


class Server:
    """A server in a loop that runs while a request does."""

    def __init__(self, runner: asyncio.Runner, api: Running) -> None:
        self._runner = runner
        self._api = api

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """One request, whose answer must be one that blames the client, if anybody."""
        answer = self._runner.run(self._api.request(method, path, body, **more))
        assert answer.code < 500 or answer.json["reason"] == "Timeout", (method, path, body, more, answer.body)
        if answer.code >= 400:
            assert answer.json["kind"] == "Status"
            assert answer.json["code"] == answer.code
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with asyncio.Runner() as runner:
        context = api_server(tmp_path_factory.mktemp("garbage"))
        api = runner.run(context.__aenter__())
        for served in api.parts.registry.all:
            served.cache._patience = 0.05  # nobody waits here for revisions that never come
        server = Server(runner, api)
        server.ask("POST", NS + "/configmaps", {"metadata": {"name": "x"}})
        server.ask("POST", NS + "/pods", {"metadata": {"name": "x"}, "spec": {"containers": [
            {"name": "c", "image": "i"}]}})
        yield server
        runner.run(context.__aexit__(None, None, None))


@SLOW
@given(st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]), st.lists(words, max_size=8), queries)
def test_paths(server: Server, method: str, parts: list[str], query: str) -> None:
    more = "timeoutSeconds=1&" if method == "GET" else "dryRun=All&"
    server.ask(method, "/" + "/".join(parts) + "?" + more + query, {} if method in ("PUT", "POST", "PATCH") else None)


@SLOW
@given(st.sampled_from(COLLECTIONS), st.sampled_from(["", "/x", "/x/status", "/x/scale"]), queries)
def test_queries_of_reads(server: Server, path: str, door: str, query: str) -> None:
    server.ask("GET", f"{path}{door}?{query}")


@SLOW
@given(st.sampled_from(["Accept", "Content-Type", "Authorization", "Impersonate-User", "Impersonate-Group", "Upgrade",
                        "If-None-Match", "Connection"]), header_text)
def test_headers(server: Server, name: str, value: str) -> None:
    if name == "Connection":
        value = "Upgrade"
    for method, path in (("POST", NS + "/configmaps?dryRun=All"), ("GET", "/apis"), ("GET", NS + "/pods")):
        server.ask(method, path, b"{}" if method == "POST" else None, headers={name: value})


@SLOW
@given(st.sampled_from(COLLECTIONS), trees, st.sampled_from([
    ("POST", ""), ("PUT", "/x"), ("DELETE", "/x"), ("POST", "/x/binding"), ("POST", "/x/eviction"), ("PUT", "/x/scale"),
    ("PUT", "/x/status"), ("PUT", "/x/approval"), ("PUT", "/x/finalize")]), queries)
def test_bodies(server: Server, path: str, tree: Any, door: tuple[str, str], query: str) -> None:
    server.ask(door[0], f"{path}{door[1]}?dryRun=All&{query}", json.dumps(tree).encode())


@SLOW
@given(trees | st.lists(trees, max_size=3), st.sampled_from(PATCHES), st.sampled_from(COLLECTIONS),
       st.sampled_from(["", "/status", "/scale"]))
def test_patches(server: Server, tree: Any, kind: str, path: str, door: str) -> None:
    server.ask("PATCH", f"{path}/x{door}?dryRun=All", json.dumps(tree).encode(), content_type=kind)
    server.ask("PATCH", f"{NS}/pods/x{door}?dryRun=All", json.dumps(tree).encode(), content_type=kind)


@SLOW
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
       | st.text("{}[]:,-&*!|>?#'\"\\ \n\tdu80xa<0", max_size=40).map(str.encode),
       st.sampled_from(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]))
def test_bytes(server: Server, data: bytes, content_type: str) -> None:
    if content_type.endswith("protobuf"):
        data = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12" + bytes([len(data)]) + data
    for body in (data, b'metadata: {name: y, labels: {a: "' + data + b'"}}'):
        server.ask("POST", NS + "/configmaps?dryRun=All", body, content_type=content_type)
