"""The default roles, and how they are brought up to date."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from master.apiserver.authorization import defaults
from master.apiserver.authorization.reconcile import DefaultRoles, merged, wanted
from master.apiserver.authorization.rules import read_rules, uncovered
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts
from master.apiserver.kinds.table import strategies
from master.apiserver.strategy import Context, User
from master.main import ApiParts
from master.store.memory import MemoryStore
from sampan.api.resources import NAMESPACES, Resource
from sampan.api.types.core_v1 import Namespace
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.loop.clock import FakeClock

Tree = dict[str, Any]
ALL = list(wanted())


@pytest.mark.parametrize(("resource", "tree"), ALL, ids=[f"{item.plural}-{tree['metadata']['name']}"
                                                         for item, tree in ALL])
def test_each_is_valid_as_it_stands(resource: Resource[Any], tree: Tree, anybody: Context) -> None:
    strategy = strategies(ClusterIPs(), NodePorts())[resource.key]
    made = copy.deepcopy(tree)
    strategy.default(made)
    assert list(strategy.validate(made, anybody)) == []
    assert tree["metadata"]["annotations"][defaults.AUTOUPDATE] == "true"
    assert tree["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults"


@pytest.fixture
def anybody() -> Context:
    from datetime import UTC, datetime

    return Context(User("x"), datetime(2026, 1, 1, tzinfo=UTC))


def test_names_are_there_once_and_bindings_have_their_roles() -> None:
    names = [(item.key, tree["metadata"]["name"]) for item, tree in ALL]
    assert len(set(names)) == len(names)
    roles = {tree["metadata"]["name"] for item, tree in ALL if "role" in item.plural and "roleRef" not in tree}
    assert {tree["roleRef"]["name"] for _, tree in ALL if "roleRef" in tree} <= roles


def role(*rules: Tree, **meta: Any) -> Tree:
    return {"metadata": {"name": "r", "labels": {"a": "b"}, "annotations": {defaults.AUTOUPDATE: "true"}, **meta},
            "rules": list(rules)}


GET = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
LIST = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}


def test_what_is_complete_is_left_alone() -> None:
    assert merged(role(GET), role(GET)) is None
    assert merged(role({**GET, "verbs": ["*"]}), role(GET, LIST)) is None
    assert merged(role(GET, LIST), role(GET)) is None  # an administrator's addition stays


def test_what_is_missing_comes() -> None:
    have = merged(role(GET, labels={"own": "1"}, annotations={}), role(GET, LIST))
    assert have is not None
    assert have["metadata"]["labels"] == {"own": "1", "a": "b"}
    assert have["metadata"]["annotations"] == {defaults.AUTOUPDATE: "true"}
    assert not uncovered(read_rules(have["rules"]), read_rules([GET, LIST]))
    assert merged(copy.deepcopy(have), role(GET, LIST)) is None


def test_who_wants_none_of_it_gets_none() -> None:
    assert merged(role(annotations={defaults.AUTOUPDATE: "false"}), role(GET)) is None


def test_subjects_and_selectors_are_completed() -> None:
    one, two = ({"kind": "User", "name": name} for name in ("a", "b"))
    ref = {"roleRef": {"kind": "ClusterRole", "name": "r"}}
    meta = {"metadata": {"name": "b", "labels": {}, "annotations": {}}}
    have = merged({**copy.deepcopy(meta), **ref, "subjects": [one]}, {**meta, **ref, "subjects": [two]})
    assert have is not None
    assert have["subjects"] == [one, two]
    rule = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}}
    have = merged({**copy.deepcopy(meta), "rules": [GET]}, {**meta, **rule})
    assert have is not None
    assert have["aggregationRule"] == rule["aggregationRule"]
    assert have["rules"] == [GET]


async def test_what_could_not_be_made_at_the_start_is_made_later() -> None:
    """On a full disk, say: here the namespace of some roles is not there yet."""
    clock = FakeClock()
    parts = ApiParts.build(MemoryStore(), clock, "10.96.0.0/16")
    roles = DefaultRoles(parts.registry, parts.writer)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        caches = group.create_task(parts.registry.run())
        assert not await roles.ensure()
        trying = group.create_task(roles.run())
        await clock.settle(100)
        assert not trying.done()
        for name in ("kube-system", "kube-public"):
            await parts.client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name=name)))
        while not trying.done():
            await clock.advance(30)
        assert await roles.ensure()
        caches.cancel()
