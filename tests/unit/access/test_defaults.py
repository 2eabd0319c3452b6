"""The default roles, and how they are brought up to date."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from master.apiserver.authorization import defaults
from master.apiserver.authorization.reconcile import merged, wanted
from master.apiserver.authorization.rules import read_rules, uncovered
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts
from master.apiserver.kinds.table import strategies
from master.apiserver.strategy import Context, User
from sampan.api.resources import Resource

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
