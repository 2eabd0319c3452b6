"""Helpers for tests of the kinds' strategies."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from random import Random
from typing import Any

from master.apiserver.kinds import strategies
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts
from master.apiserver.kinds.table import Key
from master.apiserver.strategy import Context, Strategy, User

Tree = dict[str, Any]

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
USER = User("alice", ("dev", "system:authenticated"), "u-1")
POD: Key = ("", "pods")
SERVICE: Key = ("", "services")
DEPLOYMENT: Key = ("apps", "deployments")
REPLICASET: Key = ("apps", "replicasets")
REPLICATION_CONTROLLER: Key = ("", "replicationcontrollers")


def context(subresource: str = "", *, dry_run: bool = False) -> Context:
    """A request of USER at NOW."""
    return Context(USER, NOW, dry_run, subresource)


def strategy(key: Key) -> Strategy:
    """The strategy of a kind, over pools of its own."""
    return strategies(ClusterIPs(rng=Random(1)), NodePorts(rng=Random(1)))[key]


def pod(**spec: Any) -> Tree:
    """A small pod with these members in its spec."""
    return {"metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "nginx:1.27"}], **spec}}


def pod_with(**container: Any) -> Tree:
    """A small pod with these members in its container."""
    return pod(containers=[{"name": "c", "image": "nginx:1.27", **container}])


def template(**spec: Any) -> Tree:
    """A pod template with the label app=web."""
    return {"metadata": {"labels": {"app": "web"}}, "spec": pod(**spec)["spec"]}


def workload(**spec: Any) -> Tree:
    """A Deployment or ReplicaSet with these members in its spec."""
    return {"metadata": {"name": "w", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(), **spec}}


def service(**spec: Any) -> Tree:
    """A small Service with these members in its spec."""
    return {"metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [{"port": 80}], **spec}}


def made(key: Key, obj: Tree) -> Tree:
    """The object as it would be stored after a create, allocation apart."""
    rules = strategy(key)
    obj = deepcopy(obj)
    rules.default(obj)
    rules.prepare_create(obj, context())
    return obj


def create_errors(key: Key, obj: Tree) -> list[str]:
    """What is said about a new object."""
    return [str(error) for error in strategy(key).validate(made(key, obj), context())]


def update_errors(key: Key, old: Tree, new: Tree, subresource: str = "") -> list[str]:
    """What is said about a change, both objects as users write them."""
    rules = strategy(key)
    old, new = made(key, old), deepcopy(new)
    old["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"] = "1"
    rules.default(new)
    rules.prepare_update(new, old, context(subresource))
    found = [*rules.validate(new, context(subresource)), *rules.validate_update(new, old, context(subresource))]
    return list(dict.fromkeys(str(error) for error in found))
