from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.protobuf import is_protobuf, read_protobuf
from master.apiserver.protobuf.fields import message, message_of
from master.apiserver.schema import SchemaRegistry, load_definitions
from sampan.api.errors import ApiError
from sampan.api.resources import BUILT_IN


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    result = b""
    while value > 0x7F:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


def put(number: int, value: int | bytes | str) -> bytes:
    """One field, as it is on the wire."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\0" + put(1, put(1, api_version) + put(2, kind)) + put(2, raw) + put(3, "") + put(4, "")


def test_a_config_map_as_kubectl_sends_it() -> None:
    meta = b"".join([put(1, "a"), put(2, ""), put(3, ""), put(4, ""), put(5, ""), put(6, ""), put(7, 0), put(8, b"")])
    body = envelope("v1", "ConfigMap", put(1, meta) + put(2, put(1, "x") + put(2, "1")) + put(2, put(1, "empty")))
    assert read_protobuf(body) == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                                   "data": {"x": "1", "empty": ""}}


def test_a_zero_counts_where_go_has_a_pointer() -> None:
    spec = put(1, 0) + put(5, 0) + put(7, 0)  # replicas, minReadySeconds, paused
    assert read_protobuf(envelope("apps/v1", "Deployment", put(2, spec)))["spec"] == {"replicas": 0}


def test_inlined_and_special_fields() -> None:
    port = put(5, put(1, 0) + put(2, 8080) + put(3, ""))
    named = put(5, put(1, 1) + put(2, 0) + put(3, "http"))
    probe = put(1, put(2, put(2, port[2:]))) + put(2, 5)
    volume = put(1, "v") + put(2, put(2, b""))
    resources = put(2, put(1, "cpu") + put(2, put(1, "100m")))
    container = put(1, "c") + put(8, resources) + put(10, probe)
    spec = put(1, volume) + put(2, container)
    tree = read_protobuf(envelope("v1", "Pod", put(2, spec)))["spec"]
    assert tree["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert tree["containers"][0]["resources"] == {"requests": {"cpu": "100m"}}
    assert tree["containers"][0]["livenessProbe"]["initialDelaySeconds"] == 5
    services = read_protobuf(envelope("v1", "Service", put(2, put(1, put(1, "a") + put(3, 80) + put(4, named[2:])))))
    assert services["spec"]["ports"] == [{"name": "a", "port": 80, "targetPort": "http"}]


def test_times_and_bytes() -> None:
    time = put(1, 1767225600) + put(2, 5000)
    lease = read_protobuf(envelope("coordination.k8s.io/v1", "Lease", put(2, put(4, time))))
    assert lease["spec"] == {"renewTime": "2026-01-01T00:00:00.000005Z"}
    secret = read_protobuf(envelope("v1", "Secret", put(1, put(8, time)) + put(2, put(1, "a") + put(2, b"\xff\x00"))))
    assert secret["metadata"] == {"creationTimestamp": "2026-01-01T00:00:00Z"}
    assert secret["data"] == {"a": "/wA="}
    lists = put(1, put(7, put(1, "k") + put(2, put(1, "x") + put(1, "y"))))
    csr = read_protobuf(envelope("certificates.k8s.io/v1", "CertificateSigningRequest", put(2, put(8, -1) + lists)))
    assert csr["spec"]["expirationSeconds"] == -1


def test_numbers_one_by_one_and_packed() -> None:
    for groups in (put(4, 7) + put(4, 300), put(4, b"\x07\xac\x02")):
        pod = read_protobuf(envelope("v1", "Pod", put(2, put(14, groups))))
        assert pod["spec"]["securityContext"] == {"supplementalGroups": [7, 300]}


def test_options_belong_to_every_group() -> None:
    assert message_of("apps/v1", "DeleteOptions") == "meta.v1.DeleteOptions"
    assert read_protobuf(envelope("v1", "DeleteOptions", put(1, 0))) == {
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}


def test_every_kind_has_its_fields() -> None:
    schemas = SchemaRegistry(load_definitions())
    for resource in BUILT_IN:
        name = message_of(resource.api_version, resource.kind)
        assert name is not None, resource.kind
        known = set(schemas.of(resource.definition).raw["properties"]) - {"apiVersion", "kind"}
        assert {field.name for field in (message(name) or {}).values()} == known


def test_every_message_that_is_named_is_there() -> None:
    seen: set[str] = set()
    special = {"quantity", "time", "microtime", "intstr", "raw", "duration"}
    waiting = [name for resource in BUILT_IN if (name := message_of(resource.api_version, resource.kind))]
    while waiting:
        name = waiting.pop()
        if name in seen or name in special:
            continue
        seen.add(name)
        fields = message(name)
        assert fields is not None, name
        waiting += [field.message for field in fields.values() if field.message]
    assert len(seen) > 150


def test_content_types() -> None:
    assert is_protobuf("application/vnd.kubernetes.protobuf")
    assert is_protobuf("Application/vnd.kubernetes.protobuf;stream=watch")
    assert not is_protobuf("application/json")


@pytest.mark.parametrize("body", [
    b"", b"{}", b"k8s\0", b"k8s\0\xff", envelope("v1", "Nothing", b""), envelope("v2", "Pod", b""),
    envelope("v1", "Pod", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), envelope("v1", "Pod", put(1, 5)),
    envelope("v1", "Pod", put(1, put(1, b"\xff"))), envelope("v1", "Pod", b"\x0b"), envelope("v1", "Pod", b"\x0a\x7f"),
    envelope("v1", "Secret", put(1, put(8, put(1, 1 << 62)))),
    envelope("apps/v1", "ControllerRevision", put(2, put(1, b"{"))),
])
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read_protobuf(body)
    assert refused.value.code == 400


@given(st.binary(max_size=200), st.sampled_from(BUILT_IN))
def test_whatever_comes_is_read_or_refused(raw: bytes, resource: Any) -> None:
    with suppress(ApiError):  # nothing else may be raised
        assert isinstance(read_protobuf(envelope(resource.api_version, resource.kind, raw)), dict)

