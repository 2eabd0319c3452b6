"""What a node may not write although it may write that kind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from master.apiserver.admission import MIRROR
from master.apiserver.authorization.restriction import NodeRestriction
from master.apiserver.entry import Entry
from master.apiserver.registry import Registry, Served
from master.apiserver.strategy import Context, User
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, LEASES, NODES, PODS, Resource
from tests.support.access import entry

Tree = dict[str, Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODE, ALICE = User("system:node:n1", ("system:nodes",)), User("alice", ("staff",))


@dataclass
class Kind:
    """A kind with the objects that there are of it."""

    resource: Resource[Any]
    entries: tuple[Entry, ...] = ()

    @property
    def cache(self) -> Kind:
        return self

    def peek(self, namespace: str, name: str) -> Entry | None:
        return next((item for item in self.entries if (item.namespace, item.name) == (namespace, name)), None)


class Kinds:
    """A registry in which node n1 is."""

    def of(self, resource: Resource[Any]) -> Kind:
        there = (entry({"metadata": {"name": "n1", "uid": "uid-n1"}}),) if resource is NODES else ()
        return Kind(resource, there)


async def attempt(verb: str, resource: Resource[Any], *objects: Tree, user: User = NODE, subresource: str = "") -> str:
    """The refusal's message, "" for none."""
    rule = NodeRestriction(cast("Registry", Kinds()))
    served = cast("Served", Kind(resource))
    try:
        await getattr(rule, verb)(served, *objects, Context(user, NOW, subresource=subresource))
    except ApiError as error:
        return error.message
    return ""


def mirror(*, owner: Tree | None = None, annotations: Tree | None = None, **spec: Any) -> Tree:
    """A mirror pod as a node may create it, but for what is given."""
    reference = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1", "controller": True}
    return {"metadata": {"name": "p", "annotations": {MIRROR: "x"} if annotations is None else annotations,
                         "ownerReferences": [{**reference, **(owner or {})}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], **spec}}


def mounting(**volume: Any) -> Tree:
    return mirror(volumes=[{"name": "v", **volume}])


TWO = mirror()
TWO["metadata"]["ownerReferences"] *= 2
NONE = mirror()
NONE["metadata"]["ownerReferences"] = []


@pytest.mark.parametrize(("pod", "why"), [
    (mirror(), ""),
    (mounting(emptyDir={}), ""),
    (mirror(annotations={}), 'pod does not have "kubernetes.io/config.mirror" annotation'),
    (mirror(nodeName="n2"), "can only create pods with spec.nodeName set to itself"),
    (mirror(nodeName=""), "can only create pods with spec.nodeName set to itself"),
    (NONE, "can only create pods with an owner reference set to itself"),
    (TWO, "can only create pods with a single owner reference set to itself"),
    (mirror(owner={"name": "n2"}), "can only create pods with an owner reference set to itself"),
    (mirror(owner={"kind": "Pod"}), "can only create pods with an owner reference set to itself"),
    (mirror(owner={"controller": None}), "can only create pods with a controller owner reference set to itself"),
    (mirror(owner={"blockOwnerDeletion": True}), "must not set blockOwnerDeletion on an owner reference"),
    (mirror(owner={"uid": "old"}), "node n1 UID mismatch: expected old got uid-n1"),
    (mirror(serviceAccountName="admin"), "can not create pods that reference a service account"),
    (mounting(secret={"secretName": "s"}), "can not create pods that reference secrets"),
    (mounting(configMap={"name": "c"}), "can not create pods that reference configmaps"),
    (mirror(containers=[{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]),
     "can not create pods that reference secrets"),
    (mounting(persistentVolumeClaim={"claimName": "c"}), "can not create pods that reference persistentvolumeclaims"),
])
async def test_mirror_pods(pod: Tree, why: str) -> None:
    said = await attempt("create", PODS, pod)
    assert why in said
    assert bool(said) is bool(why)
    assert await attempt("create", PODS, pod, user=ALICE) == "", "that is for nodes only"


def lease(name: str, namespace: str) -> Tree:
    return {"metadata": {"name": name, "namespace": namespace}}


@pytest.mark.parametrize(("made", "why"), [
    (lease("n1", "kube-node-lease"), ""),
    (lease("n1", "default"), 'can only access leases in the "kube-node-lease" system namespace'),
    (lease("n2", "kube-node-lease"), "can only access node lease with the same name as the requesting node"),
])
async def test_leases(made: Tree, why: str) -> None:
    said = await attempt("create", LEASES, made)
    assert why in said
    assert bool(said) is bool(why)


def node(name: str = "n1", labels: Tree | None = None, taints: list[Tree] | None = None,
         owners: list[Tree] | None = None) -> Tree:
    return {"metadata": {"name": name, **({"labels": labels} if labels else {}),
                         **({"ownerReferences": owners} if owners else {})},
            **({"spec": {"taints": taints}} if taints is not None else {})}


TAINT = {"key": "a", "effect": "NoSchedule"}


@pytest.mark.parametrize(("new", "old", "why"), [
    (node(), node(), ""),
    (node(taints=[]), node(), ""),
    (node(taints=[TAINT]), node(taints=[TAINT]), ""),
    (node(taints=[TAINT]), node(), "is not allowed to modify taints"),
    (node(), node(taints=[TAINT]), "is not allowed to modify taints"),
    (node(owners=[{"name": "x"}]), node(), "is not allowed to modify ownerReferences"),
    (node("n2"), node("n2"), 'is not allowed to modify node "n2"'),
    (node(labels={"team": "a"}), node(), ""),
    (node(labels={"node-restriction.kubernetes.io/a": "b"}), node(),
     "is not allowed to modify labels: node-restriction.kubernetes.io/a"),
    (node(), node(labels={"node-restriction.kubernetes.io/a": "b"}),
     "is not allowed to modify labels: node-restriction.kubernetes.io/a"),
])
async def test_its_node(new: Tree, old: Tree, why: str) -> None:
    said = await attempt("update", NODES, new, old)
    assert why in said
    assert bool(said) is bool(why)
    assert await attempt("update", NODES, new, old, user=ALICE) == ""


def pod(node_name: str = "n1", **labels: str) -> Tree:
    return {"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node_name}}


@pytest.mark.parametrize(("new", "old", "subresource", "why"), [
    (pod(), pod(), "status", ""),
    (pod(), pod(), "", 'unexpected operation "UPDATE", node "n1" can only create and delete mirror pods'),
    (pod(), pod(), "ephemeralcontainers", 'unexpected operation "UPDATE"'),
    (pod("n2"), pod("n2"), "status", "can only update pod status for pods with spec.nodeName set to itself"),
    (pod(app="b"), pod(app="a"), "status", "cannot update labels through pod status"),
])
async def test_its_pods(new: Tree, old: Tree, subresource: str, why: str) -> None:
    said = await attempt("update", PODS, new, old, subresource=subresource)
    assert why in said
    assert bool(said) is bool(why)


async def test_what_it_deletes() -> None:
    assert await attempt("delete", PODS, pod()) == ""
    assert "can only delete pods with spec.nodeName set to itself" in await attempt("delete", PODS, pod("n2"))
    assert await attempt("delete", NODES, node()) == ""
    assert 'is not allowed to modify node "n2"' in await attempt("delete", NODES, node("n2"))
    assert await attempt("delete", PODS, pod("n2"), user=ALICE) == ""


async def test_a_node_without_a_name_may_nothing() -> None:
    nameless = User("system:node:", ("system:nodes",))
    for verb, objects in (("create", [node()]), ("update", [node(), node()]), ("delete", [node()])):
        assert "could not determine node from user" in await attempt(verb, NODES, *objects, user=nameless)


async def test_other_kinds_are_others_business() -> None:
    config = {"metadata": {"name": "c", "namespace": "ns"}}
    assert await attempt("create", CONFIGMAPS, config) == ""
    assert await attempt("update", CONFIGMAPS, config, config) == ""
