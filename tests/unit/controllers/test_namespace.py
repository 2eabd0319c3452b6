"""Namespaces: their content goes before they do; each has what it needs from the start."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from master.controllers.namespace import NamespaceController, Remains, conditions, count_remains
from master.controllers.namespace_content import NamespaceContentController
from master.controllers.pods import find
from sampan.api import errors
from sampan.api.resources import CONFIGMAPS, NAMESPACES, PODS, SERVICEACCOUNTS, Resource
from sampan.api.times import Time
from sampan.api.types.core_v1 import ConfigMap, Namespace
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.fake import FakeClient
from sampan.client.protocol import DeleteOptions, Patch
from sampan.loop.clock import FakeClock
from tests.support.controllers import World, meta, pod

NOW = FakeClock().now()


async def _gone(world: World, name: str) -> bool:
    return name not in [item.metadata.name for item in (await world.client.list(NAMESPACES)).items]


async def test_a_deleted_namespace_empties_and_goes() -> None:
    world = World()
    async with world.running(NamespaceController):
        await world.client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="work")))
        for number in range(3):
            world.client.put(ConfigMap(metadata=meta(f"c{number}", namespace="work")))
        world.client.put(ConfigMap(metadata=meta("other")))
        running = world.client.put(pod("p", node="n1", ready=True))
        world.client.remove(PODS, "p", "default")
        world.client.put(replace(running, metadata=meta("p", namespace="work")))
        await world.client.delete(NAMESPACES, "work")
        await world.clock.settle(100)
        assert [item.metadata.name for item in (await world.client.list(CONFIGMAPS)).items] == ["other"]
        namespace = await world.client.get(NAMESPACES, "work")
        assert namespace.status.phase == "Terminating"
        remaining = find(namespace.status.conditions, "NamespaceContentRemaining")
        assert remaining is not None
        assert remaining.message == "Some resources are remaining: pods. has 1 resource instances"
        assert remaining.reason == "SomeResourcesRemain"
        with pytest.raises(errors.ApiError) as refusal:
            await world.client.create(CONFIGMAPS, ConfigMap(metadata=meta("late", namespace="work")))
        assert refusal.value.causes[0].reason == "NamespaceTerminating"
        await world.client.delete(PODS, "p", "work", DeleteOptions(0))  # the kubelet is done with it
        await world.settle()
        assert await _gone(world, "work")


async def test_what_was_let_in_just_before_the_deletion_goes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that saw the namespace alive may still be on its way into the store when the content is looked at."""
    world, update = World(), FakeClient.update

    async def late(self: FakeClient, resource: Resource[Any], obj: Any, *, subresource: str = "") -> Any:
        if subresource == "status" and not (await self.list(CONFIGMAPS, "work")).items:
            self.put(ConfigMap(metadata=meta("late", namespace="work")))
        return await update(self, resource, obj, subresource=subresource)

    monkeypatch.setattr(FakeClient, "update", late)
    async with world.running(NamespaceController):
        await world.client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="work")))
        await world.client.delete(NAMESPACES, "work")
        await world.settle()
        assert await _gone(world, "work")
        assert (await world.client.list(CONFIGMAPS)).items == []


def test_conditions_tell_what_holds_it() -> None:
    remains = Remains()
    count_remains(remains, CONFIGMAPS.metadata_only(), [ConfigMap(  # type: ignore[list-item] # only metadata counts
        metadata=ObjectMeta(name="a", finalizers=["example.com/hold"]))])
    remains.errors += ["secrets.: down", "pods.: {no}"]
    told = {item.type: item for item in conditions([], remains, NOW)}
    assert told["NamespaceFinalizersRemaining"].message == (
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances")
    assert told["NamespaceDeletionContentFailure"].message == (
        "Failed to delete all resource types, 2 remaining: pods.: {no}, secrets.: down")
    failed = {item.type: item for item in conditions([], Remains(discovery_error="no answer"), NOW)}
    assert failed["NamespaceDeletionDiscoveryFailure"].message == (
        "Discovery failed for some groups, 1 failing: no answer")
    assert told["NamespaceDeletionDiscoveryFailure"].reason == "ResourcesDiscovered"
    assert not remains.empty
    later = conditions(list(told.values()), Remains(), NOW.replace(hour=1))
    assert {item.status for item in later} == {"False"}
    assert find(later, "NamespaceContentRemaining").last_transition_time == Time.of(  # type: ignore[union-attr]
        NOW.replace(hour=1))
    assert find(later, "NamespaceDeletionDiscoveryFailure").last_transition_time == Time.of(  # type: ignore[union-attr]
        NOW)
    assert Remains().empty


async def test_every_namespace_gets_its_account_and_the_ca() -> None:
    world = World()
    world.client.put(Namespace(metadata=ObjectMeta(name="old")))
    async with world.running(lambda deps: NamespaceContentController(deps, "PEM")):
        await world.settle()
        world.client.put(Namespace(metadata=ObjectMeta(name="new")))
        await world.settle()
        for name in ("old", "new"):
            assert (await world.client.get(SERVICEACCOUNTS, "default", name)).metadata.name == "default"
            found = await world.client.get(CONFIGMAPS, "kube-root-ca.crt", name)
            assert found.data == {"ca.crt": "PEM"}
        await world.client.patch(CONFIGMAPS, "kube-root-ca.crt", Patch("merge", {"data": {"ca.crt": "x", "more": "y"}}),
                                 "new")
        await world.client.delete(SERVICEACCOUNTS, "default", "new")
        await world.settle()
        assert (await world.client.get(CONFIGMAPS, "kube-root-ca.crt", "new")).data == {"ca.crt": "PEM"}
        await world.client.get(SERVICEACCOUNTS, "default", "new")
