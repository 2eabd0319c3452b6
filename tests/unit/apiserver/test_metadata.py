from datetime import UTC, datetime
from typing import Any

import pytest

from master.apiserver import metadata

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def obj(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "n", **fields}}


def texts(tree: dict[str, Any], **more: Any) -> list[str]:
    return [str(error) for error in metadata.validate(tree, **{"namespaced": True, "name_rule": "subdomain", **more})]


def test_the_server_decides_what_is_its_own() -> None:
    tree = obj(uid="mine", creationTimestamp="2000-01-01T00:00:00Z", generation=7, resourceVersion="3",
               deletionTimestamp="2000-01-01T00:00:00Z", selfLink="/x", managedFields=[{}])
    metadata.begin(tree, namespace="n", uid="u", now=NOW, generation=True)
    assert tree == obj(uid="u", creationTimestamp="2026-01-01T12:30:00Z", generation=1)


def test_a_good_object_has_no_faults() -> None:
    assert texts(obj(labels={"a/b": "c"}, annotations={"X/y": "any thing"}, finalizers=["x/y"],
                     ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u",
                                       "controller": True}])) == []


@pytest.mark.parametrize(("fields", "text"), [
    ({"name": ""}, "metadata.name: Required value: name or generateName is required"),
    ({"name": "A"}, 'metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist'),
    ({"namespace": ""}, "metadata.namespace: Required value"),
    ({"labels": {"a": "b c"}}, 'metadata.labels: Invalid value: "b c": a valid label must be'),
    ({"annotations": {"a": "x" * 300_000}}, "metadata.annotations: Too long: may not be more than 262144 bytes"),
    ({"finalizers": ["orphan", "foregroundDeletion"]}, "metadata.finalizers: Invalid value: "),
    ({"ownerReferences": [{}]}, 'metadata.ownerReferences.apiVersion: Invalid value: "": version must not be empty'),
])
def test_faults_are_told_in_upstream_words(fields: dict[str, Any], text: str) -> None:
    assert texts(obj(**fields))[0].startswith(text)


def test_of_the_collector_s_finalizers_one_may_be_there() -> None:
    for finalizer in ("orphan", "foregroundDeletion"):
        assert texts(obj(finalizers=[finalizer])) == []


def test_two_controllers_are_refused() -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}
    assert "Only one reference can have Controller set to true" in texts(obj(ownerReferences=[owner, owner]))[0]


def test_namespaces_are_refused_where_there_are_none() -> None:
    assert texts(obj(), namespaced=False) == ["metadata.namespace: Forbidden: not allowed on this type"]


def test_updates_keep_what_they_may_not_change() -> None:
    old = obj(uid="u", creationTimestamp="2026-01-01T00:00:00Z", generation=3, resourceVersion="9",
              deletionTimestamp="2026-01-02T00:00:00Z", deletionGracePeriodSeconds=0, generateName="a-")
    new = {"metadata": {"name": "a", "labels": {"x": "y"}, "managedFields": [{}]}}
    metadata.carry_over(new, old)
    assert new == {"metadata": {**old["metadata"], "labels": {"x": "y"}}}
    assert metadata.validate_update(new, old) == []


def test_immutable_fields() -> None:
    old = obj(uid="u")
    new = obj(uid="u", deletionTimestamp="2026-01-02T00:00:00Z") | {}
    metadata.carry_over(new, old)
    assert [str(error) for error in metadata.validate_update(new, old)] == [
        'metadata.deletionTimestamp: Invalid value: "2026-01-02T00:00:00Z": field is immutable']


def test_no_finalizers_come_to_what_is_being_deleted() -> None:
    old = obj(deletionTimestamp="2026-01-02T00:00:00Z", finalizers=["a/b"])
    new = obj(deletionTimestamp="2026-01-02T00:00:00Z", finalizers=["a/b", "c/d"])
    assert "no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}" in (
        str(metadata.validate_update(new, old)[0]))
