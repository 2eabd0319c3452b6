"""Creating, changing and deleting objects over HTTPS."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.apiserver import Running

NS = "/api/v1/namespaces/default"
MAPS = NS + "/configmaps"
PODS = NS + "/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


def config(name: str = "a", **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"k": "v"}}


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def deployment(name: str = "d") -> dict[str, Any]:
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": pod()["spec"]}}}


async def test_a_new_object_gets_what_the_server_decides(api: Running) -> None:
    made = await api.ok("POST", MAPS, config(uid="mine", creationTimestamp="2000-01-01T00:00:00Z"))
    meta = made["metadata"]
    assert meta["namespace"] == "default"
    assert meta["uid"] not in ("", "mine")
    assert meta["creationTimestamp"] > "2026"
    assert int(meta["resourceVersion"]) > 0
    assert list(made)[:3] == ["kind", "apiVersion", "metadata"]
    assert await api.ok("GET", MAPS + "/a") == made


async def test_names_are_taken_once(api: Running) -> None:
    await api.ok("POST", MAPS, config())
    status = await api.refused(409, "POST", MAPS, config())
    assert (status["reason"], status["message"]) == ("AlreadyExists", 'configmaps "a" already exists')
    assert status["details"] == {"name": "a", "kind": "configmaps"}


async def test_generated_names_differ(api: Running) -> None:
    body = config()
    body["metadata"] = {"generateName": "gen-"}
    names = {(await api.ok("POST", MAPS, body))["metadata"]["name"] for _ in range(10)}
    assert len(names) == 10
    assert all(name.startswith("gen-") and len(name) == 9 for name in names)


@pytest.mark.parametrize(("body", "code", "message"), [
    (b"", 400, None), (b"{", 400, None), (b"[]", 400, None), (b"null", 400, None), (b"\xff\xfe", 400, None),
    ({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}, 400,
     'Pod in version "v1" cannot be handled as a ConfigMap'),
    ({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "a"}}, 400,
     "the API version in the data (v2) does not match the expected API version (v1)"),
    (config(namespace="other"), 400,
     "the namespace of the provided object does not match the namespace sent on the request"),
    (config(resourceVersion="5"), 400, "resourceVersion should not be set on objects to be created"),
    (config(""), 422, 'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required'),
    (config("Bad_Name"), 422, 'ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase'),
    ({**config(), "data": {"k": 1}}, 400, None), ({**config(), "data": []}, 400, None),
    ({**config(), "metadata": "x"}, 400, None),
])
async def test_bad_bodies_are_refused(api: Running, body: Any, code: int, message: str | None) -> None:
    status = await api.refused(code, "POST", MAPS, body)
    assert status["message"].startswith(message or "")
    assert (await api.ok("GET", MAPS))["items"] == []


async def test_large_bodies_are_refused(api: Running) -> None:
    body = {**config(), "data": {"k": "x" * (3 << 20)}}
    status = await api.refused(413, "POST", MAPS, body)
    assert status["reason"] == "RequestEntityTooLarge"
    assert status["message"] == "Request entity too large: limit is 3145728"


async def test_unknown_fields(api: Running) -> None:
    body = {**config(), "nonsense": 1}
    answer = await api.request("POST", MAPS + "?fieldValidation=Warn&dryRun=All", body)
    assert answer.code == 201
    assert answer.warnings == ['299 - "unknown field \\"nonsense\\""']
    answer = await api.request("POST", MAPS + "?fieldValidation=Ignore&dryRun=All", body)
    assert (answer.code, answer.warnings) == (201, [])
    status = await api.refused(400, "POST", MAPS + "?fieldValidation=Strict", body)
    assert 'strict decoding error: unknown field "nonsense"' in status["message"]
    twice = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"1","k":"2"}}'
    status = await api.refused(400, "POST", MAPS + "?fieldValidation=Strict", twice)
    assert 'duplicate field "data.k"' in status["message"] or "duplicate field" in status["message"]
    await api.refused(422, "POST", MAPS + "?fieldValidation=Maybe", config())


async def test_dry_runs_store_nothing(api: Running) -> None:
    made = await api.ok("POST", MAPS + "?dryRun=All", config())
    assert made["metadata"]["uid"]
    assert "resourceVersion" not in made["metadata"]
    await api.refused(404, "GET", MAPS + "/a")
    stored = await api.ok("POST", MAPS, config())
    changed = await api.ok("PATCH", MAPS + "/a?dryRun=All", {"data": {"x": "y"}}, content_type=MERGE)
    assert changed["data"] == {"k": "v", "x": "y"}
    await api.ok("DELETE", MAPS + "/a?dryRun=All")
    assert await api.ok("GET", MAPS + "/a") == stored
    await api.refused(422, "POST", MAPS + "?dryRun=Some", config("b"))


async def test_yaml_in_and_out(api: Running) -> None:
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\ndata: {a: b}\n"
    await api.ok("POST", MAPS, text, content_type="application/yaml")
    answer = await api.request("GET", MAPS + "/text", accept="application/yaml")
    assert b"kind: ConfigMap\n" in answer.body
    assert answer.headers["Content-Type"].startswith("application/yaml")


async def test_updates_need_the_revision_that_they_saw(api: Running) -> None:
    first = await api.ok("POST", MAPS, config())
    second = await api.ok("PUT", MAPS + "/a", {**first, "data": {"k": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    status = await api.refused(409, "PUT", MAPS + "/a", {**first, "data": {"k": "3"}})
    assert status["reason"] == "Conflict"
    assert status["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to '
        "the latest version and try again")
    third = await api.ok("PUT", MAPS + "/a", config())  # without a revision it overwrites
    assert third["data"] == {"k": "v"}
    assert third["metadata"]["uid"] == first["metadata"]["uid"]


async def test_an_update_that_changes_nothing_writes_nothing(api: Running) -> None:
    first = await api.ok("POST", MAPS, config())
    for _ in range(3):
        assert await api.ok("PUT", MAPS + "/a", first) == first
        assert await api.ok("PATCH", MAPS + "/a", {"data": {"k": "v"}}, content_type=MERGE) == first


async def test_what_an_update_may_not_do(api: Running) -> None:
    await api.ok("POST", MAPS, config())
    status = await api.refused(400, "PUT", MAPS + "/a", config("b"))
    assert status["message"] == "the name of the object (b) does not match the name on the URL (a)"
    await api.refused(409, "PUT", MAPS + "/a", config(uid="other"))
    await api.refused(404, "PUT", MAPS + "/missing", config("missing"))
    lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l"
    body = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}}
    made = await api.request("PUT", lease, body)
    assert made.code == 201  # leases may be created so
    status = await api.refused(422, "PUT", lease, body)
    assert status["details"]["causes"][0]["message"] == "Invalid value: 0x0: must be specified for an update"
    await api.ok("DELETE", lease)
    status = await api.refused(409, "PUT", lease, made.json)  # who knows its uid means that one, which is gone
    assert f"UID in precondition: {made.json['metadata']['uid']}, UID in object meta: " in status["message"]
    await api.refused(404, "GET", lease)


async def test_patches(api: Running) -> None:
    await api.ok("POST", DEPLOYMENTS, deployment())
    url = DEPLOYMENTS + "/d"
    merged = await api.ok("PATCH", url, {"metadata": {"labels": {"a": "b"}}}, content_type=MERGE)
    assert (merged["metadata"]["labels"], merged["metadata"]["generation"]) == ({"a": "b"}, 1)
    containers = [{"name": "side", "image": "s"}]
    strategic = await api.ok("PATCH", url, {"spec": {"template": {"spec": {"containers": containers}}}},
                             content_type=STRATEGIC)
    assert sorted(item["name"] for item in strategic["spec"]["template"]["spec"]["containers"]) == ["c", "side"]
    assert strategic["metadata"]["generation"] == 2
    patched = await api.ok("PATCH", url, [{"op": "replace", "path": "/spec/replicas", "value": 7}],
                           content_type=JSON_PATCH)
    assert (patched["spec"]["replicas"], patched["metadata"]["generation"]) == (7, 3)
    await api.refused(409, "PATCH", url, {"metadata": {"resourceVersion": "1"}}, content_type=MERGE)
    await api.refused(422, "PATCH", url, [{"op": "test", "path": "/spec/replicas", "value": 1}],
                      content_type=JSON_PATCH)
    await api.refused(400, "PATCH", url, b"{", content_type=MERGE)
    await api.refused(422, "PATCH", url, {"spec": {"replicas": -1}}, content_type=MERGE)
    await api.refused(404, "PATCH", DEPLOYMENTS + "/x", {}, content_type=MERGE)
    status = await api.refused(415, "PATCH", url, {}, content_type="application/apply-patch+yaml")
    assert "server-side apply" in status["message"]
    status = await api.refused(415, "PATCH", url, {}, content_type="application/json")
    assert MERGE in status["message"]


async def test_patches_by_many_all_count(api: Running) -> None:
    await api.ok("POST", MAPS, config())
    await asyncio.gather(*[api.ok("PATCH", MAPS + "/a", {"data": {f"k{index}": "v"}}, content_type=MERGE)
                           for index in range(40)])
    assert len((await api.ok("GET", MAPS + "/a"))["data"]) == 41


async def test_status_is_written_apart(api: Running) -> None:
    made = await api.ok("POST", DEPLOYMENTS, {**deployment(), "status": {"replicas": 9}})
    assert "replicas" not in made.get("status", {})
    url = DEPLOYMENTS + "/d/status"
    changed = await api.ok("PATCH", url, {"status": {"replicas": 1, "observedGeneration": 1}, "spec": {"replicas": 9}},
                           content_type=MERGE)
    assert (changed["status"]["replicas"], changed["spec"]["replicas"]) == (1, 2)
    assert changed["metadata"]["generation"] == 1
    assert (await api.ok("GET", url))["status"]["replicas"] == 1


async def test_scale(api: Running) -> None:
    await api.ok("POST", DEPLOYMENTS, deployment())
    url = DEPLOYMENTS + "/d/scale"
    scale = await api.ok("GET", url)
    assert (scale["kind"], scale["apiVersion"], scale["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 2})
    assert scale["status"]["selector"] == "app=d"
    scale["spec"]["replicas"] = 5
    assert (await api.ok("PUT", url, scale))["spec"]["replicas"] == 5
    await api.refused(409, "PUT", url, scale)
    assert (await api.ok("PATCH", url, {"spec": {"replicas": 3}}, content_type=MERGE))["spec"]["replicas"] == 3
    status = await api.refused(422, "PATCH", url, {"spec": {"replicas": -3}}, content_type=MERGE)
    assert "spec.replicas: Invalid value: -3: must be greater than or equal to 0" in status["message"]
    assert (await api.ok("GET", DEPLOYMENTS + "/d"))["spec"]["replicas"] == 3
    await api.refused(404, "GET", MAPS + "/a/scale")


async def test_a_pod_is_bound_once(api: Running) -> None:
    await api.ok("POST", PODS, pod())
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
               "target": {"kind": "Node", "name": "n"}}
    answer = await api.request("POST", PODS + "/p/binding", binding)
    assert (answer.code, answer.json["status"]) == (201, "Success")
    bound = await api.ok("GET", PODS + "/p")
    assert bound["spec"]["nodeName"] == "n"
    scheduled = next(item for item in bound["status"]["conditions"] if item["type"] == "PodScheduled")
    assert scheduled["status"] == "True"
    status = await api.refused(409, "POST", PODS + "/p/binding", binding)
    assert status["message"] == ('Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node '
                                 '"n"')
    await api.refused(404, "POST", PODS + "/x/binding", {**binding, "metadata": {}})
    await api.refused(422, "POST", PODS + "/p/binding", {"metadata": {}, "target": {}})


async def test_pods_end_gracefully(api: Running) -> None:
    await api.ok("POST", PODS, pod("early"))
    gone = await api.ok("DELETE", PODS + "/early")
    assert gone["kind"] == "Pod"
    await api.refused(404, "GET", PODS + "/early")  # no node runs it: nothing to wait for

    await api.ok("POST", PODS, pod(nodeName="n"))
    ending = await api.ok("DELETE", PODS + "/p")
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 30
    assert (await api.ok("GET", PODS + "/p"))["metadata"]["deletionTimestamp"]
    again = await api.ok("DELETE", PODS + "/p", {"gracePeriodSeconds": 60})
    assert again["metadata"] == ending["metadata"]
    shorter = await api.ok("DELETE", PODS + "/p?gracePeriodSeconds=5")
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] < ending["metadata"]["deletionTimestamp"]
    await api.ok("DELETE", PODS + "/p", {"gracePeriodSeconds": 0})
    await api.refused(404, "GET", PODS + "/p")


async def test_eviction_is_a_deletion(api: Running) -> None:
    await api.ok("POST", PODS, pod(nodeName="n"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
                "deleteOptions": {"gracePeriodSeconds": 7}}
    assert (await api.ok("POST", PODS + "/p/eviction", eviction))["status"] == "Success"
    assert (await api.ok("GET", PODS + "/p"))["metadata"]["deletionGracePeriodSeconds"] == 7


async def test_deletion_answers_and_preconditions(api: Running) -> None:
    made = await api.ok("POST", MAPS, config())
    status = await api.refused(409, "DELETE", MAPS + "/a", {"preconditions": {"uid": "other"}})
    assert "Precondition failed: UID in precondition: other, UID in object meta: " in status["message"]
    await api.refused(409, "DELETE", MAPS + "/a", {"preconditions": {"resourceVersion": "1"}})
    await api.refused(422, "DELETE", MAPS + "/a", {"propagationPolicy": "Never"})
    status = await api.refused(400, "DELETE", MAPS + "/a", {"kind": "Pod", "apiVersion": "v1"})
    assert status["message"] == 'no kind "Pod" is registered for version "v1": expected DeleteOptions'
    status = await api.refused(400, "DELETE", MAPS + "/a", {"kind": "DeleteOptions", "apiVersion": "a/b/c"})
    assert status["message"] == "unexpected GroupVersion string: a/b/c"
    other = {"kind": "DeleteOptions", "apiVersion": "whatever/v9", "dryRun": ["All"], "unknown": 1}
    assert (await api.ok("DELETE", MAPS + "/a", other))["status"] == "Success"
    await api.refused(400, "DELETE", MAPS + "/a", {"gracePeriodSeconds": "soon"})
    gone = await api.ok("DELETE", MAPS + "/a", {"kind": "DeleteOptions", "apiVersion": "v1"})
    assert gone == {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}}
    await api.refused(404, "DELETE", MAPS + "/a")


async def test_finalizers_hold_an_object(api: Running) -> None:
    await api.ok("POST", MAPS, config(finalizers=["example.com/hold"]))
    answer = await api.request("DELETE", MAPS + "/a", {"propagationPolicy": "Foreground"})
    assert answer.code == 200
    held = await api.ok("GET", MAPS + "/a")
    assert held["metadata"]["finalizers"] == ["example.com/hold", "foregroundDeletion"]
    assert held["metadata"]["deletionTimestamp"]
    status = await api.refused(422, "PATCH", MAPS + "/a", {"metadata": {"finalizers": ["a/b", "example.com/hold"]}},
                               content_type=MERGE)
    assert "no new finalizers can be added if the object is being deleted" in status["message"]
    status = await api.refused(409, "POST", MAPS, config())
    assert status["message"].startswith("object is being deleted: ")
    await api.ok("PATCH", MAPS + "/a", {"metadata": {"finalizers": None}}, content_type=MERGE)
    await api.refused(404, "GET", MAPS + "/a")


async def test_collections_are_deleted_by_selector(api: Running) -> None:
    for index in range(6):
        await api.ok("POST", MAPS, config(f"a{index}", labels={"half": str(index % 2)}))
    gone = await api.ok("DELETE", MAPS + "?labelSelector=half%3D1")
    assert (gone["kind"], len(gone["items"])) == ("ConfigMapList", 3)
    left = await api.ok("GET", MAPS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["a0", "a2", "a4"]
    gone = await api.ok("DELETE", MAPS + "?limit=2")  # a page of them, and the way to the next
    assert (len(gone["items"]), gone["metadata"]["remainingItemCount"]) == (2, 1)
    left = await api.ok("GET", MAPS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["a4"]
    await api.refused(400, "DELETE", MAPS + "?limit=x")
    await api.refused(405, "DELETE", "/api/v1/namespaces")


async def test_namespaces_end_in_two_steps(api: Running) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    made = await api.ok("POST", "/api/v1/namespaces", space)
    assert made["spec"] == {"finalizers": ["kubernetes"]}
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    ending = await api.ok("DELETE", "/api/v1/namespaces/n")
    assert ending["status"]["phase"] == "Terminating"
    status = await api.refused(403, "POST", "/api/v1/namespaces/n/configmaps", config())
    assert status["message"] == ('configmaps "a" is forbidden: unable to create new content in namespace n because it '
                                 "is being terminated")
    assert status["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    await api.ok("PUT", "/api/v1/namespaces/n/finalize", {**ending, "spec": {"finalizers": []}})
    await api.refused(404, "GET", "/api/v1/namespaces/n")
    status = await api.refused(404, "POST", "/api/v1/namespaces/n/configmaps", config())
    assert status["message"] == 'namespaces "n" not found'
    status = await api.refused(403, "DELETE", "/api/v1/namespaces/default")
    assert status["message"] == 'namespaces "default" is forbidden: this namespace may not be deleted'


async def test_pods_get_what_admission_adds(api: Running) -> None:
    spec = (await api.ok("POST", PODS, pod()))["spec"]
    assert (spec["serviceAccountName"], spec["priority"], spec["preemptionPolicy"]) == ("default", 0,
                                                                                        "PreemptLowerPriority")
    assert [item["tolerationSeconds"] for item in spec["tolerations"]] == [300, 300]
    status = await api.refused(403, "POST", PODS, pod("q", priorityClassName="mine"))
    assert status["message"] == 'pods "q" is forbidden: no PriorityClass with name mine was found'


async def test_services_get_addresses_and_give_them_back(api: Running) -> None:
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    address = (await api.ok("POST", NS + "/services", body))["spec"]["clusterIP"]
    taken = {**body, "metadata": {"name": "t"}, "spec": {**body["spec"], "clusterIP": address}}
    await api.refused(422, "POST", NS + "/services", taken)
    await api.ok("DELETE", NS + "/services/s")
    assert (await api.ok("POST", NS + "/services", taken))["spec"]["clusterIP"] == address


async def test_the_cluster_has_its_first_service(api: Running) -> None:
    service = await api.ok("GET", NS + "/services/kubernetes")
    assert service["spec"]["clusterIP"] == "10.96.0.1"
    slices = await api.ok("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
    assert slices["endpoints"][0]["addresses"] == ["192.0.2.1"]


async def test_a_pod_can_be_replaced_by_its_own_manifest(api: Running) -> None:
    made = await api.ok("POST", PODS, pod())
    changed = pod()
    changed["metadata"]["labels"] = {"app": "p", "new": "yes"}
    replaced = await api.ok("PUT", PODS + "/p", changed)
    assert replaced["spec"] == made["spec"]
    assert replaced["metadata"]["labels"]["new"] == "yes"
