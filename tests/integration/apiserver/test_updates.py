"""What an update, a patch or a status may change, and that shared pools survive writes that come to nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from master.apiserver import keys
from master.store.protocol import RevisionConflict, StoreError
from sampan.api.resources import SERVICES
from tests.support.apiserver import Running, api_server

NS = "/api/v1/namespaces/default"
MAPS, SVCS = NS + "/configmaps", NS + "/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
JSON_PATCH, MERGE = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

LABELS = {"a": "b"}
DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "d"},
    "spec": {"selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}, "spec": {
        "containers": [{"name": "c", "image": "i"}]}}}}


@pytest.mark.parametrize(("change", "code", "message"), [
    ({"uid": "other"}, 409, "Precondition failed: UID in precondition: other"),
    ({"creationTimestamp": "2001-01-01T00:00:00Z"}, 422, "metadata.creationTimestamp: Invalid value: "),
    ({"creationTimestamp": None}, 200, ""),
    ({"deletionTimestamp": "2001-01-01T00:00:00Z"}, 422, "metadata.deletionTimestamp: Invalid value: "),
    ({"deletionGracePeriodSeconds": 5}, 422, "metadata.deletionGracePeriodSeconds: Invalid value: 5: field is imm"),
    ({"generation": 7}, 200, ""), ({"selfLink": "/x"}, 200, ""), ({"managedFields": []}, 200, ""),
    ({"namespace": None}, 200, ""), ({"namespace": "kube-system"}, 400, "the namespace of the provided object does"),
    ({"name": "b"}, 400, "the name of the object (b) does not match the name on the URL (a)"),
    ({"name": None}, 400, "the name of the object (a based on URL) was undeterminable: name must be provided"),
    ({"resourceVersion": "abc"}, 409, "the object has been modified"),
    ({"finalizers": ["x"]}, 422, 'metadata.finalizers[0]: Invalid value: "x": name is neither a standard finalizer'),
    ({"finalizers": ["orphan", "foregroundDeletion"]}, 422, "finalizer orphan and foregroundDeletion cannot be both"),
    ({"finalizers": ["a.b/c"]}, 200, ""),
])
async def test_metadata(tmp_path: Path, change: dict[str, Any], code: int, message: str) -> None:
    async with api_server(tmp_path) as api:
        made = await api.ok("POST", MAPS, {"metadata": {"name": "a"}})
        wanted = {key: value for key, value in {**made["metadata"], **change}.items() if value is not None}
        for method, body in (("PUT", {"metadata": wanted}), ("PATCH", {"metadata": change})):
            answer = await api.request(method, MAPS + "/a?dryRun=All", body,
                                       content_type=MERGE if method == "PATCH" else "application/json")
            assert answer.code == code, (method, answer.body)
            assert message in answer.json.get("message", "")
            if code == 200:
                same = ("uid", "creationTimestamp", "resourceVersion")
                assert [answer.json["metadata"][key] for key in same] == [made["metadata"][key] for key in same]
        assert await api.ok("GET", MAPS + "/a") == made


@pytest.mark.parametrize(("patch", "warnings"), [
    ([{"op": "add", "path": "/data", "value": {}, "more": 1}], ['json patch unknown field "[0].more"']),
    (b'[{"op":"add","path":"/x","path":"/data","value":{}}]', ['json patch duplicate field "[0].path"']),
    ([{"op": "add", "path": "/data", "value": {"more": "1"}}], []),
    (b'[{"op":"add","path":"/data","value":{"a":"1","a":"2"}}]', []),  # within values upstream does not look
    ([{"op": "add", "path": "/what", "value": 1}], ['unknown field "what"']),
])
async def test_strict_json_patches(tmp_path: Path, patch: Any, warnings: list[str]) -> None:
    async with api_server(tmp_path) as api:
        await api.ok("POST", MAPS, {"metadata": {"name": "a"}})
        answers = {mode: await api.request("PATCH", f"{MAPS}/a?dryRun=All&fieldValidation={mode}", patch,
                                           content_type=JSON_PATCH) for mode in ("Strict", "Warn", "Ignore")}
        quoted = ['299 - "' + text.replace('"', '\\"') + '"' for text in warnings]
        assert [answers[mode].warnings for mode in ("Warn", "Ignore")] == [quoted, []]
        assert answers["Ignore"].code == answers["Warn"].code == 200
        assert answers["Strict"].code == (422 if warnings else 200)
        if warnings:
            assert answers["Strict"].json["message"].endswith("strict decoding error: " + warnings[0])


async def test_json_patches_that_test_for_absence(api: Running) -> None:
    await api.ok("POST", MAPS, {"metadata": {"name": "a"}})
    absent = {"op": "test", "path": "/metadata/annotations", "value": None}
    add = {"op": "add", "path": "/metadata/annotations", "value": {"x": "y"}}
    await api.ok("PATCH", MAPS + "/a", [absent, add], content_type=JSON_PATCH)
    await api.refused(422, "PATCH", MAPS + "/a", [absent, add], content_type=JSON_PATCH)


@pytest.mark.parametrize("patch", [
    {"stringData": {"a": 1}}, [{"op": "replace", "path": "/data/password", "value": 1}], {"kind": "Pod"}])
async def test_a_patch_that_makes_no_object_is_shown_without_the_object(api: Running, patch: Any) -> None:
    await api.ok("POST", NS + "/secrets", {"metadata": {"name": "s"}, "data": {"password": "aGlkZGVu"}})
    status = await api.refused(422, "PATCH", NS + "/secrets/s", patch,
                               content_type=JSON_PATCH if isinstance(patch, list) else MERGE)
    assert status["message"].startswith(' "" is invalid: patch: Invalid value: "')
    assert [cause["field"] for cause in status["details"]["causes"]] == ["patch"]
    assert "aGlkZGVu" not in str(status)


async def test_a_refused_json_patch_does_not_show_the_object(api: Running) -> None:
    await api.ok("POST", NS + "/secrets", {"metadata": {"name": "s"}, "stringData": {"password": "hidden"}})
    status = await api.refused(422, "PATCH", NS + "/secrets/s", [{"op": "remove", "path": "/nope/x"}],
                               content_type=JSON_PATCH)
    assert status["message"].endswith('remove operation does not apply: doc is missing path: "/nope/x": missing value')


async def test_a_status_needs_no_spec(api: Running) -> None:
    made = await api.ok("POST", DEPLOYMENTS, DEPLOYMENT)
    put = await api.ok("PUT", DEPLOYMENTS + "/d/status", {"metadata": {"name": "d"}, "status": {"replicas": 3}})
    assert (put["spec"], put["status"]["replicas"]) == (made["spec"], 3)
    await api.refused(400, "PUT", DEPLOYMENTS + "/d/status", {"status": {}})
    await api.refused(400, "PUT", DEPLOYMENTS + "/d/status", {"metadata": {"name": "d"}, "status": {"replicas": "3"}})
    await api.refused(400, "PUT", DEPLOYMENTS + "/d/scale", {"spec": {"replicas": 1}})
    assert (await api.ok("GET", DEPLOYMENTS + "/d/scale"))["spec"]["replicas"] == 1


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", MERGE, JSON_PATCH, "*/*",
                                          "application/apply-patch+yaml", "application/x-www-form-urlencoded"])
async def test_unknown_content_types(tmp_path: Path, content_type: str) -> None:
    async with api_server(tmp_path) as api:
        for method, path in (("POST", MAPS), ("PUT", MAPS + "/a")):
            status = await api.refused(415, method, path, {"metadata": {"name": "a"}}, content_type=content_type)
            assert status["reason"] == "UnsupportedMediaType"
            assert status["message"] == (
                "the body of the request was in an unknown format - accepted media types include: application/json, "
                "application/yaml, application/vnd.kubernetes.protobuf")


# --- the pools of Services ----------------------------------------------------------------------------------------


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def taken(api: Running) -> tuple[int, int]:
    return api.parts.pools.cluster_ips.free, len(api.parts.pools.node_ports._pool)


async def test_dry_runs_take_and_give_back_nothing(api: Running) -> None:
    await api.ok("POST", SVCS, service("s", type="NodePort"))
    before, stored = taken(api), await api.ok("GET", SVCS + "/s")
    for kind in ("ClusterIP", "LoadBalancer"):
        await api.ok("PATCH", SVCS + "/s?dryRun=All", {"spec": {"type": kind}}, content_type=MERGE)
    external = {"spec": {"type": "ExternalName", "externalName": "a.b"}}
    assert "clusterIP" not in (await api.ok("PATCH", SVCS + "/s?dryRun=All", external, content_type=MERGE))["spec"]
    await api.ok("POST", SVCS + "?dryRun=All", service("t", type="NodePort"))
    await api.refused(409, "POST", SVCS + "?dryRun=All", service("s", type="NodePort"))
    await api.ok("DELETE", SVCS + "/s?dryRun=All")
    assert taken(api) == before
    assert await api.ok("GET", SVCS + "/s") == stored


async def test_refused_creations_and_updates_take_nothing(api: Running) -> None:
    made = await api.ok("POST", SVCS, service("s"))
    before = taken(api)
    await api.refused(409, "POST", SVCS, service("s", type="NodePort"))
    await api.refused(409, "PUT", SVCS + "/s", {**service("s", type="NodePort"),
                                                "metadata": {"name": "s", "resourceVersion": "1"}})
    await api.refused(422, "PATCH", SVCS + "/s", {"spec": {"type": "NodePort", "ports": [
        {"name": "a", "port": 1}, {"name": "b", "port": 2, "nodePort": 99}]}}, content_type=MERGE)
    assert taken(api) == before
    assert await api.ok("GET", SVCS + "/s") == made


@pytest.mark.parametrize("fault", ["conflict", "store"])
async def test_updates_that_are_not_stored_leak_nothing(api: Running, monkeypatch: pytest.MonkeyPatch,
                                                        fault: str) -> None:
    made = await api.ok("POST", SVCS, service("s"))
    before = taken(api)
    store = api.parts.registry.store
    genuine, failures = store.update, [3]
    key = keys.key(SERVICES, "default", "s")

    async def failing(where: str, value: bytes, **more: Any) -> Any:
        if where == key and failures[0]:
            failures[0] -= 1
            if fault == "store":
                raise StoreError("the disk is full")
            current = await store.get(key)
            assert current is not None
            raise RevisionConflict(current)
        return await genuine(where, value, **more)

    monkeypatch.setattr(store, "update", failing)
    change = {"spec": {"type": "NodePort"}}
    if fault == "store":
        for _ in range(3):
            await api.refused(503, "PATCH", SVCS + "/s", change, content_type=MERGE)
        assert taken(api) == before
    ported = await api.ok("PATCH", SVCS + "/s", change, content_type=MERGE)
    assert ported["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    assert taken(api) == (before[0], before[1] + 1)
    failures[0] = 2
    external = {"spec": {"type": "ExternalName", "externalName": "a.b"}}
    if fault == "store":
        for _ in range(2):
            await api.refused(503, "PATCH", SVCS + "/s", external, content_type=MERGE)
        assert taken(api) == (before[0], before[1] + 1)  # nobody else may get what the Service still has
    await api.ok("PATCH", SVCS + "/s", external, content_type=MERGE)
    assert taken(api) == (before[0] + 1, before[1])


async def test_a_store_that_cannot_be_read(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.ok("POST", SVCS, service("s"))

    async def failing(_: str) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(api.parts.registry.store, "get", failing)
    assert (await api.refused(503, "DELETE", SVCS + "/s"))["message"] == "the disk is gone"


async def test_services_changed_by_many_leak_nothing(api: Running) -> None:
    before = taken(api)
    await api.ok("POST", SVCS, service("s"))
    kinds = [{"type": "NodePort"}, {"type": "ClusterIP"}, {"type": "LoadBalancer"},
             {"type": "ExternalName", "externalName": "a.b"}]

    async def change(seed: int) -> None:
        for step in range(6):
            answer = await api.request("PATCH", SVCS + "/s", {"spec": kinds[(seed + step) % 4]}, content_type=MERGE)
            assert answer.code in (200, 409), answer.body

    await asyncio.gather(*[change(seed) for seed in range(6)])
    await api.ok("PATCH", SVCS + "/s", {"spec": {"type": "NodePort"}}, content_type=MERGE)
    assert taken(api) == (before[0] - 1, before[1] + 1)
    await api.ok("PATCH", SVCS + "/s", {"metadata": {"finalizers": ["a.b/c"]}}, content_type=MERGE)
    await api.ok("DELETE", SVCS + "/s")
    assert taken(api) == (before[0] - 1, before[1] + 1)  # it is still there
    await api.ok("PATCH", SVCS + "/s", {"metadata": {"finalizers": None}}, content_type=MERGE)
    assert taken(api) == before
