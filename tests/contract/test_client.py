"""What every client does: the fake, the one within the API server's process, and the one over HTTPS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from master.apiserver.app import ApiServer, server_tls
from master.apiserver.local import LocalClient
from master.main import ApiParts
from master.store.memory import MemoryStore
from sampan.api.errors import ApiError
from sampan.api.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    PartialObjectMetadata,
    Resource,
)
from sampan.api.types.core_v1 import ConfigMap, Namespace, Node, Pod, PodStatus, Service, ServicePort, ServiceSpec
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.fake import FakeClient
from sampan.client.http import HttpClient
from sampan.client.kubeconfig import Connection
from sampan.client.protocol import Client, DeleteOptions, Patch, WatchEvent
from sampan.loop.clock import FakeClock, SystemClock
from sampan.pki.cluster import ClusterPki
from tests.support.controllers import deployment, meta, pod, replica_set


@asynccontextmanager
async def _real(over_https: bool, directory: Path) -> AsyncIterator[Client]:
    store = MemoryStore()
    async with asyncio.TaskGroup() as group:
        parts = ApiParts.build(store, SystemClock(), "10.96.0.0/16")
        tasks = [group.create_task(parts.registry.run())]
        await parts.registry.ready()
        try:
            local = LocalClient(parts.registry, parts.writer)
            if not over_https:
                yield local
                return
            pki = ClusterPki(directory, ["127.0.0.1"])
            pki.ensure()
            tls = server_tls(*(str(pki.path(name)) for name in ("apiserver.crt", "apiserver.key", "ca.crt")))
            server = ApiServer(parts.registry, parts.writer, tls=tls, host="127.0.0.1", port=0)
            tasks.insert(0, group.create_task(server.run()))
            await server.started.wait()
            files = (pki.path(name).read_bytes() for name in ("ca.crt", "admin.crt", "admin.key"))
            async with HttpClient(Connection(f"https://127.0.0.1:{server.port}", *files)) as client:
                yield client
        finally:
            for task in tasks:
                task.cancel()
    await store.close()


@pytest.fixture(params=["fake", "local", "https"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    if request.param == "fake":
        fake = FakeClient(FakeClock())
        await fake.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="default")))
        yield fake
        return
    async with _real(request.param == "https", tmp_path / "pki") as real:
        await real.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="default")))
        yield real


def config(name: str, value: str = "1", **more: Any) -> ConfigMap:
    return ConfigMap(metadata=meta(name, **more), data={"value": value})


def bare_pod(name: str, **more: Any) -> Pod:
    result = pod(name, phase="", **more)
    return replace(result, metadata=replace(result.metadata, uid=""), status=PodStatus())


async def refused(call: Any, code: int, reason: str) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        await call
    assert (refusal.value.code, refusal.value.reason) == (code, reason)
    return refusal.value


async def test_create_and_get(client: Client) -> None:
    made = await client.create(CONFIGMAPS, config("a", labels={"x": "y"}))
    assert made.metadata.uid
    assert made.metadata.creation_timestamp is not None
    assert int(made.metadata.resource_version) > 0
    assert await client.get(CONFIGMAPS, "a", "default") == made
    error = await refused(client.create(CONFIGMAPS, config("a")), 409, "AlreadyExists")
    assert str(error) == 'configmaps "a" already exists'
    error = await refused(client.get(CONFIGMAPS, "b", "default"), 404, "NotFound")
    assert str(error) == 'configmaps "b" not found'


async def test_dry_run_stores_nothing(client: Client) -> None:
    made = await client.create(CONFIGMAPS, config("a"), dry_run=True)
    assert made.metadata.name == "a"
    await refused(client.get(CONFIGMAPS, "a", "default"), 404, "NotFound")


async def test_generated_names_differ(client: Client) -> None:
    nameless = ConfigMap(metadata=ObjectMeta(generate_name="web-", namespace="default"))
    names = {(await client.create(CONFIGMAPS, nameless)).metadata.name for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_lists_are_in_order_and_selected(client: Client) -> None:
    await client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="other")))
    for name, label in (("c", "x"), ("a", "x"), ("b", "y")):
        await client.create(CONFIGMAPS, config(name, labels={"kind": label}))
    await client.create(CONFIGMAPS, config("d", namespace="other", labels={"kind": "x"}))

    async def names(namespace: str = "", **options: Any) -> list[str]:
        return [item.metadata.name for item in (await client.list(CONFIGMAPS, namespace, **options)).items]

    assert await names("default") == ["a", "b", "c"]
    assert await names() == ["a", "b", "c", "d"]
    assert await names(label_selector="kind=x") == ["a", "c", "d"]
    assert await names("default", label_selector="kind!=x") == ["b"]
    assert await names(field_selector="metadata.name=d") == ["d"]
    assert await names(field_selector="metadata.namespace=other") == ["d"]
    await refused(client.list(CONFIGMAPS, label_selector="a in b"), 400, "BadRequest")


async def test_lists_come_in_pages(client: Client) -> None:
    for number in range(7):
        await client.create(CONFIGMAPS, config(f"c{number}"))
    found, token, revisions = [], "", set()
    for _ in range(4):
        page = await client.list(CONFIGMAPS, "default", limit=3, continue_token=token)
        found += [item.metadata.name for item in page.items]
        revisions.add(page.revision)
        token = page.continue_token
        if not token:
            break
    assert found == [f"c{number}" for number in range(7)]
    assert len(revisions) == 1


async def test_update_is_compare_and_set(client: Client) -> None:
    first = await client.create(CONFIGMAPS, config("a"))
    second = await client.update(CONFIGMAPS, replace(first, data={"value": "2"}))
    assert int(second.metadata.resource_version) > int(first.metadata.resource_version)
    error = await refused(client.update(CONFIGMAPS, replace(first, data={"value": "3"})), 409, "Conflict")
    assert str(error) == ('Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply '
                          "your changes to the latest version and try again")
    same = await client.update(CONFIGMAPS, second)
    assert same.metadata.resource_version == second.metadata.resource_version, "nothing changed, nothing is written"
    await refused(client.update(CONFIGMAPS, config("nobody")), 404, "NotFound")


async def test_status_and_spec_have_different_doors(client: Client) -> None:
    rs = await client.create(REPLICASETS, replace(
        replica_set(), status=replace(replica_set().status, replicas=7)))
    assert rs.status.replicas == 0
    assert rs.metadata.generation == 1
    changed = replace(rs, spec=replace(rs.spec, replicas=9), status=replace(rs.status, replicas=2,
                                                                            ready_replicas=1))
    rs = await client.update(REPLICASETS, changed, subresource="status")
    assert (rs.spec.replicas, rs.status.replicas, rs.metadata.generation) == (3, 2, 1)
    rs = await client.update(REPLICASETS, replace(rs, spec=replace(rs.spec, replicas=5),
                                                  status=replace(rs.status, replicas=8)))
    assert (rs.spec.replicas, rs.status.replicas, rs.metadata.generation) == (5, 2, 2)


async def test_patches(client: Client) -> None:
    made = await client.create(DEPLOYMENTS, deployment())
    found = await client.patch(DEPLOYMENTS, "web", Patch("merge", {"spec": {"replicas": 5}}), "default")
    assert (found.spec.replicas, found.metadata.generation) == (5, 2)
    found = await client.patch(DEPLOYMENTS, "web", Patch("json", [
        {"op": "replace", "path": "/spec/replicas", "value": 6}]), "default")
    assert found.spec.replicas == 6
    found = await client.patch(DEPLOYMENTS, "web", Patch("strategic", {"spec": {"template": {"spec": {"containers": [
        {"name": "side", "image": "side:1"}]}}}}), "default")
    assert found.spec.template.spec is not None
    assert {item.name: item.image for item in found.spec.template.spec.containers} == {
        "web": "web:1", "side": "side:1"}
    stale = Patch("merge", {"metadata": {"resourceVersion": made.metadata.resource_version, "labels": {"a": "b"}}})
    await refused(client.patch(DEPLOYMENTS, "web", stale, "default"), 409, "Conflict")
    mistaken = Patch("merge", {"metadata": {"uid": "somebody-else", "labels": {"a": "b"}}})
    with pytest.raises(ApiError) as refusal:
        await client.patch(DEPLOYMENTS, "web", mistaken, "default")
    assert refusal.value.code in (409, 422)
    await refused(client.patch(DEPLOYMENTS, "nobody", Patch("merge", {}), "default"), 404, "NotFound")


async def test_delete_with_preconditions(client: Client) -> None:
    made = await client.create(CONFIGMAPS, config("a"))
    error = await refused(client.delete(CONFIGMAPS, "a", "default", DeleteOptions(uid="other")), 409, "Conflict")
    assert "Precondition failed: UID in precondition: other, UID in object meta: " in str(error)
    await refused(client.delete(CONFIGMAPS, "a", "default", DeleteOptions(revision="1")), 409, "Conflict")
    await client.delete(CONFIGMAPS, "a", "default", DeleteOptions(uid=made.metadata.uid))
    await refused(client.delete(CONFIGMAPS, "a", "default"), 404, "NotFound")


async def test_finalizers_hold(client: Client) -> None:
    await client.create(CONFIGMAPS, config("a", finalizers=["example.com/hold"]))
    await client.delete(CONFIGMAPS, "a", "default")
    held = await client.get(CONFIGMAPS, "a", "default")
    assert held.metadata.deletion_timestamp is not None
    await client.patch(CONFIGMAPS, "a", Patch("merge", {"metadata": {"finalizers": None}}), "default")
    await refused(client.get(CONFIGMAPS, "a", "default"), 404, "NotFound")


@pytest.mark.parametrize(("propagation", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
async def test_propagation_leaves_it_to_the_garbage_collector(client: Client, propagation: Any,
                                                              finalizer: str) -> None:
    await client.create(REPLICASETS, replica_set())
    await client.delete(REPLICASETS, "web", "default", DeleteOptions(propagation=propagation))
    assert (await client.get(REPLICASETS, "web", "default")).metadata.finalizers == [finalizer]


async def test_pods_go_gracefully(client: Client) -> None:
    await client.create(PODS, bare_pod("waiting"))
    await client.delete(PODS, "waiting", "default")
    await refused(client.get(PODS, "waiting", "default"), 404, "NotFound")
    made = await client.create(PODS, bare_pod("running", node="n1"))
    assert made.status.phase == "Pending"
    await client.delete(PODS, "running", "default", DeleteOptions(20))
    going = await client.get(PODS, "running", "default")
    assert going.metadata.deletion_grace_period_seconds == 20
    assert going.metadata.deletion_timestamp is not None
    await client.delete(PODS, "running", "default", DeleteOptions(0))
    await refused(client.get(PODS, "running", "default"), 404, "NotFound")


async def test_binding(client: Client) -> None:
    await client.create(NODES, Node(metadata=ObjectMeta(name="n1")))
    await client.create(PODS, bare_pod("a"))
    target = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"},
              "target": {"kind": "Node", "name": "n1"}}
    await client.post(PODS, "a", "binding", target, "default")
    bound = await client.get(PODS, "a", "default")
    assert bound.spec.node_name == "n1"
    assert any(item.type == "PodScheduled" and item.status == "True" for item in bound.status.conditions)
    assert [item.metadata.name for item in (await client.list(PODS, field_selector="spec.nodeName=n1")).items] == ["a"]
    await refused(client.post(PODS, "a", "binding", target, "default"), 409, "Conflict")


async def test_a_namespace_ends_by_its_finalizer(client: Client) -> None:
    made = await client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="work")))
    assert made.spec.finalizers == ["kubernetes"]
    await client.delete(NAMESPACES, "work")
    going = await client.get(NAMESPACES, "work")
    assert going.status.phase == "Terminating"
    error = await refused(client.create(CONFIGMAPS, config("late", namespace="work")), 403, "Forbidden")
    assert [cause.reason for cause in error.causes] == ["NamespaceTerminating"]
    await client.update(NAMESPACES, replace(going, spec=replace(going.spec, finalizers=[])), subresource="finalize")
    await refused(client.get(NAMESPACES, "work"), 404, "NotFound")


async def test_collections_are_deleted(client: Client) -> None:
    for name, label in (("a", "x"), ("b", "y"), ("c", "x")):
        await client.create(CONFIGMAPS, config(name, labels={"kind": label}))
    await client.delete_collection(CONFIGMAPS, "default", label_selector="kind=x")
    assert [item.metadata.name for item in (await client.list(CONFIGMAPS, "default")).items] == ["b"]


async def test_metadata_alone(client: Client) -> None:
    await client.create(SERVICES, Service(metadata=meta("s", labels={"a": "b"}), spec=ServiceSpec(
        ports=[ServicePort(port=80)])))
    view: Resource[PartialObjectMetadata] = SERVICES.metadata_only()
    assert (await client.get(view, "s", "default")).metadata.labels == {"a": "b"}
    assert [item.metadata.name for item in (await client.list(view, "default")).items] == ["s"]
    changed = await client.patch(view, "s", Patch("merge", {"metadata": {"labels": {"c": "d"}}}), "default")
    assert changed.metadata.labels == {"a": "b", "c": "d"}
    await client.delete(view, "s", "default")


async def test_what_is_served(client: Client) -> None:
    served = {item.key: item for item in await client.server_resources()}
    assert served["", "pods"].namespaced
    assert not served["", "nodes"].namespaced
    assert served["apps", "deployments"].kind == "Deployment"
    assert {"delete", "list", "watch", "patch"} <= set(served["apps", "replicasets"].verbs)
    assert all(item.type is PartialObjectMetadata for item in served.values())


async def events(client: Client, count: int, **options: Any) -> list[WatchEvent[ConfigMap]]:
    """The next changes, bookmarks left out."""
    found: list[WatchEvent[ConfigMap]] = []
    async with asyncio.timeout(60), aclosing(client.watch(CONFIGMAPS, **options)) as watch:
        async for event in watch:
            if event.type != "BOOKMARK":
                found.append(event)
            if len(found) == count:
                break
    return found


def summary(found: list[WatchEvent[ConfigMap]]) -> list[tuple[str, str]]:
    return [(event.type, event.object.metadata.name if event.object else "") for event in found]


async def test_watch_from_a_list(client: Client) -> None:
    await client.create(CONFIGMAPS, config("a"))
    page = await client.list(CONFIGMAPS, "default")
    made = await client.create(CONFIGMAPS, config("b"))
    await client.update(CONFIGMAPS, replace(made, data={"value": "2"}))
    await client.delete(CONFIGMAPS, "a", "default")
    found = await events(client, 3, namespace="default", revision=page.revision)
    assert summary(found) == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]
    revisions = [int(event.revision) for event in found]
    assert revisions == sorted(revisions)
    assert revisions[0] > int(page.revision)
    assert all(event.object and event.object.metadata.resource_version == event.revision for event in found)
    rest = await events(client, 2, namespace="default", revision=found[0].revision)
    assert summary(rest) == summary(found)[1:]


async def test_watch_without_a_revision_begins_with_what_is_there(client: Client) -> None:
    for name in ("a", "b"):
        await client.create(CONFIGMAPS, config(name))
    assert summary(await events(client, 2, namespace="default")) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_watch_waits_for_news(client: Client) -> None:
    page = await client.list(CONFIGMAPS, "default")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(events(client, 1, namespace="default", revision=page.revision))
        await client.create(CONFIGMAPS, config("a"))
    assert summary(waiting.result()) == [("ADDED", "a")]


async def test_objects_enter_and_leave_a_selectors_view(client: Client) -> None:
    page = await client.list(CONFIGMAPS, "default")
    await client.create(CONFIGMAPS, config("a", labels={"show": "no"}))
    for value in ("yes", "no", "yes"):
        await client.patch(CONFIGMAPS, "a", Patch("merge", {"metadata": {"labels": {"show": value}}}), "default")
    await client.delete(CONFIGMAPS, "a", "default")
    found = await events(client, 4, namespace="default", revision=page.revision, label_selector="show=yes")
    assert [event.type for event in found] == ["ADDED", "DELETED", "ADDED", "DELETED"]


async def test_a_watch_ends_when_its_time_is_up(client: Client) -> None:
    page = await client.list(CONFIGMAPS, "default")
    async with asyncio.timeout(60), aclosing(client.watch(CONFIGMAPS, "default", revision=page.revision,
                                                          timeout_seconds=1)) as watch:
        assert [event async for event in watch if event.type != "BOOKMARK"] == []


async def test_a_broken_rule_names_the_field(client: Client) -> None:
    if isinstance(client, FakeClient):
        pytest.skip("the fake checks no rules")
    error = await refused(client.create(PODS, replace(bare_pod("a"), spec=replace(bare_pod("a").spec, containers=[]))),
                          422, "Invalid")
    assert error.causes[0].field == "spec.containers"
