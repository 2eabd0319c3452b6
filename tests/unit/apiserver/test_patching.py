"""What a client hears of a patch that cannot be read, in kube-apiserver's words."""

from __future__ import annotations

import pytest

from master.apiserver.patching import read_patch
from master.apiserver.schema import load_definitions
from sampan.api.errors import ApiError


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
