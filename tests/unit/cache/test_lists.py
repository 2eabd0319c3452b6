"""Lists out of the watch cache: revisions, pages, selectors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from master.apiserver import keys, paging
from master.apiserver.cache import ResourceCache
from master.apiserver.entry import Entry
from master.store.memory import MemoryStore
from sampan.api.errors import ApiError
from sampan.api.resources import EVENTS, NODES, PODS
from tests.support.cache import Writer, running


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore(unversioned=[keys.prefix(EVENTS)])


@pytest.fixture
async def writer(store: MemoryStore) -> Writer:
    return Writer(store)


@pytest.fixture
async def cache(store: MemoryStore) -> AsyncIterator[ResourceCache]:
    async with running(store, patience=0.05) as cache:
        yield cache


def names(entries: object) -> list[str]:
    assert isinstance(entries, list)
    return [f"{entry.namespace}/{entry.name}" if entry.namespace else entry.name for entry in entries]


def labelled(key: str, text: str) -> object:
    def match(entry: Entry) -> bool:
        return entry.labels.get(key) == text
    return match


async def test_an_empty_list(cache: ResourceCache) -> None:
    found = await cache.list()
    assert (found.entries, found.revision, found.continue_token, found.remaining) == ([], 0, "", None)
    assert msgspec.json.decode(found.encode("v1", "PodList")) == {
        "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "0"}, "items": []}


async def test_lists_are_in_key_order_and_carry_the_stores_revision(cache: ResourceCache, writer: Writer) -> None:
    for path in ("b/1", "a/2", "a-b/1", "a/1"):
        await writer.put(path)
    last = await writer.elsewhere()
    found = await cache.list()
    assert names(found.entries) == ["a-b/1", "a/1", "a/2", "b/1"]
    assert found.revision == last == 5
    assert names((await cache.list("a")).entries) == ["a/1", "a/2"]
    assert (await cache.list("none")).entries == []


async def test_kinds_without_namespaces(store: MemoryStore) -> None:
    writer = Writer(store, NODES)
    async with running(store, NODES) as cache:
        await writer.put("n1")
        assert names((await cache.list()).entries) == ["n1"]
        assert names((await cache.list("ignored")).entries) == ["n1"]
        entry = await cache.get("", "n1")
        assert entry is not None
        assert entry.fields == {"metadata.name": "n1"}


async def test_the_list_is_the_objects_own_bytes(cache: ResourceCache, writer: Writer) -> None:
    records = [await writer.put("a/1"), await writer.put("a/2")]
    body = (await cache.list()).encode("v1", "PodList")
    assert body.endswith(b',"items":[%b,%b]}' % (records[0].value, records[1].value))
    items = msgspec.json.decode(body)["items"]
    assert [item["metadata"]["resourceVersion"] for item in items] == ["1", "2"]


async def test_reads_see_the_writes_before_them(cache: ResourceCache, writer: Writer) -> None:
    for number in range(5):
        record = await writer.put("a/1", number=number)
        entry = await cache.get("a", "1")
        assert entry is not None
        assert (entry.raw, entry.revision) == (record.value, record.revision)
    await writer.remove("a/1")
    assert await cache.get("a", "1") is None


async def test_get_at_a_revision(cache: ResourceCache, writer: Writer) -> None:
    record = await writer.put("a/1")
    for revision in (str(record.revision), "0"):
        entry = await cache.get("a", "1", revision=revision)
        assert entry is not None
        assert entry.revision == record.revision
    with pytest.raises(ApiError) as error:
        await cache.get("a", "1", revision="7")
    assert (error.value.code, str(error.value)) == (504, "Timeout: Too large resource version: 7, current: 1")
    assert error.value.causes[0].reason == "ResourceVersionTooLarge"


async def test_labels_fields_and_trees_are_read_from_the_bytes(store: MemoryStore) -> None:
    def fields(tree: dict[str, object]) -> dict[str, str]:
        return {"kind": str(tree["kind"])}
    async with running(store, fields=fields) as cache:
        await Writer(store).put("a/1", app="x")
        entry = await cache.get("a", "1")
        assert entry is not None
        assert entry.labels == {"app": "x"}
        assert entry.fields == {"metadata.name": "1", "metadata.namespace": "a", "kind": "Pod"}
        assert entry.tree["metadata"]["resourceVersion"] == "1"
        assert entry.tree is entry.tree
        assert entry.decode() is not entry.decode()


async def test_selected_lists(cache: ResourceCache, writer: Writer) -> None:
    for number in range(10):
        await writer.put(f"a/{number}", even=number % 2 == 0)
    match = labelled("even", "True")
    found = await cache.list(match=match)  # type: ignore[arg-type]
    assert names(found.entries) == ["a/0", "a/2", "a/4", "a/6", "a/8"]
    first = await cache.list(match=match, limit=3)  # type: ignore[arg-type]
    assert (names(first.entries), first.remaining) == (["a/0", "a/2", "a/4"], None)
    rest = await cache.list(match=match, limit=3, continue_token=first.continue_token)  # type: ignore[arg-type]
    assert (names(rest.entries), rest.continue_token) == (["a/6", "a/8"], "")


@pytest.mark.parametrize("namespace", ["", "a"])
async def test_pages_show_one_revision_whatever_happens_meanwhile(
        cache: ResourceCache, writer: Writer, namespace: str) -> None:
    for number in range(7):
        await writer.put(f"a/{number}", round=1)
    listed = await cache.list(namespace, limit=3)
    assert (listed.revision, listed.remaining) == (7, 4)
    assert listed.metadata()["remainingItemCount"] == 4
    entries, pages = list(listed.entries), 1
    while listed.continue_token:
        await writer.remove(f"a/{6 - pages}")
        await writer.put("a/0", round=2)
        await writer.put(f"a/3{pages}", round=2)
        listed = await cache.list(namespace, limit=3, continue_token=listed.continue_token)
        assert listed.revision == 7
        entries += listed.entries
        pages += 1
    assert pages == 3
    assert [entry.name for entry in entries] == list("0123456")
    assert {entry.labels["round"] for entry in entries} == {"1"}
    assert listed.remaining is None


async def test_a_token_may_be_used_with_another_limit(cache: ResourceCache, writer: Writer) -> None:
    for number in range(5):
        await writer.put(f"a/{number}")
    listed = await cache.list(limit=2)
    assert names((await cache.list(continue_token=listed.continue_token)).entries) == ["a/2", "a/3", "a/4"]
    assert (await cache.list(limit=5)).continue_token == ""


async def test_an_expired_token_offers_one_to_go_on_with(cache: ResourceCache, writer: Writer) -> None:
    for number in range(5):
        await writer.put(f"a/{number}")
    listed = await cache.list(limit=2)
    await writer.remove("a/3")
    await writer.put("a/9")
    await writer.store.compact(writer.store.revision)
    with pytest.raises(ApiError) as error:
        await cache.list(limit=2, continue_token=listed.continue_token)
    status = error.value.status()
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert status["message"].startswith("The provided continue parameter is too old to display a consistent list")
    token = status["metadata"]["continue"]
    second = await cache.list(limit=2, continue_token=token)
    assert (names(second.entries), second.revision) == (["a/2", "a/4"], 7)
    await writer.elsewhere()
    last = await cache.list(limit=2, continue_token=second.continue_token)
    assert (names(last.entries), last.revision) == (["a/9"], 7)


async def test_lists_at_exactly_a_revision(cache: ResourceCache, writer: Writer) -> None:
    await writer.put("a/1")
    await writer.put("a/2")
    await writer.remove("a/1")
    expected: dict[str, list[str]] = {"1": ["a/1"], "2": ["a/1", "a/2"], "3": ["a/2"]}
    for revision, there in expected.items():
        found = await cache.list(revision=revision, revision_match="Exact")
        assert (names(found.entries), found.revision) == (there, int(revision))
        limited = await cache.list(revision=revision, limit=9)  # the older form of Exact
        assert names(limited.entries) == there
    newest = await cache.list(revision="1")
    assert (names(newest.entries), newest.revision) == (["a/2"], 3)
    assert (await cache.list(revision="1", revision_match="NotOlderThan", limit=9)).revision == 3


async def test_what_the_window_has_forgotten_comes_from_the_stores_history(store: MemoryStore) -> None:
    writer = Writer(store)
    async with running(store, window=3) as cache:
        for number in range(9):
            await writer.put(f"a/{number}")
        found = await cache.list(revision="4", revision_match="Exact")
        assert (len(found.entries), found.revision) == (4, 4)
        await store.compact(6)
        with pytest.raises(ApiError) as error:
            await cache.list(revision="4", revision_match="Exact")
        assert (error.value.code, str(error.value)) == (
            410, "The resourceVersion for the provided list is too old.")


async def test_pages_of_kinds_without_history_come_from_the_window(store: MemoryStore) -> None:
    writer = Writer(store, EVENTS)
    async with running(store, EVENTS, window=4) as cache:
        for number in range(4):
            await writer.put(f"a/{number}")
        listed = await cache.list(limit=2)
        await writer.remove("a/3")
        second = await cache.list(limit=2, continue_token=listed.continue_token)
        assert names(second.entries) == ["a/2", "a/3"]
        for number in range(10):
            await writer.put(f"a/new{number}")
        await cache.list()
        with pytest.raises(ApiError) as error:
            await cache.list(limit=2, continue_token=listed.continue_token)
        assert error.value.is_expired


BAD_REVISION = ('invalid resource version: resourceVersion: Invalid value: "{0}": strconv.ParseUint: parsing "{0}": '
                "{1}")
NO_VERSION = "invalid continue token: continue key is not valid: server does not recognize this encoded version "
NO_REVISION = ('ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is '
               "forbidden unless resourceVersion is provided")


@pytest.mark.parametrize(("options", "code", "message"), [
    ({"revision": "x"}, 400, BAD_REVISION.format("x", "invalid syntax")),
    ({"revision": "-1"}, 400, BAD_REVISION.format("-1", "invalid syntax")),
    ({"revision": "9" * 30}, 400, BAD_REVISION.format("9" * 30, "value out of range")),
    ({"continue_token": "!!"}, 400, None),
    ({"continue_token": "e30"}, 400, NO_VERSION),
    ({"continue_token": paging.encode_token("a", 1), "revision": "1"}, 400,
     "specifying resource version is not allowed when using continue"),
    ({"revision_match": "Exact"}, 422, NO_REVISION),
    ({"revision_match": "Exact", "revision": "0"}, 422, None),
    ({"revision_match": "Newest", "revision": "1"}, 422, None),
    ({"revision": "99", "revision_match": "Exact"}, 504, "Timeout: Too large resource version: 99, current: 0"),
])
async def test_refusals(cache: ResourceCache, options: dict[str, str], code: int, message: str | None) -> None:
    with pytest.raises(ApiError) as error:
        await cache.list(**options)  # type: ignore[arg-type]
    assert error.value.code == code
    assert message is None or str(error.value) == message


async def test_a_read_waits_for_its_revision(cache: ResourceCache, writer: Writer) -> None:
    await cache.list()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(cache.list(revision="2"))
        await asyncio.sleep(0)
        await writer.put("a/1")
        assert (await cache.list()).revision == 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reading.done()
        await writer.put("a/2")
        assert (await reading).revision == 2


async def test_a_read_that_gave_up_leaves_nothing_behind(cache: ResourceCache) -> None:
    await cache.list()
    with pytest.raises(ApiError):
        await cache.list(revision="1000")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(cache.get("a", "1", revision="1000"))
        await asyncio.sleep(0)
        assert len(cache._waiters) == 1
        reading.cancel()
    assert cache._waiters == []


async def test_a_cache_that_is_not_filled_yet_says_so(store: MemoryStore) -> None:
    cache = ResourceCache(PODS, store, None, patience=0.01)  # type: ignore[arg-type]
    assert cache.revision == -1
    with pytest.raises(ApiError) as error:
        await cache.list(revision="0")
    assert (error.value.code, str(error.value)) == (429, "storage is (re)initializing")
