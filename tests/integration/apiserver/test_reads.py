"""Reading over HTTPS: lists, selectors, pages, tables, watches, discovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from master.apiserver import health
from master.store.protocol import StoreError
from sampan.api.resources import CONFIGMAPS
from tests.support.apiserver import Running

NS = "/api/v1/namespaces/default"
MAPS = NS + "/configmaps"
PODS = NS + "/pods"
MERGE = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
ONLY_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"k": "v"}}


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


@pytest.fixture
async def ten(api: Running) -> Running:
    for index in range(10):
        await api.ok("POST", MAPS, config(f"a{index}", labels={"n": str(index), "half": str(index % 2)}))
    return api


async def test_lists(ten: Running) -> None:
    answer = await ten.ok("GET", MAPS)
    assert (answer["kind"], answer["apiVersion"]) == ("ConfigMapList", "v1")
    assert names(answer) == [f"a{index}" for index in range(10)]
    assert int(answer["metadata"]["resourceVersion"]) >= int(answer["items"][-1]["metadata"]["resourceVersion"])
    assert names(await ten.ok("GET", "/api/v1/configmaps")) == names(answer)
    assert (await ten.ok("GET", "/api/v1/namespaces/kube-system/configmaps"))["items"] == []


@pytest.mark.parametrize(("query", "expected"), [
    ("labelSelector=half=1", ["a1", "a3", "a5", "a7", "a9"]),
    ("labelSelector=half=1,n+notin+(1,3)", ["a5", "a7", "a9"]),
    ("labelSelector=%21half", []),
    ("fieldSelector=metadata.name=a3", ["a3"]),
    ("fieldSelector=metadata.name=a3&labelSelector=half=0", []),
    ("fieldSelector=metadata.name!=a3,metadata.namespace=default&labelSelector=half=1", ["a1", "a5", "a7", "a9"]),
])
async def test_selectors(ten: Running, query: str, expected: list[str]) -> None:
    assert names(await ten.ok("GET", f"{MAPS}?{query}")) == expected


@pytest.mark.parametrize(("query", "message"), [
    ("fieldSelector=data.k=v",
     '"data.k" is not a known field selector: only "metadata.name", "metadata.namespace"'),
    ("labelSelector=a+in+(b", "unable to parse requirement: "),
    ("labelSelector=-x", "unable to parse requirement: "),
    ("fieldSelector=x", "invalid selector: 'x'; can't understand 'x'"),
    ("limit=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
    pytest.param("limit=" + "0" * 20 + "9" * 5000, "strconv.ParseInt: parsing", id="a long limit"),
    pytest.param("watch=1&timeoutSeconds=" + "0" * 20 + "9" * 400, "strconv.ParseInt: parsing", id="a long time"),
    pytest.param("resourceVersion=" + "9" * 5000, "value out of range", id="a long revision"),
    ("continue=nonsense", "continue"),
    ("includeObject=All", "unrecognized includeObject value"),
])
async def test_bad_selectors_are_refused(api: Running, query: str, message: str) -> None:
    assert message in (await api.refused(400, "GET", f"{MAPS}?{query}"))["message"]


async def test_pods_by_node_and_phase(api: Running) -> None:
    await api.ok("POST", PODS, pod("p"))
    await api.ok("POST", PODS, {**pod("q"), "spec": {**pod("q")["spec"], "nodeName": "n1"}})
    assert names(await api.ok("GET", "/api/v1/pods?fieldSelector=spec.nodeName=n1")) == ["q"]
    assert names(await api.ok("GET", "/api/v1/pods?fieldSelector=spec.nodeName=,status.phase=Pending")) == ["p"]


async def test_pages(ten: Running) -> None:
    first = await ten.ok("GET", MAPS + "?limit=4")
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["a0", "a1", "a2", "a3"], 6)
    await ten.ok("POST", MAPS, config("a55"))  # a list is as it was when it began
    second = await ten.ok("GET", MAPS + "?limit=4&continue=" + first["metadata"]["continue"])
    third = await ten.ok("GET", MAPS + "?limit=4&continue=" + second["metadata"]["continue"])
    assert names(second) + names(third) == [f"a{index}" for index in range(4, 10)]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


async def test_tables(api: Running) -> None:
    await api.ok("POST", PODS, pod("p", app="x"))
    answer = await api.request("GET", PODS, accept=TABLE)
    assert answer.headers["Content-Type"] == "application/json"
    table = answer.json
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    columns = [column["name"] for column in table["columnDefinitions"]]
    assert columns[:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    row = table["rows"][0]
    assert row["cells"][:4] == ["p", "0/1", "Pending", 0] or row["cells"][:4] == ["p", "0/1", "Pending", "0"]
    assert row["cells"][4] in ("0s", "1s", "2s")
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["labels"] == {"app": "x"}
    one = await api.ok("GET", PODS + "/p?includeObject=Object", accept=TABLE)
    assert one["rows"][0]["object"]["spec"]["containers"][0]["name"] == "c"
    none = await api.ok("GET", PODS + "?includeObject=None", accept=TABLE)
    assert none["rows"][0]["object"] is None
    old = await api.ok("GET", PODS, accept="application/json;as=Table;g=meta.k8s.io;v=v1beta1")
    assert old["apiVersion"] == "meta.k8s.io/v1beta1"


async def test_partial_objects(api: Running) -> None:
    await api.ok("POST", PODS, pod("p"))
    accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    assert set(await api.ok("GET", PODS + "/p", accept=accept)) == {"kind", "apiVersion", "metadata"}
    many = await api.ok("GET", PODS, accept=accept.replace("Metadata;", "MetadataList;"))
    assert (many["kind"], many["items"][0]["kind"]) == ("PartialObjectMetadataList", "PartialObjectMetadata")


async def test_what_cannot_be_made_is_406(api: Running) -> None:
    status = await api.refused(406, "GET", PODS, accept="application/xml")
    assert status["reason"] == "NotAcceptable"
    body = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    await api.refused(406, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body, accept=ONLY_TABLE)


@asynccontextmanager
async def watching(api: Running, path: str, accept: str = "application/json") -> AsyncIterator[Any]:
    """Gives a function that reads the next event."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with api.session.get(api.url + path, headers={"Accept": accept}, timeout=timeout) as response:
        assert response.status == 200, await response.text()

        async def read() -> Any:
            line = await response.content.readline()
            return msgspec.json.decode(line) if line else None

        yield read


async def test_watches(api: Running) -> None:
    first = await api.ok("POST", MAPS, config("a"))
    revision = first["metadata"]["resourceVersion"]
    async with watching(api, f"{MAPS}?watch=1&resourceVersion={revision}") as read:
        second = await api.ok("POST", MAPS, config("b"))
        assert await read() == {"type": "ADDED", "object": second}
        third = await api.ok("PATCH", MAPS + "/a", {"data": {"k": "2"}}, content_type=MERGE)
        assert await read() == {"type": "MODIFIED", "object": third}
        await api.ok("DELETE", MAPS + "/a")
        event = await read()
        assert event["type"] == "DELETED"
        assert event["object"]["data"] == {"k": "2"}
        assert int(event["object"]["metadata"]["resourceVersion"]) > int(third["metadata"]["resourceVersion"])


async def test_a_watch_without_a_revision_begins_with_what_is_there(ten: Running) -> None:
    async with watching(ten, MAPS + "?watch=true&labelSelector=half=1") as read:
        events = [await read() for _ in range(5)]
        assert {event["type"] for event in events} == {"ADDED"}
        assert sorted(event["object"]["metadata"]["name"] for event in events) == ["a1", "a3", "a5", "a7", "a9"]
        await ten.ok("PATCH", MAPS + "/a1", {"metadata": {"labels": {"half": "0"}}}, content_type=MERGE)
        assert (await read())["type"] == "DELETED"  # it has left the selection
        await ten.ok("PATCH", MAPS + "/a0", {"metadata": {"labels": {"half": "1"}}}, content_type=MERGE)
        assert (await read())["type"] == "ADDED"


INITIAL = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"


@pytest.mark.parametrize("accept", [
    "application/json", TABLE, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"])
async def test_a_watch_list(ten: Running, accept: str) -> None:
    """KEP-3157: the state as events, a bookmark that ends it, then what happens."""
    async with watching(ten, f"{MAPS}{INITIAL}&allowWatchBookmarks=true&labelSelector=half=1", accept) as read:
        def shown(event: Any) -> Any:
            return event["object"]["rows"][0]["object"] if accept == TABLE else event["object"]

        first = [await read() for _ in range(5)]
        assert sorted(shown(event)["metadata"]["name"] for event in first) == ["a1", "a3", "a5", "a7", "a9"]
        end = await read()
        assert end["type"] == "BOOKMARK"
        assert shown(end)["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(shown(end)["metadata"]["resourceVersion"]) >= 10
        await ten.ok("DELETE", MAPS + "/a3")
        assert (await read())["type"] == "DELETED"


async def test_watch_lists_without_bookmarks_and_without_the_state(ten: Running) -> None:
    async with watching(ten, f"{MAPS}{INITIAL}&fieldSelector=metadata.name=a3") as read:
        assert (await read())["type"] == "ADDED"
        await ten.ok("DELETE", MAPS + "/a3")
        assert (await read())["type"] == "DELETED", "no bookmark was asked for"
    without = INITIAL.replace("true", "false")
    async with watching(ten, f"{MAPS}{without}&allowWatchBookmarks=true") as read:
        await ten.ok("DELETE", MAPS + "/a4")
        event = await read()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "a4")


async def test_a_watch_of_one_object(ten: Running) -> None:
    async with watching(ten, MAPS + "?watch=1&fieldSelector=metadata.name=a4") as read:
        assert (await read())["object"]["metadata"]["name"] == "a4"
        await ten.ok("DELETE", MAPS + "/a3")
        await ten.ok("DELETE", MAPS + "/a4")
        event = await read()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "a4")


async def test_a_watch_ends_when_its_time_is_over(api: Running) -> None:
    async with watching(api, MAPS + "?watch=1&timeoutSeconds=1") as read:
        assert await read() is None


async def test_watched_tables(api: Running) -> None:
    async with watching(api, PODS + "?watch=1&resourceVersion=0", TABLE) as read:
        await api.ok("POST", PODS, pod("p"))
        event = await read()
        assert (event["type"], event["object"]["kind"]) == ("ADDED", "Table")
        assert event["object"]["rows"][0]["cells"][0] == "p"
        assert event["object"]["columnDefinitions"]
        await api.ok("PATCH", PODS + "/p", {"metadata": {"labels": {"a": "b"}}}, content_type=MERGE)
        assert (await read())["object"]["columnDefinitions"] == []


async def test_refused_watches(api: Running) -> None:
    status = await api.refused(422, "GET", MAPS + "?watch=1&sendInitialEvents=true")
    assert status["message"].endswith("resourceVersionMatch: Forbidden: sendInitialEvents requires setting "
                                      "resourceVersionMatch to NotOlderThan")
    await api.refused(400, "GET", MAPS + "?watch=1&resourceVersion=x")


async def test_a_client_that_leaves_ends_its_watch(api: Running) -> None:
    async with watching(api, MAPS + "?watch=1") as _:
        assert api.server.watches.count == 1
    async with asyncio.timeout(60):
        while api.server.watches.count:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def messages(api: Running, path: str, *protocols: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A watch as browsers open it."""
    async with (asyncio.timeout(60), aiohttp.ClientSession(connector=api.session.connector, connector_owner=False) as
                session, session.ws_connect(api.url + path, protocols=protocols) as socket):
        yield socket


async def test_a_watch_over_a_websocket(ten: Running) -> None:
    """Every event is a message of its own; the first of them come together."""
    async with messages(ten, MAPS + "?watch=1&labelSelector=half=1", "base64.binary.k8s.io") as socket:
        assert socket.protocol == "base64.binary.k8s.io"
        events = [await socket.receive_json() for _ in range(5)]
        assert sorted(event["object"]["metadata"]["name"] for event in events) == ["a1", "a3", "a5", "a7", "a9"]
        await socket.send_str("what a client says is passed over")
        await ten.ok("DELETE", MAPS + "/a3")
        assert (await socket.receive_json())["type"] == "DELETED"
        assert ten.server.watches.count == 1
        await socket.close()
        while ten.server.watches.count:
            await asyncio.sleep(0.01)


async def test_the_end_of_a_watch_over_a_websocket(api: Running) -> None:
    async with messages(api, MAPS + "?watch=1&timeoutSeconds=1") as socket:
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    async with messages(api, MAPS + "?watch=1") as socket:
        while not api.server.watches.count:
            await asyncio.sleep(0.01)
        api.server.watches.close()
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_refused_watches_over_websockets(api: Running) -> None:
    """What is wrong with the request is the handshake's answer; a revision that is too old is told inside."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with messages(api, MAPS + "?watch=1&resourceVersion=x"):
            pass
    assert refused.value.status == 400
    first = (await api.ok("POST", MAPS, config("a")))["metadata"]["resourceVersion"]
    api.parts.registry.of(CONFIGMAPS).cache._window.reset(int(first) + 1)
    async with messages(api, f"{MAPS}?watch=1&resourceVersion={first}") as socket:
        assert (await socket.receive_json())["type"] == "ERROR"
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_large_lists_come_whole(api: Running) -> None:
    body = config("x")
    for index in range(12):
        await api.ok("POST", MAPS, {**body, "metadata": {"name": f"big{index:02}"}, "data": {"k": "x" * 200_000}})
    listed = await api.ok("GET", MAPS)
    assert len(listed["items"]) == 12
    assert all(len(item["data"]["k"]) == 200_000 for item in listed["items"])
    table = await api.ok("GET", MAPS + "?includeObject=Object", accept=TABLE)
    assert len(table["rows"]) == 12


async def test_discovery(api: Running) -> None:
    accept = ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
              "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")
    answer = await api.request("GET", "/apis", accept=accept)
    assert answer.json["kind"] == "APIGroupDiscoveryList"
    assert {"g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"} <= set(
        answer.headers["Content-Type"].split(";"))
    unchanged = await api.request("GET", "/apis", accept=accept, headers={"If-None-Match": answer.headers["ETag"]})
    assert unchanged.code == 304
    assert (await api.ok("GET", "/api"))["kind"] == "APIVersions"
    assert (await api.ok("GET", "/apis/apps"))["preferredVersion"]["version"] == "v1"
    kinds = {item["name"] for item in (await api.ok("GET", "/api/v1"))["resources"]}
    assert {"pods", "pods/log", "pods/status", "namespaces/finalize"} <= kinds
    await api.refused(404, "GET", "/apis/nothing")
    await api.refused(404, "GET", "/apis/apps/v2")


async def test_openapi(api: Running) -> None:
    paths = (await api.ok("GET", "/openapi/v3"))["paths"]
    address = paths["apis/apps/v1"]["serverRelativeURL"]
    answer = await api.request("GET", address)
    assert answer.json["openapi"].startswith("3.0")
    assert "immutable" in answer.headers["Cache-Control"]
    moved = await api.request("GET", "/openapi/v3/apis/apps/v1?hash=old")
    assert (moved.code, moved.headers["Location"]) == (301, address)
    assert (await api.ok("GET", "/openapi/v2"))["swagger"] == "2.0"


@pytest.mark.parametrize(("method", "path", "code"), [
    ("GET", "/nothing", 404), ("GET", "/api/v1/nothing", 404), ("GET", "/apis/apps/v1/namespaces/default/pods", 404),
    ("GET", "/api/v1/namespaces/default/nodes", 404), ("POST", "/api/v1/pods", 405), ("PUT", MAPS, 405),
    ("POST", MAPS + "/a", 405), ("GET", PODS + "/p/nothing", 404), ("DELETE", PODS + "/p/status", 405),
    ("OPTIONS", MAPS, 405), ("TRACE", MAPS + "/a", 405), ("OPTIONS", "/api/v1/nothing", 404), ("OPTIONS", PODS, 405),
    ("TRACE", PODS + "/p/status", 405), ("TRACE", PODS + "/p/nothing", 404), ("OPTIONS", "/nothing", 404),
    ("OPTIONS", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 405),
    ("GET", PODS + "/p/exec", 404), ("GET", MAPS + "/a/b/c/d", 404), ("POST", "/healthz", 405),
    ("GET", "/api/v1/namespaces/%ff/configmaps/%00", 404), ("POST", "/nothing", 404), ("POST", "/apis/nothing", 404),
    ("PUT", "/apis/apps/v9", 404), ("POST", "/api", 405), ("DELETE", "/apis/apps/v1", 405), ("POST", "/version", 405),
    ("GET", "/readyz/nothing", 404), ("GET", "/readyz/etcd/nothing", 404), ("GET", "/livez/caches", 404),
])
async def test_paths_that_lead_nowhere(api: Running, method: str, path: str, code: int) -> None:
    await api.refused(code, method, path)


async def test_a_store_that_does_not_answer_is_not_ready(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: str) -> None:
        raise StoreError("disk I/O error")

    async def silent(_: str) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(health, "PATIENCE", 0.05)
    for fault, words in ((broken, "disk I/O error"), (silent, "no answer within 0.05 s")):
        monkeypatch.setattr(api.parts.registry.store, "get", fault)
        answer = await api.request("GET", "/readyz")
        assert (answer.code, answer.body.decode().splitlines()) == (500, [
            "[+]ping ok", "[-]etcd failed: reason withheld", "[+]caches ok", "readyz check failed"])
        alone = await api.request("GET", "/readyz/etcd")
        assert (alone.code, alone.body.decode()) == (500, f"internal server error: {words}")
        answer = await api.request("GET", "/livez")
        assert (answer.code, answer.body.decode().splitlines()) == (500, [
            "[+]ping ok", "[-]etcd failed: reason withheld", "livez check failed"])
        assert (await api.request("GET", "/livez?exclude=etcd")).body == b"ok"


async def test_a_writer_that_does_not_answer_is_not_alive(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await api.request("GET", "/livez/etcd")).body == b"ok"

    async def silent() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(health, "PATIENCE", 0.05)
    monkeypatch.setattr(api.parts.registry.store, "ping", silent)
    alone = await api.request("GET", "/livez/etcd")
    assert (alone.code, alone.body) == (500, b"internal server error: no answer within 0.05 s")
    assert (await api.request("GET", "/livez/ping")).body == b"ok"


async def test_health_and_version(api: Running) -> None:
    assert (await api.request("GET", "/healthz")).body == b"ok"
    verbose = (await api.request("GET", "/readyz?verbose")).body.decode()
    assert "[+]caches ok\n" in verbose
    assert verbose.endswith("readyz check passed\n")
    assert (await api.request("GET", "/readyz/etcd")).body == b"ok"
    left_out = (await api.request("GET", "/readyz?verbose&exclude=etcd&exclude=y&exclude=x")).body.decode()
    assert left_out.splitlines() == [
        "[+]ping ok", "[+]etcd excluded: ok", "[+]caches ok",
        'warn: some health checks cannot be excluded: no matches for "x","y"', "readyz check passed"]
    alive = (await api.request("GET", "/livez?verbose")).body.decode()
    assert alive.splitlines() == ["[+]ping ok", "[+]etcd ok", "livez check passed"]
    assert "/readyz/etcd" in (await api.ok("GET", "/"))["paths"]
    version = await api.ok("GET", "/version")
    assert (version["major"], version["minor"]) == ("1", "32")
    assert version["gitVersion"].startswith("v1.32.0+sampan-")
    assert "/apis/apps/v1" in (await api.ok("GET", "/"))["paths"]
    metrics = (await api.request("GET", "/metrics")).body.decode()
    assert 'apiserver_request_total{code="200"' in metrics
    assert "apiserver_request_duration_seconds_bucket" in metrics
