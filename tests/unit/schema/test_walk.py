import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.apiserver.schema import (
    SchemaRegistry,
    encode_with_slot,
    join_errors,
    load_definitions,
    strict_error,
    strict_problems,
)
from sampan.api.codec import from_tree
from sampan.api.errors import ApiError, required
from sampan.api.types import apps_v1, core_v1

POD = "io.k8s.api.core.v1.Pod"
DEPLOYMENT = "io.k8s.api.apps.v1.Deployment"


def pod(**container: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i", **container}]}}


def misfit(registry: SchemaRegistry, definition: str, tree: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        registry.of(definition).clean(tree)
    assert (caught.value.code, caught.value.reason) == (400, "BadRequest")
    return str(caught.value)


def test_a_great_many_unknown_fields_go_in_one_pass(registry: SchemaRegistry) -> None:
    """One after the other out of a list of all would take minutes, and hold up everybody else."""
    tree = pod() | {f"x{index}": 1 for index in range(100_000)}
    found = registry.of(POD).clean(tree)
    assert sorted(tree) == ["apiVersion", "kind", "metadata", "spec"]
    assert found.unknown == [f"x{index}" for index in range(100)]  # upstream tells of as many


def test_unknown_fields_go_and_are_told(registry: SchemaRegistry) -> None:
    tree = pod(foo=1, env=[{"name": "A", "valu": "x"}])
    tree["spec"]["bar"] = {"deep": 1}
    tree["metadata"]["labels"] = {"free": "x"}
    found = registry.of(POD).clean(tree)
    assert found.unknown == ["spec.containers[0].foo", "spec.containers[0].env[0].valu", "spec.bar"]
    assert tree == {**pod(env=[{"name": "A"}]), "metadata": {"name": "a", "labels": {"free": "x"}}}


def test_nulls_are_dropped(registry: SchemaRegistry) -> None:
    tree = pod(command=None, args=["a", None], env=[{"name": "A", "value": None}])
    tree["metadata"]["labels"] = {"a": None}
    tree["status"] = None
    registry.of(POD).clean(tree)
    assert tree == {**pod(args=["a", ""], env=[{"name": "A"}]), "metadata": {"name": "a", "labels": {"a": ""}}}


def test_empty_lists_and_maps_are_the_same_as_none(registry: SchemaRegistry) -> None:
    tree = pod(command=[], env=[], securityContext={}, resources={"limits": {}})
    tree["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    tree["metadata"]["labels"] = {}
    registry.of(POD).clean(tree)
    wanted = pod(securityContext={}, resources={})
    wanted["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    assert tree == wanted


def test_canonical_forms(registry: SchemaRegistry) -> None:
    tree = pod(resources={"limits": {"cpu": 1, "memory": "1024Mi", "ephemeral-storage": 0.5}},
               livenessProbe={"httpGet": {"port": "http"}})
    tree["metadata"]["creationTimestamp"] = "2024-05-06T09:08:09.123+02:00"
    registry.of(POD).clean(tree)
    container = tree["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "500m"}
    assert container["livenessProbe"]["httpGet"]["port"] == "http"
    assert tree["metadata"]["creationTimestamp"] == "2024-05-06T07:08:09Z"
    lease = {"metadata": {"name": "a"}, "spec": {"renewTime": "2024-05-06T07:08:09.5Z"}}
    registry.of("io.k8s.api.coordination.v1.Lease").clean(lease)
    assert lease["spec"] == {"renewTime": "2024-05-06T07:08:09.500000Z"}


@pytest.mark.parametrize(("change", "text"), [
    ({"replicas": "3"},
     "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
    ({"replicas": 1.5}, ("json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type "
                        "int32")),
    ({"replicas": 2**31}, ("json: cannot unmarshal number 2147483648 into Go struct field "
                          "DeploymentSpec.spec.replicas of type int32")),
    ({"replicas": True}, "json: cannot unmarshal bool into Go struct field DeploymentSpec.spec.replicas of type int32"),
    ({"paused": "yes"}, "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool"),
    ({"template": []}, ("json: cannot unmarshal array into Go struct field DeploymentSpec.spec.template of type "
                       "v1.PodTemplateSpec")),
    ({"template": {"spec": {"containers": {}}}}, ("json: cannot unmarshal object into Go struct field "
     "PodSpec.spec.template.spec.containers of type []v1.Container")),
    ({"template": {"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}},
     ("json: cannot unmarshal string into Go struct field "
     "ContainerPort.spec.template.spec.containers.ports.containerPort of type int32")),
    ({"template": {"spec": {"containers": [{"env": [{"name": "A", "value": 5}]}]}}},
     ("json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type "
      "string")),
    ({"template": {"metadata": {"labels": {"a": 1}}}},
     "json: cannot unmarshal number into Go struct field ObjectMeta.spec.template.metadata.labels of type string"),
    ({"template": {"metadata": {"labels": []}}},
     ("json: cannot unmarshal array into Go struct field ObjectMeta.spec.template.metadata.labels of type "
     "map[string]string")),
    ({"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "abc"}}}]}}},
     "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ({"template": {"metadata": {"creationTimestamp": "now"}}},
     'parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006"'),
    ({"template": {"metadata": {"creationTimestamp": "2024-13-01T00:00:00Z"}}},
     'parsing time "2024-13-01T00:00:00Z": day, hour or month out of range'),
    ({"template": {"metadata": {"creationTimestamp": 5}}}, ("json: cannot unmarshal number into Go struct field "
     "ObjectMeta.spec.template.metadata.creationTimestamp of type string")),
    ({"strategy": {"rollingUpdate": {"maxSurge": 1.5}}}, ("json: cannot unmarshal number 1.5 into Go struct field "
     "RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32")),
])
def test_wrong_types(registry: SchemaRegistry, change: dict[str, Any], text: str) -> None:
    message = misfit(registry, DEPLOYMENT, {"apiVersion": "apps/v1", "kind": "Deployment", "spec": change})
    assert message == f'Deployment in version "v1" cannot be handled as a Deployment: {text}'


def test_bytes(registry: SchemaRegistry) -> None:
    secret = "io.k8s.api.core.v1.Secret"
    tree = {"data": {"a": "aGVs\nbG8=", "b": "", "c": None}, "metadata": {}}
    registry.of(secret).clean(tree)
    assert tree["data"] == {"a": "aGVsbG8=", "b": "", "c": ""}
    assert misfit(registry, secret, {"data": {"a": "aGV*"}}).endswith("illegal base64 data at input byte 3")
    assert misfit(registry, secret, {"data": {"a": "aGV"}}).endswith("illegal base64 data at input byte 3")
    assert "of type []uint8" in misfit(registry, secret, {"data": {"a": 1}})


@pytest.mark.parametrize(("definition", "tree", "paths"), [
    (POD, {"metadata": {}, "spec": {}}, ["spec.containers"]),
    (POD, {}, ["spec.containers"]),
    (POD, {"spec": {"containers": [{}], "volumes": [None]}}, ["spec.containers[0].name", "spec.volumes[0].name"]),
    (POD, pod(ports=[{}]), ["spec.containers[0].ports[0].containerPort"]),
    (DEPLOYMENT, {"spec": {}}, ["spec.selector", "spec.template.spec.containers"]),
    ("io.k8s.api.rbac.v1.RoleBinding", {"roleRef": {"kind": "Role", "name": "x"}}, []),
    ("io.k8s.api.apps.v1.ControllerRevision", {}, []),
])
def test_required_fields(registry: SchemaRegistry, definition: str, tree: dict[str, Any], paths: list[str]) -> None:
    found = registry.of(definition).clean(tree)
    assert [str(error) for error in found.errors] == [f"{path}: Required value" for path in paths]


def test_a_status_is_filled_up_without_complaint(registry: SchemaRegistry) -> None:
    tree = pod()
    tree["status"] = {"containerStatuses": [{"name": "c"}], "podIPs": [{}]}
    assert registry.of(POD).clean(tree).errors == []
    assert tree["status"]["containerStatuses"] == [
        {"name": "c", "image": "", "imageID": "", "ready": False, "restartCount": 0}]
    assert from_tree(core_v1.Pod, tree).status.container_statuses[0].ready is False


def test_an_object_with_a_missing_time_can_be_read(registry: SchemaRegistry) -> None:
    """No validation asks for it, as upstream's does not: who watches Services must not stumble over it."""
    tree: dict[str, Any] = {"metadata": {"name": "s"}, "status": {"conditions": [{"type": "a", "status": "True"}]}}
    assert registry.of("io.k8s.api.core.v1.Service").clean(tree).errors == []
    status = from_tree(core_v1.Service, tree).status
    assert status is not None
    assert [condition.last_transition_time for condition in status.conditions] == [None]


def test_free_form_parts_stay_as_they_are(registry: SchemaRegistry) -> None:
    data = {"x": None, "y": [], "z": {"apiVersion": 1, "type": {}, "properties": None}}
    tree = {"metadata": {"name": "a"}, "data": data, "revision": 1}
    assert registry.of("io.k8s.api.apps.v1.ControllerRevision").clean(tree).unknown == []
    assert tree["data"] == {"x": None, "y": [], "z": {"apiVersion": 1, "type": {}, "properties": None}}
    assert "map[string]interface {}" in misfit(registry, "io.k8s.api.apps.v1.ControllerRevision", {"data": 1})


def test_schemas_as_objects(registry: SchemaRegistry) -> None:
    """A CRD's own schema has fields named like JSON Schema's words, and refers to itself."""
    definition = ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")
    schema = {"type": "object", "properties": {"type": {"type": "string", "default": None},
                                               "properties": {"type": "object", "x-kubernetes-int-or-string": True},
                                               "$ref": {"type": "string", "$ref": "x", "bad": 1}}}
    tree = {"metadata": {"name": "a"}, "spec": {
        "group": "g", "names": {"plural": "a", "kind": "A"}, "scope": "Cluster",
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}}
    found = registry.of(definition).clean(tree)
    assert found.unknown == ["spec.versions[0].schema.openAPIV3Schema.properties.$ref.bad"]
    assert found.errors == []
    assert schema["properties"] == {"type": {"type": "string"},
                                    "properties": {"type": "object", "x-kubernetes-int-or-string": True},
                                    "$ref": {"type": "string", "$ref": "x"}}


def test_custom_schemas_may_keep_unknown_fields() -> None:
    definitions = {"x.v1.Thing": {"type": "object", "properties": {
        "type": {"type": "string"}, "size": {"x-kubernetes-int-or-string": True}, "ratio": {"type": "number"},
        "inner": {"type": "object", "x-kubernetes-preserve-unknown-fields": True,
                  "properties": {"properties": {"type": "object", "properties": {"a": {"type": "integer"}}}}}}}}
    tree = {"type": "t", "size": "5%", "ratio": 1.5, "inner": {"free": {"b": 1}, "properties": {"a": 1, "b": 2}}}
    found = SchemaRegistry(definitions).of("x.v1.Thing").clean(tree)
    assert found.unknown == ["inner.properties.b"]
    assert tree["inner"] == {"free": {"b": 1}, "properties": {"a": 1}}
    with pytest.raises(ApiError, match=r"into Go struct field Thing\.ratio of type float64"):
        SchemaRegistry(definitions).of("x.v1.Thing").clean({"ratio": "a"})


def test_every_definition_compiles(registry: SchemaRegistry) -> None:
    for name, schema in registry.definitions.items():
        compiled = registry.of(name)
        assert compiled.raw is schema
        if schema.get("type") == "object":
            compiled.clean({})


def test_strict_texts() -> None:
    problems = strict_problems(["spec.foo"], ["spec.replicas", "spec.foo"])
    assert problems == ['unknown field "spec.foo"', 'duplicate field "spec.replicas"']
    assert str(strict_error("v1", "Deployment", problems)) == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
        'unknown field "spec.foo", duplicate field "spec.replicas"')
    assert strict_problems([], ["yaml: unmarshal errors:\n  line 1: x"]) == ["yaml: unmarshal errors:\n  line 1: x"]


def test_the_strategy_has_the_last_word_on_a_field() -> None:
    schema, strategy = [required("a"), required("b")], [required("b", "must have one")]
    assert [str(error) for error in join_errors(strategy, schema)] == [
        "a: Required value", "b: Required value: must have one"]


def test_encoding_leaves_a_slot() -> None:
    tree = {"spec": {"x": 1}, "metadata": {"annotations": {"resourceVersion": ""}, "resourceVersion": "7",
                                          "name": 'a"'},
            "kind": '"resourceVersion":""', "apiVersion": "v1"}
    data, slot = encode_with_slot(tree)
    assert data[:slot].endswith(b'"resourceVersion":"')
    spliced = msgspec.json.decode(data[:slot] + b"42" + data[slot:])
    assert spliced == {**tree, "metadata": {**tree["metadata"], "resourceVersion": "42"}}
    assert list(spliced) == ["kind", "apiVersion", "metadata", "spec"]
    assert list(spliced["metadata"])[:2] == ["name", "resourceVersion"]
    assert tree["metadata"]["resourceVersion"] == "7"
    assert encode_with_slot({})[0] == b'{"metadata":{"resourceVersion":""}}'


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "image", "ports", "env", "metadata", "spec", "labels", "containers", "x", "limits", "cpu"]), inner),
    max_leaves=12)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "kind", "apiVersion", "x"]), values))
def test_any_tree_is_cleaned_or_refused(tree: dict[str, Any]) -> None:
    schema = _shared.of(POD)
    try:
        found = schema.clean(tree)
    except ApiError as error:
        assert error.code == 400  # noqa: PT017 - both outcomes are right
        return
    again = msgspec.json.decode(msgspec.json.encode(tree))
    second = schema.clean(again)
    assert again == tree
    assert second.unknown == []
    if not found.errors:
        from_tree(core_v1.Pod, tree)


_shared = SchemaRegistry(load_definitions())


def test_the_types_can_read_what_was_cleaned(registry: SchemaRegistry) -> None:
    tree = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}},
            "status": {"conditions": [{"type": "x", "status": "True"}]}}
    assert registry.of(DEPLOYMENT).clean(tree).errors == []
    assert from_tree(apps_v1.Deployment, tree).spec.template.spec is not None


def test_a_tree_is_walked_once(registry: SchemaRegistry) -> None:
    """One call an object and three steps in C for it: that is what makes it a matter of microseconds."""
    def calls(count: int) -> dict[str, int]:
        made = pod(env=[{"name": f"E{index}", "value": "v"} for index in range(count)],
                   resources={"limits": {"cpu": "1", "memory": "1Gi"}})
        found = {"call": 0, "c_call": 0, "return": 0, "c_return": 0, "c_exception": 0}

        def profile(_frame: object, event: str, _argument: object) -> None:
            found[event] += 1

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            registry.of(POD).clean(made)
        finally:
            sys.setprofile(before)
        return found

    calls(1)  # compiles what is not compiled yet
    few, many = calls(10), calls(110)
    assert few["call"] <= 50
    assert many["call"] - few["call"] == 100
    assert many["c_call"] - few["c_call"] <= 400
