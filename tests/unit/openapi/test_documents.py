import json
from collections.abc import Iterator
from typing import Any

import pytest

from master.apiserver.openapi import OpenAPI, accepts_protobuf
from master.apiserver.openapi.documents import V2_PROTOBUF
from master.apiserver.openapi.operations import by_kind, names, operations
from master.apiserver.openapi.proto import encode_document, varint
from master.apiserver.openapi.v3 import convert
from master.apiserver.schema import load_definitions
from sampan.api.resources import BUILT_IN

DEFINITIONS = load_definitions()
POD = "io.k8s.api.core.v1.Pod"


@pytest.fixture(scope="module")
def documents() -> OpenAPI:
    return OpenAPI(BUILT_IN, DEFINITIONS)


def v3(documents: OpenAPI, path: str) -> dict[str, Any]:
    document = documents.v3(path)
    assert document is not None
    return dict(json.loads(document.body))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_root(documents: OpenAPI) -> None:
    paths = json.loads(documents.v3_root().body)["paths"]
    assert set(paths) == {"api/v1", "apis/apps/v1", "apis/certificates.k8s.io/v1", "apis/coordination.k8s.io/v1",
                          "apis/discovery.k8s.io/v1", "apis/rbac.authorization.k8s.io/v1"}
    document = documents.v3("apis/apps/v1")
    assert document is not None
    assert paths["apis/apps/v1"]["serverRelativeURL"] == f"/openapi/v3/apis/apps/v1?hash={document.hash}"
    assert document.etag == f'"{document.hash}"'
    assert documents.v3("apis/nope/v1") is None
    with pytest.raises(KeyError):
        documents.v3_address("apis/nope/v1")


def test_documents_are_built_once_and_alike(documents: OpenAPI) -> None:
    assert documents.v3("api/v1") is documents.v3("api/v1")
    assert documents.v3_root() is documents.v3_root()
    again = OpenAPI(BUILT_IN, DEFINITIONS)
    assert again.v3_root().hash == documents.v3_root().hash
    assert OpenAPI(BUILT_IN[:3], DEFINITIONS).v3_root().hash != documents.v3_root().hash


@pytest.mark.parametrize("path", ["api/v1", "apis/apps/v1", "apis/certificates.k8s.io/v1"])
def test_v3_stands_alone(documents: OpenAPI, path: str) -> None:
    document = v3(documents, path)
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(schemas)
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()
           if isinstance(operation, dict)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("resource", BUILT_IN, ids=lambda entry: entry.plural)
def test_kubectl_finds_that_the_server_validates(documents: OpenAPI, resource: Any) -> None:
    document = v3(documents, resource.prefix.removeprefix("/"))
    patch = document["paths"][resource.path("{namespace}", "{name}")]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {
        "group": resource.group, "version": resource.version, "kind": resource.kind}
    assert patch["x-kubernetes-action"] == "patch"
    query = {entry["name"] for entry in patch["parameters"] if entry["in"] == "query"}
    assert {"fieldValidation", "fieldManager", "dryRun", "force"} <= query
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
    schema = document["components"]["schemas"][resource.definition]
    assert schema["x-kubernetes-group-version-kind"] == [
        {"group": resource.group, "version": resource.version, "kind": resource.kind}]
    assert "enum" not in schema["properties"]["kind"]


def test_operations_of_pods(documents: OpenAPI) -> None:
    paths = v3(documents, "api/v1")["paths"]
    everywhere = paths["/api/v1/pods"]
    assert everywhere["get"]["operationId"] == "listCoreV1PodForAllNamespaces"
    assert [entry["name"] for entry in everywhere["parameters"]] == ["pretty"]
    collection = paths["/api/v1/namespaces/{namespace}/pods"]
    assert {"get", "post", "delete"} <= set(collection)
    assert collection["post"]["operationId"] == "createCoreV1NamespacedPod"
    assert collection["delete"]["x-kubernetes-action"] == "deletecollection"
    one = paths["/api/v1/namespaces/{namespace}/pods/{name}"]
    assert [entry["name"] for entry in one["parameters"]] == ["name", "namespace", "pretty"]
    assert one["get"]["description"] == "read the specified Pod"
    assert paths["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["get"]["x-kubernetes-action"] == "connect"
    log = paths["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"]
    assert "text/plain" in log["responses"]["200"]["content"]
    eviction = paths["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"]
    assert eviction["x-kubernetes-group-version-kind"]["group"] == "policy"
    assert "/api/v1/namespaces/{name}/finalize" in paths


def test_schemas_in_v3() -> None:
    assert convert({"$ref": "#/definitions/x"}) == {"$ref": "#/components/schemas/x"}
    assert convert({"$ref": "#/definitions/x", "description": "d"}) == {
        "description": "d", "allOf": [{"$ref": "#/components/schemas/x"}]}
    assert convert({"type": "string", "format": "int-or-string"}) == {
        "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
    odd = {"type": "object", "properties": {"$ref": {"type": "string"}, "properties": {
        "type": "array", "items": {"$ref": "#/definitions/x"}}, "type": {"additionalProperties": True}}}
    assert convert(odd)["properties"] == {
        "$ref": {"type": "string"}, "type": {"additionalProperties": True},
        "properties": {"type": "array", "items": {"$ref": "#/components/schemas/x"}}}


def test_merge_keys_and_list_types_are_published(documents: OpenAPI) -> None:
    schemas = v3(documents, "api/v1")["components"]["schemas"]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"
    assert containers["x-kubernetes-list-type"] == "map"
    assert schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]["oneOf"] == [{"type": "string"},
                                                                                {"type": "number"}]
    assert schemas[POD]["properties"]["spec"]["allOf"]


def test_v2(documents: OpenAPI) -> None:
    document = json.loads(documents.v2(protobuf=False).body)
    assert document["swagger"] == "2.0"
    assert {reference.removeprefix("#/definitions/") for reference in references(document)} <= set(
        document["definitions"])
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert "fieldValidation" in {entry["name"] for entry in patch["parameters"]}
    assert document["definitions"][POD]["x-kubernetes-group-version-kind"][0]["kind"] == "Pod"
    assert "enum" in DEFINITIONS[POD]["properties"]["kind"]  # what is shared was not changed


def fields(data: bytes) -> dict[int, list[Any]]:
    """A message's fields by number: protobuf's wire format, as far as it is used here."""
    found: dict[int, list[Any]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        result = shift = 0
        while True:
            byte = data[at]
            at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    while at < len(data):
        key = number()
        if key & 7 == 0:
            found.setdefault(key >> 3, []).append(number())
        else:
            assert key & 7 == 2
            size = number()
            assert at + size <= len(data)
            found.setdefault(key >> 3, []).append(data[at:at + size])
            at += size
    return found


def mapping(data: bytes, number: int = 1) -> dict[str, bytes]:
    pairs = [fields(entry) for entry in fields(data)[number]]
    return {pair[1][0].decode(): pair[2][0] for pair in pairs}


def test_v2_as_protobuf(documents: OpenAPI) -> None:
    answer = documents.v2(protobuf=True)
    assert answer.content_type == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    document = fields(answer.body)
    assert document[1] == [b"2.0"]
    plain = json.loads(documents.v2(protobuf=False).body)
    definitions = mapping(document[9][0])
    assert set(definitions) == set(plain["definitions"])
    pod = fields(definitions[POD])
    assert fields(pod[22][0])[1] == [b"object"]
    properties = mapping(pod[25][0])
    assert set(properties) == set(plain["definitions"][POD]["properties"])
    assert fields(properties["spec"])[1] == [b"#/definitions/io.k8s.api.core.v1.PodSpec"]
    kinds = mapping(definitions[POD], 31)["x-kubernetes-group-version-kind"]
    assert json.loads(fields(kinds)[2][0]) == [{"group": "", "kind": "Pod", "version": "v1"}]
    spec = mapping(fields(definitions["io.k8s.api.core.v1.PodSpec"])[25][0])
    containers = fields(spec["containers"])
    assert fields(fields(containers[23][0])[1][0])[1] == [b"#/definitions/io.k8s.api.core.v1.Container"]
    selector = fields(spec["nodeSelector"])
    assert fields(fields(fields(selector[21][0])[1][0])[22][0])[1] == [b"string"]
    paths = mapping(document[8][0], 2)
    assert set(paths) == set(plain["paths"])
    patch = fields(fields(paths["/api/v1/namespaces/{namespace}/pods/{name}"])[8][0])
    assert patch[5] == [b"patchCoreV1NamespacedPod"]
    body = fields(fields(fields(patch[8][0])[1][0])[1][0])
    assert (body[2], body[3], body[4]) == ([b"body"], [b"body"], [1])
    query = fields(fields(fields(fields(patch[8][1])[1][0])[2][0])[3][0])
    assert (query[4], query[2], query[20]) == ([b"dryRun"], [b"query"], [1])
    responses = mapping(patch[9][0])
    assert fields(fields(fields(responses["200"])[1][0])[2][0])[1]
    assert b"Unauthorized" in responses["401"]


def test_protobuf_pieces() -> None:
    assert [varint(number) for number in (0, 127, 128, 300)] == [b"\x00", b"\x7f", b"\x80\x01", b"\xac\x02"]
    with pytest.raises(KeyError):
        encode_document({"unknown": 1})
    loose = encode_document({"definitions": {"A": {"additionalProperties": True, "readOnly": False}}})
    schema = fields(mapping(fields(loose)[9][0])["A"])
    assert fields(schema[21][0]) == {2: [1]}
    assert 27 not in schema


def test_protobuf_is_asked_for_in_two_spellings() -> None:
    assert accepts_protobuf(V2_PROTOBUF)
    assert accepts_protobuf("application/json, application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    assert not accepts_protobuf("application/json")


def test_names_of_groups() -> None:
    assert names("", "v1") == ("core_v1", "CoreV1")
    assert names("apps", "v1") == ("apps_v1", "AppsV1")
    assert names("rbac.authorization.k8s.io", "v1") == ("rbacAuthorization_v1", "RbacAuthorizationV1")


def test_kinds_that_are_in_every_group_have_no_owner() -> None:
    kinds = by_kind(DEFINITIONS)
    assert kinds["apps", "v1", "Deployment"] == "io.k8s.api.apps.v1.Deployment"
    assert kinds["autoscaling", "v1", "Scale"] == "io.k8s.api.autoscaling.v1.Scale"
    assert ("", "v1", "DeleteOptions") not in kinds
    assert {operation.path for operation in operations(BUILT_IN, DEFINITIONS)}
