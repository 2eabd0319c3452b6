"""Informers over the fake: nothing lost, nothing twice, nothing out of order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.api import errors
from sampan.api.resources import CONFIGMAPS, PODS, PartialObjectMetadata
from sampan.api.types.core_v1 import ConfigMap
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.fake import Call, FakeClient
from sampan.client.informer import Informer, InformerFactory
from sampan.client.protocol import Page, WatchEvent
from sampan.loop.clock import FakeClock


def config(name: str, value: str = "", **meta: object) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default", **meta), data={"value": value})


@asynccontextmanager
async def running(informer: Informer[ConfigMap]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        yield
        task.cancel()


class Seen:
    """What a handler heard, as (verb, name, value)."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []

    def __call__(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        verb = "add" if old is None else "delete" if new is None else "update"
        obj = new or old
        assert obj is not None
        self.heard.append((verb, obj.metadata.name, obj.data["value"]))


async def test_lists_then_follows() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    client.put(config("a", "1"))
    informer, seen = Informer(client, CONFIGMAPS, clock), Seen()
    informer.add_handler(seen)
    assert not informer.synced
    async with running(informer):
        await informer.wait_synced()
        client.put(config("a", "2"))
        client.put(config("b", "1"))
        client.remove(CONFIGMAPS, "a", "default")
        await clock.settle()
        assert seen.heard == [("add", "a", "1"), ("update", "a", "2"), ("add", "b", "1"), ("delete", "a", "2")]
        assert informer.get("a", "default") is None
        assert [obj.metadata.name for obj in informer.all()] == ["b"]
        assert informer.revision == client.revision
        late = Seen()
        informer.add_handler(late)
        assert late.heard == [("add", "b", "1")]


async def test_a_dropped_watch_is_resumed_without_a_list() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    informer, seen = Informer(client, CONFIGMAPS, clock), Seen()
    informer.add_handler(seen)
    async with running(informer):
        await informer.wait_synced()
        await clock.settle()
        client.drop_watches()
        client.put(config("a", "1"))
        await clock.advance(5)
        client.put(config("a", "2"))
        await clock.advance(5)
    assert seen.heard == [("add", "a", "1"), ("update", "a", "2")]
    assert client.count("list") == 1
    assert client.count("watch") == 2


async def test_expiry_leads_to_a_new_list_that_tells_only_differences() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    for name in ("kept", "changed", "gone", "reborn"):
        client.put(config(name, "1"))
    informer, seen = Informer(client, CONFIGMAPS, clock, rng=random.Random(1)), Seen()
    async with running(informer):
        await informer.wait_synced()
        informer.add_handler(seen)
        seen.heard.clear()
        client.on_call = _refuse_watches
        client.drop_watches()
        await clock.settle()
        client.put(config("changed", "2"))
        client.remove(CONFIGMAPS, "gone", "default")
        client.remove(CONFIGMAPS, "reborn", "default")
        client.put(config("reborn", "2"))
        client.put(config("new", "1"))
        client.compact()
        client.on_call = None
        await clock.advance(120)
        assert sorted(seen.heard) == [("add", "new", "1"), ("add", "reborn", "2"), ("delete", "gone", "1"),
                                      ("delete", "reborn", "1"), ("update", "changed", "2")]
        assert client.count("list") == 2


def _refuse_watches(call: Call) -> None:
    if call.verb == "watch":
        raise errors.unavailable("the server is away")


async def test_failures_are_spaced_out() -> None:
    clock = FakeClock()
    client = FakeClient(clock)

    def refuse(_: Call) -> None:
        raise errors.unavailable("down")

    client.on_call = refuse
    informer = Informer(client, CONFIGMAPS, clock)
    async with running(informer):
        await clock.advance(60)
        assert 5 < len(client.calls) < 15
        client.on_call = None
        await clock.advance(60)
        assert informer.synced


async def test_indexes_follow_changes() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    client.put(config("a", "x"))
    informer = Informer(client, CONFIGMAPS, clock)
    informer.add_indexer("value", lambda obj: [obj.data["value"]])
    async with running(informer):
        await informer.wait_synced()
        assert [obj.metadata.name for obj in informer.by_index("value", "x")] == ["a"]
        client.put(config("a", "y"))
        await clock.settle()
        assert informer.by_index("value", "x") == []
        assert len(informer.by_index("value", "y")) == 1
        informer.add_indexer("name", lambda obj: [obj.metadata.name])
        assert len(informer.by_index("name", "a")) == 1


async def test_a_faulty_handler_keeps_nobody_else_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    informer, seen = Informer(client, CONFIGMAPS, clock), Seen()

    def faulty(_: object, __: object) -> None:
        raise RuntimeError("a fault")

    informer.add_handler(faulty)
    informer.add_handler(seen)
    async with running(informer):
        await informer.wait_synced()
        client.put(config("a", "1"))
        await clock.settle()
    assert seen.heard == [("add", "a", "1")]
    assert "a handler failed" in caplog.text


async def test_the_factory_shares_and_starts_late_ones() -> None:
    clock = FakeClock()
    client = FakeClient(clock)
    factory = InformerFactory(client, clock)
    typed = factory.get(CONFIGMAPS)
    assert factory.get(CONFIGMAPS) is typed
    assert factory.get(CONFIGMAPS, namespace="default") is not typed
    assert factory.metadata(CONFIGMAPS) is typed
    assert factory.metadata(PODS).resource.type is PartialObjectMetadata
    async with asyncio.TaskGroup() as group:
        task = group.create_task(factory.run())
        await factory.wait_synced()
        late = factory.get(PODS)
        await late.wait_synced()
        task.cancel()


class Restored:
    """A server that is set back to what a backup holds: it has a watch from a revision that is yet to come wait, and
    says by bookmarks how far it is itself.
    """

    def __init__(self) -> None:
        self.page = Page([config("kept"), config("lost")], "100")
        self._restored = asyncio.Event()

    def restore(self) -> None:
        self.page = Page([config("kept")], "50")
        self._restored.set()

    async def list(self, *_: object, revision: str = "", **__: object) -> Page[ConfigMap]:
        if revision and int(revision) > int(self.page.revision):
            raise errors.ApiError(504, "Timeout", "Too large resource version")
        return self.page

    async def watch(self, *_: object, **__: object) -> AsyncIterator[WatchEvent[ConfigMap]]:
        yield WatchEvent("BOOKMARK", None, self.page.revision)
        await (asyncio.Event() if self._restored.is_set() else self._restored).wait()


async def test_a_server_that_was_restored_from_a_backup_is_listed_anew() -> None:
    clock, server = FakeClock(), Restored()
    client: Any = server
    informer = Informer(client, CONFIGMAPS, clock)
    async with running(informer):
        await clock.advance(5)
        assert (len(informer), informer.revision) == (2, 100)
        server.restore()
        await clock.advance(60)
        assert (len(informer), informer.revision) == (1, 50)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "remove", "drop", "compact", "wait"]), st.sampled_from("abc")),
                max_size=40))
def test_the_copy_always_ends_equal_to_the_server(steps: list[tuple[str, str]]) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        client = FakeClient(clock)
        informer = Informer(client, CONFIGMAPS, clock, rng=random.Random(0))
        states: dict[str, int] = {}

        def check(old: ConfigMap | None, new: ConfigMap | None) -> None:
            obj = new or old
            assert obj is not None
            name = obj.metadata.name
            assert (name in states) == (old is not None)
            if new is None:
                del states[name]
            else:
                assert int(new.metadata.resource_version) > states.get(name, 0)
                states[name] = int(new.metadata.resource_version)

        informer.add_handler(check)
        async with running(informer):
            for number, (step, name) in enumerate(steps):
                if step == "put":
                    client.put(config(name, str(number)))
                elif step == "remove":
                    client.remove(CONFIGMAPS, name, "default")
                elif step == "drop":
                    client.drop_watches()
                elif step == "compact":
                    client.compact()
                else:
                    await clock.settle(3)
            await clock.advance(200)
            truth = {obj.metadata.name: obj for obj in (await client.list(CONFIGMAPS)).items}
            assert {obj.metadata.name: obj for obj in informer.all()} == truth
            assert states == {name: int(obj.metadata.resource_version) for name, obj in truth.items()}

    asyncio.run(scenario())
