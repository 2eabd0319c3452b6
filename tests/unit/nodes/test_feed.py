"""What a node is sent, decided over a client in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.nodes.feed import Feed, Version
from master.nodes.interest import map_entry, needs, same_entry
from master.nodes.world import WATCHED, World
from sampan.api import codec
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, NODES, PODS, Object, Resource
from sampan.api.types import core_v1, meta_v1
from sampan.client.fake import FakeClient
from sampan.client.informer import InformerFactory
from sampan.loop.clock import FakeClock
from sampan.nodeline import Key
from sampan.pb.node_pb2 import Change

RESOURCES = {resource.key: resource for resource in WATCHED}


def meta(name: str) -> meta_v1.ObjectMeta:
    return meta_v1.ObjectMeta(name=name, namespace="default")


def pod(name: str, node: str, *configs: str) -> core_v1.Pod:
    sources = [core_v1.EnvFromSource(config_map_ref=core_v1.ConfigMapEnvSource(name=name)) for name in configs]
    container = core_v1.Container(name="c", image="i", env_from=sources)
    return core_v1.Pod(metadata=meta(name), spec=core_v1.PodSpec(containers=[container], node_name=node or None))


def config(name: str, value: str = "") -> core_v1.ConfigMap:
    return core_v1.ConfigMap(metadata=meta(name), data={"v": value})


class Cluster:
    """The master's side, with informers that follow the client as soon as the loop runs."""

    def __init__(self) -> None:
        self.client = FakeClient(FakeClock())
        self.informers = InformerFactory(self.client, FakeClock())
        self.world = World(self.informers)

    async def fetch(self, key: Key) -> Object | None:
        try:
            found: Object = await self.client.get(RESOURCES[key.resource], key.name, key.namespace)
        except ApiError:
            return None
        return found

    def feed(self, node: str, held: Mapping[Key, Version] | None = None) -> Feed:
        return Feed(node, self.world, self.fetch, held or {})


class Agent:
    """What a node holds; checks the promise at every step."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.held: dict[Key, Version] = {}

    def take(self, change: Change) -> None:
        key = Key.read(change.key)
        if change.operation == Change.DELETE:
            self.held.pop(key, None)
            return
        self.held[key] = Version(change.uid, change.revision)
        if key.resource == PODS.key:
            for reference in needs(codec.decode(core_v1.Pod, change.object)):
                obj = self.cluster.world.find(reference)
                if obj is not None and int(obj.metadata.resource_version) < int(change.revision):
                    assert reference in self.held, f"{key} came before {reference}"

    def names(self, plural: str) -> set[str]:
        return {key.name for key in self.held if key.plural == plural}


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def test_references_of_a_pod() -> None:
    volumes = [
        core_v1.Volume(name="a", config_map=core_v1.ConfigMapVolumeSource(name="volume-cm")),
        core_v1.Volume(name="b", secret=core_v1.SecretVolumeSource(secret_name="volume-secret")),
        core_v1.Volume(name="c", projected=core_v1.ProjectedVolumeSource(sources=[
            core_v1.VolumeProjection(config_map=core_v1.ConfigMapProjection(name="projected-cm")),
            core_v1.VolumeProjection(secret=core_v1.SecretProjection(name="projected-secret"))])),
        core_v1.Volume(name="d", empty_dir=core_v1.EmptyDirVolumeSource())]
    env = [core_v1.EnvVar(name="A", value="x"),
           core_v1.EnvVar(name="B", value_from=core_v1.EnvVarSource(
               config_map_key_ref=core_v1.ConfigMapKeySelector(name="env-cm", key="k"))),
           core_v1.EnvVar(name="C", value_from=core_v1.EnvVarSource(
               secret_key_ref=core_v1.SecretKeySelector(name="env-secret", key="k")))]
    init = core_v1.Container(name="i", env_from=[
        core_v1.EnvFromSource(secret_ref=core_v1.SecretEnvSource(name="from-secret"))])
    spec = core_v1.PodSpec(
        containers=[core_v1.Container(name="c", env=env)], init_containers=[init], volumes=volumes,
        service_account_name="robot", image_pull_secrets=[core_v1.LocalObjectReference(name="pull")])
    found = needs(core_v1.Pod(metadata=meta("p"), spec=spec))
    assert {(key.plural, key.name) for key in found} == {
        ("configmaps", "volume-cm"), ("secrets", "volume-secret"), ("configmaps", "projected-cm"),
        ("secrets", "projected-secret"), ("configmaps", "env-cm"), ("secrets", "env-secret"),
        ("secrets", "from-secret"), ("serviceaccounts", "robot"), ("secrets", "pull")}
    assert {key.namespace for key in found} == {"default"}


def test_a_heartbeat_changes_no_map_entry() -> None:
    def node(ready: str, address: str, revision: str) -> core_v1.Node:
        status = core_v1.NodeStatus(conditions=[core_v1.NodeCondition(type="Ready", status=ready)],
                                    addresses=[core_v1.NodeAddress(type="InternalIP", address=address)])
        return core_v1.Node(metadata=meta_v1.ObjectMeta(name="n", resource_version=revision), status=status)

    entry = map_entry(node("True", "10.0.0.1", "1"))
    assert same_entry(entry, map_entry(node("Unknown", "10.0.0.1", "2")))
    assert not same_entry(entry, map_entry(node("True", "10.0.0.2", "2")))
    moved = node("True", "10.0.0.1", "1")
    moved.metadata.annotations["flannel.alpha.coreos.com/public-ip"] = "10.0.0.9"
    assert not same_entry(entry, map_entry(moved))
    assert map_entry(moved).metadata.annotations == moved.metadata.annotations


@pytest.mark.parametrize("held_before", [False, True])
async def test_catching_up_from_whatever_is_held(held_before: bool) -> None:
    cluster = Cluster()
    cluster.client.put(core_v1.Service(metadata=meta("svc")))
    cluster.client.put(config("c"))
    cluster.client.put(config("unused"))
    cluster.client.put(pod("mine", "n1", "c", "absent"))
    cluster.client.put(pod("theirs", "n2", "unused"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cluster.informers.run())
        await cluster.world.synced()
        agent = Agent(cluster)
        if held_before:
            old = Version("old", "1")
            agent.held = {Key("", "pods", "default", "gone"): old, Key("", "configmaps", "default", "c"): old,
                          Key("", "configmaps", "default", "unused"): old, Key("", "services", "default", "gone"): old}
        async for change in cluster.feed("n1", agent.held).catch_up():
            agent.take(change)
        assert agent.names("pods") == {"mine"}
        assert agent.names("configmaps") == {"c"}
        assert agent.names("services") == {"svc"}
        again = [change async for change in cluster.feed("n1", agent.held).catch_up()]
        assert again == []
        task.cancel()


async def test_a_node_hears_nothing_of_others_pods_and_what_these_refer_to() -> None:
    """Not even that they are there, or that they have gone."""
    cluster = Cluster()
    theirs, waits = cluster.client.put(pod("theirs", "n2", "c")), cluster.client.put(pod("waits", "", "c"))
    used = cluster.client.put(config("c"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cluster.informers.run())
        await cluster.world.synced()
        feed = cluster.feed("n1")
        keys = {Key("", "pods", "default", theirs.metadata.name), Key("", "pods", "default", waits.metadata.name),
                Key("", "configmaps", "default", used.metadata.name), Key("", "pods", "default", "never-was")}
        assert [change async for change in feed.catch_up()] == []
        assert [change async for change in feed.changes(keys)] == []
        cluster.client.remove(PODS, "theirs", "default")
        cluster.client.remove(CONFIGMAPS, "c", "default")
        await settle()
        assert [change async for change in feed.changes(keys)] == []
        task.cancel()


async def test_a_store_that_was_restored_from_a_backup_is_older_than_what_is_held() -> None:
    cluster = Cluster()
    stored = cluster.client.put(pod("mine", "n1", "c")), cluster.client.put(config("c", "old"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cluster.informers.run())
        await cluster.world.synced()
        keys = Key("", "pods", "default", "mine"), Key("", "configmaps", "default", "c")
        held = {key: Version(obj.metadata.uid, "1000") for key, obj in zip(keys, stored, strict=True)}
        feed = cluster.feed("n1", held)
        assert [Key.read(change.key) async for change in feed.catch_up()] == [keys[1], keys[0]]
        for later in (config("c", "new"), pod("mine", "n1", "c", "more")):
            changed = cluster.client.put(later)
            await settle()
            key = Key("", "pods" if isinstance(changed, core_v1.Pod) else "configmaps", "default",
                      changed.metadata.name)
            assert [change.revision async for change in feed.changes({key})] == [changed.metadata.resource_version]
        task.cancel()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 60))
def test_whatever_happens_the_node_ends_up_with_what_concerns_it(seed: int, steps: int) -> None:
    """Random histories with reconnects in between: nothing is missed, nothing stays, references come first."""
    asyncio.run(_history(random.Random(seed), steps))


async def _history(rng: random.Random, steps: int) -> None:
    cluster = Cluster()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cluster.informers.run())
        await cluster.world.synced()
        agent = Agent(cluster)
        dirty: set[Key] = set()
        cluster.world.listen("n1", dirty.add)
        feed = cluster.feed("n1", agent.held)
        async for change in feed.catch_up():
            agent.take(change)
        for step in range(steps):
            _happen(rng, cluster.client, step)
            if rng.random() < 0.5:
                await settle()
            if rng.random() < 0.5:
                keys = set(dirty)
                dirty.clear()
                async for change in feed.changes(keys):
                    agent.take(change)
            if rng.random() < 0.1:
                dirty.clear()
                feed = cluster.feed("n1", agent.held)
                async for change in feed.catch_up():
                    agent.take(change)
        await settle()
        async for change in feed.changes(set(dirty)):
            agent.take(change)
        _check(cluster, agent)
        task.cancel()


def _happen(rng: random.Random, client: FakeClient, step: int) -> None:
    name = rng.choice("abc")
    match rng.randrange(6):
        case 0:
            client.put(config(name, str(step)))
        case 1:
            _remove(client, CONFIGMAPS, name)
        case 2 | 3:
            client.put(pod(name, rng.choice(("n1", "n1", "n2", "")), *rng.sample("abc", rng.randrange(3))))
        case 4:
            _remove(client, PODS, name)
        case _:
            client.put(core_v1.Service(metadata=meta(name)))


def _remove(client: FakeClient, resource: Resource[Any], name: str) -> None:
    with contextlib.suppress(ApiError, KeyError):
        client.remove(resource, name, "default")


def _check(cluster: Cluster, agent: Agent) -> None:
    world = cluster.world
    mine = world.pods("n1")
    wanted = set(world.everywhere()) | set(mine)
    for key in mine:
        found = world.get(PODS, key.name, key.namespace)
        assert found is not None
        wanted |= {reference for reference in needs(found) if world.find(reference) is not None}
    assert set(agent.held) == wanted
    for key, version in agent.held.items():
        obj = world.find(key)
        assert obj is not None
        assert version == Version(obj.metadata.uid, obj.metadata.resource_version)


async def test_other_nodes_heartbeats_are_not_heard_of() -> None:
    cluster = Cluster()
    stored = cluster.client.put(core_v1.Node(metadata=meta_v1.ObjectMeta(name="n2")))
    cluster.client.put(core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1")))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cluster.informers.run())
        await cluster.world.synced()
        heard: dict[str, set[Key]] = {"n1": set(), "n2": set()}
        for name, keys in heard.items():
            cluster.world.listen(name, keys.add)
        ready = core_v1.NodeCondition(type="Ready", status="True")
        cluster.client.put(core_v1.Node(metadata=stored.metadata, status=core_v1.NodeStatus(conditions=[ready])))
        await settle()
        key = Key(*NODES.key, "", "n2")
        assert heard == {"n1": set(), "n2": {key}}
        task.cancel()
