"""What a client hears of a patch that cannot be read, in kube-apiserver's words."""

from __future__ import annotations

import pytest

from master.apiserver.patching import read_patch
from master.apiserver.schema import SchemaRegistry, load_definitions
from sampan.api.errors import ApiError, not_found


@pytest.mark.parametrize(("kind", "body", "code", "message"), [
    ("strategic-merge-patch", b'"text"', 400,
     "json: cannot unmarshal string into Go value of type map[string]interface {}"),
    ("strategic-merge-patch", b"{bad", 400, "invalid character 'b' looking for beginning of object key string"),
    ("strategic-merge-patch", b'{"a":1,}', 400, "invalid character '}' looking for beginning of object key string"),
    ("merge-patch", b'{"a" 1}', 400, "error decoding patch: invalid character '1' after object key"),
    ("merge-patch", b'{"a":1 "b"}', 400, "error decoding patch: invalid character '\"' after object key:value pair"),
    ("json-patch", b"[1 2]", 400, "error decoding patch: invalid character '2' after array element"),
    ("merge-patch", b"{}}", 400, "error decoding patch: invalid character '}' after top-level value"),
    ("json-patch", b"[", 400, "error decoding patch: unexpected end of JSON input"),
])
def test_patches_that_cannot_be_read(kind: str, body: bytes, code: int, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_patch(body, f"application/{kind}+json", load_definitions())
    assert (refused.value.code, refused.value.message) == (code, message)


@pytest.mark.parametrize(("kind", "patch", "message"), [
    ("strategic-merge-patch", b'{"spec": {"replicas": "x"}}', (
        ' "" is invalid: patch: Invalid value: "map[spec:map[replicas:x]]": json: cannot unmarshal string into Go '
        "struct field DeploymentSpec.spec.replicas of type int32")),
    ("merge-patch", b'{"spec": {"replicas": "x"}}', (
        ' "" is invalid: patch: Invalid value: "{\\"spec\\":{\\"replicas\\":\\"x\\"}}": json: cannot unmarshal string '
        "into Go struct field DeploymentSpec.spec.replicas of type int32")),
])
def test_a_patch_is_to_blame_for_what_it_makes(kind: str, patch: bytes, message: str) -> None:
    schemas = SchemaRegistry(load_definitions())
    read = read_patch(patch, f"application/{kind}+json", schemas.definitions)
    definition = "io.k8s.api.apps.v1.Deployment"
    with pytest.raises(ApiError) as refused, read.to_blame():
        schemas.of(definition).clean(read.apply_to({"kind": "Deployment", "apiVersion": "apps/v1"}, definition))
    assert (refused.value.code, refused.value.reason, refused.value.message) == (422, "Invalid", message)


def test_other_refusals_are_not_the_patch_s() -> None:
    read = read_patch(b"{}", "application/merge-patch+json", load_definitions())
    with pytest.raises(ApiError) as refused, read.to_blame():
        raise not_found("", "pods", "p")
    assert refused.value.code == 404
