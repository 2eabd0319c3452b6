"""The garbage collector: verdicts in a table, stories over the fake."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from master.controllers.garbage import GarbageCollector
from master.controllers.garbage_plan import FOREGROUND, ORPHAN, Verdict, blocking, is_orphaning, judge, owner_state
from sampan.api.resources import CONFIGMAPS, DEPLOYMENTS, NODES, PODS, REPLICASETS
from sampan.api.times import Time
from sampan.api.types.core_v1 import ConfigMap, Node
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.client.protocol import DeleteOptions, Propagation
from sampan.loop.clock import FakeClock
from tests.support.controllers import World, deployment, meta, pod, replica_set

NOW = Time.of(FakeClock().now())


def owner(uid: str, *, block: bool = False, kind: str = "ConfigMap", api: str = "v1",
          name: str = "") -> OwnerReference:
    return OwnerReference(api_version=api, kind=kind, name=name or uid, uid=uid, block_owner_deletion=block)


def config(name: str, *owners: OwnerReference, **more: Any) -> ConfigMap:
    return ConfigMap(metadata=meta(name, uid=name, owner_references=list(owners), **more))


A, B = owner("a"), owner("b")
WAITING_CHILD = config("child", owner("x"), deletion_timestamp=NOW, finalizers=[FOREGROUND])
VERDICTS: list[tuple[str, dict[str, Any], dict[str, Any], list[Any], Verdict]] = [
    ("a solid owner keeps it", {}, {"a": "solid", "b": "solid"}, [], Verdict()),
    ("a dangling one beside it is dropped", {}, {"a": "solid", "b": "dangling"}, [], Verdict(keep=(A,))),
    ("a waiting one beside it is dropped", {}, {"a": "waiting", "b": "solid"}, [], Verdict(keep=(B,))),
    ("no owner is left", {}, {"a": "dangling", "b": "dangling"}, [], Verdict(delete="Background")),
    ("its own finalizers say how", {"finalizers": [ORPHAN]}, {"a": "dangling", "b": "dangling"}, [],
     Verdict(delete="Orphan")),
    ("a waiting owner, no children", {}, {"a": "waiting", "b": "dangling"}, [], Verdict(delete="Background")),
    ("a waiting owner and children", {}, {"a": "waiting", "b": "waiting"}, [config("child")],
     Verdict(delete="Foreground")),
    ("a circle", {}, {"a": "waiting", "b": "waiting"}, [WAITING_CHILD], Verdict(delete="Foreground", unblock=True)),
]


@pytest.mark.parametrize(("more", "states", "dependents", "expected"), [item[1:] for item in VERDICTS],
                         ids=[item[0] for item in VERDICTS])
def test_verdicts(more: dict[str, Any], states: dict[str, Any], dependents: list[Any], expected: Verdict) -> None:
    assert judge(ObjectMeta(name="x", owner_references=[A, B], **more), states, dependents) == expected


def test_a_finalizer_alone_is_no_deletion() -> None:
    """Anybody may set one; what is not being deleted keeps its dependents."""
    for finalizer in (FOREGROUND, ORPHAN):
        living = ObjectMeta(name="x", finalizers=[finalizer])
        assert owner_state(living) == "solid"
        assert not is_orphaning(living)
    going = ObjectMeta(name="x", deletion_timestamp=NOW, finalizers=[FOREGROUND])
    assert owner_state(going) == "waiting"
    assert is_orphaning(replace(going, finalizers=[ORPHAN]))
    assert owner_state(replace(going, finalizers=[])) == "solid", "it goes by itself"
    assert owner_state(None) == "dangling"


def test_an_owner_waits_for_those_that_block_it_only() -> None:
    mine, free = config("mine", owner("a", block=True)), config("free", owner("a"), owner("b", block=True))
    assert blocking("a", [mine, free]) == [mine]
    assert blocking("b", [mine, free]) == [free]


def family(world: World) -> None:
    """A Deployment, its ReplicaSet, and that one's two pods; and a ConfigMap that owns nobody."""
    world.client.put(deployment())
    controller = OwnerReference(api_version="apps/v1", kind="Deployment", name="web", uid="d-1", controller=True,
                                block_owner_deletion=True)
    rs = replica_set("web-1")
    world.client.put(replace(rs, metadata=replace(rs.metadata, owner_references=[controller])))
    for name in ("p1", "p2"):
        child = pod(name, owner=rs)
        refs = [replace(item, block_owner_deletion=True) for item in child.metadata.owner_references]
        world.client.put(replace(child, metadata=replace(child.metadata, owner_references=refs)))
    world.client.put(config("bystander"))


async def left(world: World) -> set[str]:
    found: set[str] = set()
    for resource in (DEPLOYMENTS, REPLICASETS, PODS, CONFIGMAPS):
        found |= {item.metadata.name for item in (await world.client.list(resource.metadata_only())).items}
    return found


async def delete(world: World, propagation: Propagation) -> None:
    await world.client.delete(DEPLOYMENTS, "web", "default", DeleteOptions(propagation=propagation))
    await world.settle()


async def test_background() -> None:
    world = World()
    family(world)
    async with world.running(GarbageCollector):
        await world.settle()
        assert await left(world) == {"web", "web-1", "p1", "p2", "bystander"}
        assert world.client.count("get") == 0, "what the informers show needs no look-up"
        await delete(world, "Background")
        assert await left(world) == {"bystander"}


async def test_orphan() -> None:
    world = World()
    family(world)
    async with world.running(GarbageCollector):
        await world.settle()
        await delete(world, "Orphan")
        assert await left(world) == {"web-1", "p1", "p2", "bystander"}
        rs = await world.client.get(REPLICASETS, "web-1", "default")
        assert rs.metadata.owner_references == []
        child = await world.client.get(PODS, "p1", "default")
        assert child.metadata.owner_references[0].uid == "rs-1"


async def test_foreground_waits_for_the_pods() -> None:
    world = World()
    family(world)
    bound = await world.client.get(PODS, "p1", "default")
    world.client.put(replace(bound, spec=replace(bound.spec, node_name="n1")))
    async with world.running(GarbageCollector):
        await world.settle()
        await delete(world, "Foreground")
        assert await left(world) == {"web", "web-1", "p1", "bystander"}
        top = await world.client.get(DEPLOYMENTS, "web", "default")
        assert top.metadata.finalizers == [FOREGROUND]
        await world.client.delete(PODS, "p1", "default", DeleteOptions(0))
        await world.settle()
        assert await left(world) == {"bystander"}


async def test_absent_owners_and_those_of_other_namespaces() -> None:
    world = World()
    world.client.put(config("there"))
    world.client.put(config("orphaned", owner("never-was")))
    world.client.put(config("reborn", owner("old-uid", name="there")))
    world.client.put(config("half", owner("there"), owner("never-was")))
    world.client.put(ConfigMap(metadata=meta("stranger", namespace="elsewhere", owner_references=[owner("there")])))
    world.client.put(config("unknown-kind", owner("u", kind="Widget", api="example.com/v1")))
    world.client.put(config("of-a-node", owner("n-uid", kind="Node", name="n1")))
    world.client.put(Node(metadata=ObjectMeta(name="n1", uid="n-uid", owner_references=[owner("there")])))
    async with world.running(GarbageCollector):
        await world.settle()
        assert await left(world) == {"there", "half", "unknown-kind", "of-a-node"}
        half = await world.client.get(CONFIGMAPS, "half", "default")
        assert [item.uid for item in half.metadata.owner_references] == ["there"]
        assert (await world.client.list(NODES)).items, "a cluster-scoped object cannot be owned by a namespaced one"
        told = [message for _, reason, message in await world.told() if reason == "OwnerRefInvalidNamespace"]
        what = "ownerRef [v1/ConfigMap, namespace: elsewhere, name: there, uid: there]"
        assert told == [what + ' does not exist in namespace "elsewhere"']


async def test_a_dependent_made_after_its_owner_went() -> None:
    world = World()
    family(world)
    async with world.running(GarbageCollector):
        await world.settle()
        await delete(world, "Background")
        world.client.put(pod("late", owner=replica_set("web-1")))
        await world.settle()
        assert await left(world) == {"bystander"}


async def test_an_owner_that_is_not_seen_yet_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The informer of its kind may be behind that of the dependent's."""
    world = World()
    async with world.running(GarbageCollector):
        await world.settle()
        monkeypatch.setattr(world.controllers[0], "_find", lambda _: iter(()))
        world.client.put(config("there"))
        world.client.put(config("child", owner("there")))
        world.client.put(config("orphan", owner("nowhere")))
        await world.settle()
        assert await left(world) == {"there", "child"}


async def test_a_circle_ends() -> None:
    world = World()
    world.client.put(config("x", owner("y", block=True)))
    world.client.put(config("y", owner("x", block=True)))
    async with world.running(GarbageCollector):
        await world.settle()
        await world.client.delete(CONFIGMAPS, "x", "default", DeleteOptions(propagation="Foreground"))
        await world.settle()
        assert await left(world) == set()
