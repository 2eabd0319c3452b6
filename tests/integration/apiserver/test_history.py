"""Reading the past over HTTPS: revisions, pages that have expired, watches that come too late, bookmarks."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from master.apiserver import watch as watching
from master.store.sqlite import SqliteStore
from sampan.api.resources import CONFIGMAPS
from tests.support.apiserver import Running, api_server

MAPS = "/api/v1/namespaces/default/configmaps"
MERGE = "application/merge-patch+json"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


async def make(api: Running, *names: str) -> list[str]:
    """Create ConfigMaps; their revisions."""
    return [(await api.ok("POST", MAPS, {"metadata": {"name": name}}))["metadata"]["resourceVersion"]
            for name in names]


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


async def events(api: Running, query: str, count: int, accept: str = "application/json") -> list[Any]:
    """The first events of a watch."""
    async with api.session.get(f"{api.url}{MAPS}?watch=1&{query}", headers={"Accept": accept},
                               timeout=aiohttp.ClientTimeout(total=60)) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        return [msgspec.json.decode(await response.content.readline()) for _ in range(count)]


async def test_revisions_have_64_bits(tmp_path: Path) -> None:
    """Beyond what 32 bits hold, and JavaScript's numbers: strings, from the first write to the watch."""
    start = 2**53
    await (await SqliteStore.open(tmp_path / "state.db")).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (start,))
    async with api_server(tmp_path, "sqlite") as api:
        revisions = await make(api, "a", "b", "c")
        assert all(isinstance(revision, str) and int(revision) > start for revision in revisions)
        assert len(set(revisions)) == 3
        assert names(await api.ok("GET", f"{MAPS}?resourceVersionMatch=Exact&resourceVersion={revisions[1]}")) == [
            "a", "b"]
        [seen] = await events(api, f"resourceVersion={revisions[1]}", 1)
        found = seen["object"]["metadata"]
        assert (found["name"], found["resourceVersion"]) == ("c", revisions[2])
        page = await api.ok("GET", f"{MAPS}?limit=1")
        rest = await api.ok("GET", f"{MAPS}?limit=5&continue={page['metadata']['continue']}")
        assert names(page) + names(rest) == ["a", "b", "c"]
        stale = await api.refused(409, "PUT", MAPS + "/a", {"metadata": {"name": "a", "resourceVersion": revisions[1]}})
        assert "the object has been modified" in stale["message"]
        await api.ok("PUT", MAPS + "/a", {"metadata": {"name": "a", "resourceVersion": revisions[0]}})


async def test_a_list_at_a_revision(api: Running) -> None:
    revisions = await make(api, "a", "b", "c")
    await api.ok("DELETE", MAPS + "/a")
    exact = f"{MAPS}?resourceVersionMatch=Exact&resourceVersion="
    for index, revision in enumerate(revisions):
        listed = await api.ok("GET", exact + revision)
        assert names(listed) == ["a", "b", "c"][:index + 1]
        assert listed["metadata"]["resourceVersion"] == revision
    assert names(await api.ok("GET", f"{MAPS}?resourceVersion={revisions[0]}&limit=5")) == ["a"]  # as old clients ask
    for query in (f"resourceVersion={revisions[0]}", "resourceVersion=0", "",
                  f"resourceVersion={revisions[0]}&resourceVersionMatch=NotOlderThan"):
        assert names(await api.ok("GET", f"{MAPS}?{query}")) == ["b", "c"]


@pytest.mark.parametrize(("query", "code", "message"), [
    ("resourceVersion=x", 400, 'invalid resource version: resourceVersion: Invalid value: "x"'),
    ("resourceVersion=-1", 400, "invalid resource version"), ("continue=x&resourceVersion=4", 400, "not allowed when"),
    ("resourceVersionMatch=Exact", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
    ("resourceVersionMatch=Exact&resourceVersion=0", 422, '"exact" is forbidden for resourceVersion "0"'),
    ("resourceVersionMatch=X&resourceVersion=1", 422, 'Unsupported value: "X": supported values: "Exact", "NotOlder'),
    ("resourceVersionMatch=Exact&resourceVersion=1&continue=x", 422, "is forbidden when continue is provided"),
    ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
    ("watch=1&resourceVersionMatch=Exact&resourceVersion=1", 422, "forbidden for watch unless sendInitialEvents is"),
])
async def test_revisions_that_make_no_sense(api: Running, query: str, code: int, message: str) -> None:
    assert message in (await api.refused(code, "GET", f"{MAPS}?{query}"))["message"]


async def test_a_revision_yet_to_come(api: Running) -> None:
    api.parts.registry.of(CONFIGMAPS).cache._patience = 0.05
    for path in (MAPS, MAPS + "/a"):
        status = await api.refused(504, "GET", path + "?resourceVersion=99999")
        assert status["reason"] == "Timeout"
        assert status["details"]["causes"] == [{"reason": "ResourceVersionTooLarge",
                                                "message": "Too large resource version"}]


async def test_pages_whose_history_is_gone(api: Running) -> None:
    await make(api, "a", "b", "c", "d")
    first = await api.ok("GET", MAPS + "?limit=2")
    assert first["metadata"]["remainingItemCount"] == 2
    await api.ok("DELETE", MAPS + "/c")
    await make(api, "e")
    store = api.parts.registry.store
    await store.compact(store.revision)
    again = f"{MAPS}?limit=2&continue={first['metadata']['continue']}"
    status = await api.refused(410, "GET", again)
    assert status["reason"] == "Expired"
    assert status["message"].startswith("The provided continue parameter is too old to display a consistent list")
    token = status["metadata"]["continue"]  # the list may go on with what is there now
    rest = await api.ok("GET", f"{MAPS}?limit=2&continue={token}")
    assert names(rest) == ["d", "e"]
    assert rest["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    revision = first["metadata"]["resourceVersion"]
    status = await api.refused(410, "GET", f"{MAPS}?resourceVersionMatch=Exact&resourceVersion={revision}")
    assert status["message"] == "The resourceVersion for the provided list is too old."


async def test_a_watch_that_comes_too_late(api: Running) -> None:
    revision = (await make(api, "a", "b"))[0]
    api.parts.registry.of(CONFIGMAPS).cache._window.reset(int(revision) + 1)
    for accept in ("application/json", PARTIAL, TABLE):
        event, = await events(api, f"resourceVersion={revision}", 1, accept)
        status = event["object"]
        assert (event["type"], status["kind"], status["code"], status["reason"]) == ("ERROR", "Status", 410, "Expired")
        assert status["message"] == f"too old resource version: {revision} ({int(revision) + 1})"


async def test_bookmarks(api: Running) -> None:
    revision = (await make(api, "a"))[0]
    cache = api.parts.registry.of(CONFIGMAPS).cache
    for accept, kind in (("application/json", "ConfigMap"), (PARTIAL, "PartialObjectMetadata"), (TABLE, "Table")):
        async with api.session.get(f"{api.url}{MAPS}?watch=1&resourceVersion={revision}&allowWatchBookmarks=true",
                                   headers={"Accept": accept}) as response:
            await api.ok("PATCH", "/api/v1/namespaces/default", {"metadata": {"labels": {"kind": kind}}},
                         content_type=MERGE)  # the revision goes on, elsewhere
            async with api.session.get(f"{api.url}{MAPS}?watch=1&resourceVersion={revision}&timeoutSeconds=1") as plain:
                for watch in cache._watches:
                    if watch.bookmarks:
                        watch.mark()
                assert await plain.read() == b""  # who does not ask for them gets none
            event = msgspec.json.decode(await response.content.readline())
            assert (event["type"], event["object"]["kind"]) == ("BOOKMARK", kind)
            assert int(event["object"]["metadata"]["resourceVersion"]) > int(revision)
            assert not event["object"].get("rows")


async def test_the_last_bookmark_of_a_watch(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LAST_BOOKMARK", 99.9)
    revision = (await make(api, "a"))[0]
    await api.ok("PATCH", "/api/v1/namespaces/default", {"metadata": {"labels": {"x": "y"}}}, content_type=MERGE)
    query = f"resourceVersion={revision}&allowWatchBookmarks=true"
    async with api.session.get(f"{api.url}{MAPS}?watch=1&{query}&timeoutSeconds=100") as response:
        last = msgspec.json.decode(await response.content.readline())
    assert last["type"] == "BOOKMARK"
    assert int(last["object"]["metadata"]["resourceVersion"]) > int(revision)
    async with api.session.get(f"{api.url}{MAPS}?watch=1&{query}&timeoutSeconds=1") as response:
        assert await response.read() == b""  # too short for one


async def test_what_a_watch_shows_of_objects_that_leave(api: Running) -> None:
    made = await api.ok("POST", MAPS, {"metadata": {"name": "a", "labels": {"in": "yes"}}, "data": {"k": "1"}})
    revision = made["metadata"]["resourceVersion"]
    changed = await api.ok("PATCH", MAPS + "/a", {"metadata": {"labels": {"in": "no"}}, "data": {"k": "2"}},
                           content_type=MERGE)
    back = await api.ok("PATCH", MAPS + "/a", {"metadata": {"labels": {"in": "yes"}}}, content_type=MERGE)
    await api.ok("PATCH", MAPS + "/a", {"metadata": {"finalizers": ["a.b/c"]}}, content_type=MERGE)
    await api.ok("DELETE", MAPS + "/a")
    await api.ok("PATCH", MAPS + "/a", {"metadata": {"finalizers": None}}, content_type=MERGE)
    query = f"resourceVersion={revision}&labelSelector=in%3Dyes"
    seen = await events(api, query, 5)
    assert [event["type"] for event in seen] == ["DELETED", "ADDED", "MODIFIED", "MODIFIED", "DELETED"]
    left = seen[0]["object"]  # as it last matched, at the revision at which it left
    assert (left["data"], left["metadata"]["labels"]) == ({"k": "1"}, {"in": "yes"})
    assert left["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
    assert seen[1]["object"] == back
    assert seen[3]["object"]["metadata"]["deletionTimestamp"]
    revisions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert revisions == sorted(set(revisions))
    rows = await events(api, query, 5, TABLE)
    assert [event["type"] for event in rows] == [event["type"] for event in seen]
    assert [event["object"]["rows"][0]["cells"][0] for event in rows] == ["a"] * 5
    assert [bool(event["object"]["columnDefinitions"]) for event in rows] == [True, False, False, False, False]
    partial = await events(api, query, 5, PARTIAL)
    assert [set(event["object"]) for event in partial] == [{"kind", "apiVersion", "metadata"}] * 5
