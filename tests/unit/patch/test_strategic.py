import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.patch import apply_strategic_patch
from master.apiserver.schema import load_definitions
from sampan.api.errors import ApiError

DEFINITIONS = load_definitions()
POD_SPEC = "io.k8s.api.core.v1.PodSpec"
CONTAINER = "io.k8s.api.core.v1.Container"
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
DEPLOYMENT = "io.k8s.api.apps.v1.DeploymentSpec"


def patched(definition: str, tree: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy((tree, patch))
    result = apply_strategic_patch(tree, patch, definition, DEFINITIONS)
    assert before == (tree, patch)
    return result


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


@pytest.mark.parametrize(("definition", "tree", "patch", "wanted"), [
    # plain fields, objects, maps
    (CONTAINER, {"image": "a"}, {"image": "b"}, {"image": "b"}),
    (CONTAINER, {"image": "a", "tty": True}, {"image": None}, {"tty": True}),
    (CONTAINER, {}, {"image": None, "resources": {"limits": {"cpu": None, "memory": "1"}}},
     {"resources": {"limits": {"memory": "1"}}}),
    (META, {"labels": {"a": "1", "b": "2"}}, {"labels": {"b": None, "c": "3"}}, {"labels": {"a": "1", "c": "3"}}),
    (META, {"labels": {"a": "1"}}, {"labels": None}, {}),
    (META, {"labels": {"a": "1"}}, {"labels": {"$patch": "replace", "b": "2"}}, {"labels": {"b": "2"}}),
    (META, {"labels": {"a": "1"}}, {"labels": {"$patch": "delete"}}, {"labels": {}}),
    (META, {"labels": {"a": "1"}}, {"labels": {"$patch": "merge", "b": "2"}}, {"labels": {"a": "1", "b": "2"}}),
    (META, {"name": "x"}, {"labels": {"$patch": "delete"}}, {"name": "x"}),
    (META, {}, {"labels": {"$patch": "replace", "b": "2"}}, {"labels": {"b": "2"}}),
    # lists without a strategy are replaced
    (CONTAINER, {"args": ["a", "b"]}, {"args": ["c"]}, {"args": ["c"]}),
    (POD_SPEC, {"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
    # lists of objects merge by key; what the patch adds comes first
    (POD_SPEC, {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]},
     {"containers": [{"name": "b", "image": "3"}]},
     {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
    (POD_SPEC, {"containers": named("a", "b")}, {"containers": named("c")}, {"containers": named("c", "a", "b")}),
    (POD_SPEC, {"containers": named("a", "b", "c")}, {"containers": named("d", "b")},
     {"containers": named("d", "a", "b", "c")}),
    (POD_SPEC, {"containers": named("a", "b")}, {"containers": named("b", "a")}, {"containers": named("b", "a")}),
    (POD_SPEC, {"containers": named("a", "b")}, {"containers": []}, {"containers": named("a", "b")}),
    (POD_SPEC, {}, {"containers": [{"name": "a", "image": None, "env": [{"name": "X", "$patch": "delete"}]}]},
     {"containers": [{"name": "a", "env": []}]}),
    (POD_SPEC, {"containers": named("a")}, {"containers": None}, {}),
    # nested merge keys
    (POD_SPEC, {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
                                "ports": [{"containerPort": 80}]}]},
     {"containers": [{"name": "a", "env": [{"name": "Y", "value": "3"}],
                      "ports": [{"containerPort": 80, "name": "http"}]}]},
     {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}],
                      "ports": [{"containerPort": 80, "name": "http"}]}]}),
    # deleting and replacing in lists
    (POD_SPEC, {"containers": named("a", "b")}, {"containers": [{"name": "a", "$patch": "delete"}]},
     {"containers": named("b")}),
    (POD_SPEC, {"containers": named("a")}, {"containers": [{"name": "z", "$patch": "delete"}, {"name": "b"}]},
     {"containers": named("b", "a")}),
    (POD_SPEC, {"containers": named("a", "b")}, {"containers": [{"$patch": "replace"}, {"name": "c"}]},
     {"containers": named("c")}),
    (POD_SPEC, {"containers": [{"name": "a", "image": "1", "tty": True}]},
     {"containers": [{"name": "a", "securityContext": {"$patch": "delete"}}]},
     {"containers": [{"name": "a", "image": "1", "tty": True}]}),
    # lists of strings
    (META, {"finalizers": ["a", "b"]}, {"finalizers": ["c"]}, {"finalizers": ["c", "a", "b"]}),
    (META, {"finalizers": ["a", "b"]}, {"finalizers": ["b"]}, {"finalizers": ["a", "b"]}),
    (META, {"finalizers": ["a", "b", "a"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
    (META, {}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {}),
    (META, {"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"],
                                        "$setElementOrder/finalizers": ["b", "c"]}, {"finalizers": ["b", "c"]}),
    # the wanted order
    (POD_SPEC, {"containers": named("a", "b", "c")}, {"$setElementOrder/containers": named("c", "b", "a")},
     {"containers": named("c", "b", "a")}),
    (POD_SPEC, {"containers": named("a", "b")}, {"$setElementOrder/containers": named("a", "x", "b"),
                                                 "containers": [{"name": "x", "image": "i"}]},
     {"containers": [{"name": "a"}, {"name": "x", "image": "i"}, {"name": "b"}]}),
    (POD_SPEC, {"containers": named("a", "server", "b")}, {"$setElementOrder/containers": named("b", "a")},
     {"containers": named("server", "b", "a")}),
    (POD_SPEC, {"containers": named("server", "a", "b")}, {"$setElementOrder/containers": named("b", "a")},
     {"containers": named("server", "b", "a")}),
    (POD_SPEC, {"containers": named("a", "b")}, {"$setElementOrder/containers": named("b"),
                                                 "containers": [{"name": "a", "$patch": "delete"}]},
     {"containers": named("b")}),
    (POD_SPEC, {}, {"$setElementOrder/containers": named("a")}, {}),
    (POD_SPEC, {}, {"$setElementOrder/containers": named("b", "a"), "containers": named("a")},
     {"containers": named("a")}),
    (META, {"finalizers": ["a", "b"]}, {"$setElementOrder/finalizers": ["b", "a"]}, {"finalizers": ["b", "a"]}),
    # retainKeys: a volume changes its type, a strategy its kind
    (POD_SPEC, {"volumes": [{"name": "v", "emptyDir": {}}]},
     {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]},
     {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
    (DEPLOYMENT, {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
     {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}, {"strategy": {"type": "Recreate"}}),
    (DEPLOYMENT, {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
     {"strategy": {"$retainKeys": ["type"], "rollingUpdate": None, "type": "Recreate"}},
     {"strategy": {"type": "Recreate"}}),
    # a changed type of value is simply taken
    (CONTAINER, {"args": ["a"]}, {"args": "x"}, {"args": "x"}),
    ("io.k8s.api.apps.v1.ControllerRevision", {"data": {"l": [1], "m": {"a": 1}}}, {"data": {"l": [2], "m": {"b": 2}}},
     {"data": {"l": [2], "m": {"a": 1, "b": 2}}}),
    ("no.such.Thing", {"l": [1], "m": {"a": 1}}, {"l": [2], "m": {"a": None}}, {"l": [2], "m": {}}),
    # merge strategy on lists without a list type: conditions
    ("io.k8s.api.core.v1.PodStatus", {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X"}]},
     {"conditions": [{"type": "Ready", "status": "True"}]},
     {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X"}]}),
])
def test_patches(definition: str, tree: dict[str, Any], patch: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert patched(definition, tree, patch) == wanted


def test_a_replaced_strategy_field_is_taken_whole() -> None:
    strategies = {name: schema for name, schema in DEFINITIONS.items()
                  if any(child.get("x-kubernetes-patch-strategy") == "replace"
                         for child in schema.get("properties", {}).values())}
    assert strategies  # the definitions have one; it is a list or an object
    definition, schema = next(iter(strategies.items()))
    key, child = next((key, child) for key, child in schema["properties"].items()
                      if child.get("x-kubernetes-patch-strategy") == "replace")
    old, new = ([{"a": 1}], [{"b": 2}]) if child.get("type") == "array" else ({"a": 1}, {"b": 2})
    assert patched(definition, {key: old}, {key: new}) == {key: new}


@pytest.mark.parametrize(("definition", "tree", "patch", "code", "text"), [
    (META, {"labels": {"a": "1"}}, {"labels": {"$patch": "explode"}}, 422, "unknown patch type: explode in map"),
    (POD_SPEC, {"containers": named("a")}, {"containers": [{"image": "x", "args": ["b", "c"], "tty": True}]}, 422,
     "map: map[args:[b c] image:x tty:true] does not contain declared merge key: name"),
    (POD_SPEC, {"containers": named("a")}, {"containers": [{"$patch": "delete"}]}, 422, "declared merge key: name"),
    (POD_SPEC, {"containers": named("a")}, {"containers": [{"name": "a", "$patch": "merge"}]}, 422,
     "merging lists cannot yet be specified in the patch"),
    (POD_SPEC, {"containers": named("a")}, {"containers": [{"name": "a", "$patch": "x"}]}, 422,
    "unknown patch type: x"),
    (POD_SPEC, {"containers": named("a")}, {"containers": ["a"]}, 422, "list element types are not identical"),
    (POD_SPEC, {"containers": named("a")}, {"containers": [["a"]]}, 422, "lists of lists are not supported"),
    (META, {"finalizers": ["a"]}, {"$deleteFromPrimitiveList/finalizers": "a"}, 400,
     "invalid patch format of primitive list"),
    (META, {"finalizers": ["a"]}, {"$setElementOrder/finalizers": "a"}, 400,
     "invalid patch format of setElementOrder list"),
    (META, {"finalizers": "a"}, {"$setElementOrder/finalizers": ["a"]}, 400,
     "invalid patch format of setElementOrder list"),
    (POD_SPEC, {"containers": named("a", "b")}, {"$setElementOrder/containers": named("a"), "containers": named("b")},
     422, "The order in patch list"),
    (POD_SPEC, {"containers": named("a")}, {"$setElementOrder/containers": [{}]}, 422, "declared merge key: name"),
    (DEPLOYMENT, {"strategy": {}}, {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}, 400,
     "invalid patch format of retainKeys"),
    (DEPLOYMENT, {"strategy": {}}, {"strategy": {"$retainKeys": "type"}}, 400, "invalid patch format of retainKeys"),
])
def test_refused(definition: str, tree: dict[str, Any], patch: dict[str, Any], code: int, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        patched(definition, tree, patch)
    assert caught.value.code == code
    assert text in str(caught.value)


entries = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


@given(entries, entries)
def test_merging_lists_keeps_all_and_the_patchs_order(live: list[str], change: list[str]) -> None:
    result = [item["name"] for item in patched(POD_SPEC, {"containers": named(*live)},
                                               {"containers": named(*change)}).get("containers", [])]
    assert sorted(result) == sorted({*live, *change})
    assert [name for name in result if name in change] == change
    assert [name for name in result if name not in change] == [name for name in live if name not in change]


@given(entries, entries, st.data())
def test_the_wanted_order_wins(live: list[str], order: list[str], data: st.DataObject) -> None:
    change = data.draw(st.lists(st.sampled_from(order), unique=True) if order else st.just([]))
    change.sort(key=order.index)
    tree = {"finalizers": live} if live else {}
    result = patched(META, tree, {"finalizers": change, "$setElementOrder/finalizers": order}).get("finalizers", [])
    assert sorted(result) == sorted({*live, *change})
    assert [name for name in result if name in order] == [name for name in order if name in result]


patches: Any = st.recursive(
    st.none() | st.text("ab", max_size=2) | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "containers", "env", "volumes", "$patch", "$retainKeys", "$setElementOrder/containers", "x",
         "$deleteFromPrimitiveList/args", "args"]), inner | st.sampled_from(["delete", "replace"]), max_size=4),
    max_leaves=10)


@given(st.dictionaries(st.sampled_from(["containers", "volumes", "$patch", "$setElementOrder/containers", "x"]),
 patches))
def test_any_patch_applies_or_is_refused(patch: dict[str, Any]) -> None:
    tree = {"containers": [{"name": "a", "env": [{"name": "X"}], "args": ["b"]}], "volumes": [{"name": "v"}]}
    try:
        patched(POD_SPEC, tree, patch)
    except ApiError as error:
        assert error.code in (400, 422)  # noqa: PT017 - both outcomes are right


def test_long_lists_merge_in_one_pass() -> None:
    """Each entry looked for in the whole list would take minutes here, and hold up everybody else."""
    count = 30_000
    tree = {"finalizers": [f"a/{index}" for index in range(count)],
            "ownerReferences": [{"uid": str(index)} for index in range(count)]}
    patch = {"$deleteFromPrimitiveList/finalizers": [f"a/{index}" for index in range(1, 2 * count)],
             "ownerReferences": [{"uid": str(index), "name": "x"} for index in range(count - 1)]}
    result = patched(META, tree, patch)
    assert result["finalizers"] == ["a/0"]
    assert [owner.get("name") for owner in result["ownerReferences"]] == ["x"] * (count - 1) + [None]
    gone = [{"uid": str(index), "$patch": "delete"} for index in range(1, count)]
    assert patched(META, tree, {"ownerReferences": gone})["ownerReferences"] == [{"uid": "0"}]
