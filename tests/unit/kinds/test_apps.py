from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.support.kinds import (
    DEPLOYMENT,
    REPLICASET,
    context,
    create_errors,
    made,
    strategy,
    template,
    update_errors,
    workload,
)

Tree = dict[str, Any]


def test_deployment_defaults() -> None:
    stored = made(DEPLOYMENT, workload())
    spec = stored["spec"]
    assert stored["status"] == {}
    assert {key: spec[key] for key in ("replicas", "strategy", "revisionHistoryLimit", "progressDeadlineSeconds")} == {
        "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}}
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert "enableServiceLinks" not in spec["template"]["spec"]


def test_a_number_of_pods_may_be_more_than_a_hundred() -> None:
    strategy = {"rollingUpdate": {"maxUnavailable": 150, "maxSurge": "150%"}}
    assert create_errors(DEPLOYMENT, workload(strategy=strategy)) == []


def test_zero_is_kept() -> None:
    spec = made(DEPLOYMENT, workload(replicas=0, revisionHistoryLimit=0, strategy={"rollingUpdate": {"maxSurge": 0}}))
    assert spec["spec"]["replicas"] == spec["spec"]["revisionHistoryLimit"] == 0
    assert spec["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": "25%"}
    assert "rollingUpdate" not in made(DEPLOYMENT, workload(strategy={"type": "Recreate"}))["spec"]["strategy"]


def test_replicaset_defaults() -> None:
    stored = made(REPLICASET, workload())
    assert stored["spec"]["replicas"] == 1
    assert stored["status"] == {"replicas": 0}
    assert "strategy" not in stored["spec"]


MISMATCH = ('spec.template.metadata.labels: Invalid value: map[string]string{"app":"web"}: `selector` does not match '
            "template `labels`")


@pytest.mark.parametrize(("tree", "expected"), [
    (workload(), []), (workload(strategy={"type": "Recreate"}), []),
    (workload(selector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]}), []),
    ({"metadata": {"name": "d"}, "spec": {"template": template()}}, ["spec.selector: Required value", MISMATCH]),
    (workload(selector={"matchLabels": {"app": "other"}}), [MISMATCH]),
    (workload(selector={}), [("spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string(nil), "
                             "MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: empty selector is invalid for "
                             "deployment")]),
    (workload(selector={"matchExpressions": [{"key": "app", "operator": "Near"}]}),
     ['spec.selector.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator',
      ("spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string(nil), "
      'MatchExpressions:[]v1.LabelSelectorRequirement{v1.LabelSelectorRequirement{Key:"app", Operator:"Near", '
      "Values:[]string(nil)}}}: invalid label selector")]),
    (workload(replicas=-1), ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
    (workload(strategy={"type": "Slow"}),
     ['spec.strategy: Unsupported value: "Slow": supported values: "Recreate", "RollingUpdate"']),
    (workload(strategy={"type": "Recreate", "rollingUpdate": {}}),
     ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]),
    (workload(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
     [('spec.strategy.rollingUpdate.maxUnavailable: Invalid value: intstr.IntOrString{Type:1, IntVal:0, StrVal:"0%"}: '
      "may not be 0 when `maxSurge` is 0")]),
    (workload(strategy={"rollingUpdate": {"maxUnavailable": "101%"}}),
     [("spec.strategy.rollingUpdate.maxUnavailable: Invalid value: intstr.IntOrString{Type:1, IntVal:0, "
      'StrVal:"101%"}: must not be greater than 100%')]),
    (workload(strategy={"rollingUpdate": {"maxSurge": "many"}}),
     [('spec.strategy.rollingUpdate.maxSurge: Invalid value: intstr.IntOrString{Type:1, IntVal:0, StrVal:"many"}: a '
      "valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
      "validation is '[0-9]+%')")]),
    (workload(progressDeadlineSeconds=5, minReadySeconds=5),
     ["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"]),
    (workload(template=template(restartPolicy="Never")),
     ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"']),
    (workload(template=template(activeDeadlineSeconds=5)),
     ["spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"]),
    (workload(template=template(containers=[])), ["spec.template.spec.containers: Required value"]),
])
def test_deployments(tree: Tree, expected: list[str]) -> None:
    assert create_errors(DEPLOYMENT, tree) == expected


def test_the_selector_is_fixed() -> None:
    new = workload(selector={"matchLabels": {"tier": "x"}})
    new["spec"]["template"]["metadata"]["labels"]["tier"] = "x"
    expected = [('spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string{"tier":"x"}, '
                "MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: field is immutable")]
    assert update_errors(DEPLOYMENT, workload(), new) == expected
    assert update_errors(REPLICASET, workload(), new) == expected


@pytest.mark.parametrize(("status", "expected"), [
    ({"replicas": 2, "readyReplicas": 1, "availableReplicas": 1}, []),
    ({"replicas": 1, "readyReplicas": 2},
     ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]),
    ({"replicas": 2, "availableReplicas": 1},
     ["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"]),
    ({"readyReplicas": -1},
     ["status.readyReplicas: Invalid value: -1: must be greater than or equal to 0",
      "status.availableReplicas: Invalid value: 0: cannot be greater than readyReplicas"]),
    ({"replicas": -1}, [
        "status.replicas: Invalid value: -1: must be greater than or equal to 0",
        "status.updatedReplicas: Invalid value: 0: cannot be greater than status.replicas",
        "status.readyReplicas: Invalid value: 0: cannot be greater than status.replicas",
        "status.availableReplicas: Invalid value: 0: cannot be greater than status.replicas"]),
])
def test_status(status: Tree, expected: list[str]) -> None:
    assert update_errors(DEPLOYMENT, workload(), workload() | {"status": status}, "status") == expected


def test_a_collision_count_never_falls() -> None:
    old, new = made(DEPLOYMENT, workload()), made(DEPLOYMENT, workload())
    old["status"] = {"collisionCount": 2}
    new["status"] = {"collisionCount": 1}
    assert [str(error) for error in strategy(DEPLOYMENT).validate_update(new, old, context("status"))] == [
        "status.collisionCount: Invalid value: 1: cannot be decremented"]


def test_status_and_spec_have_doors_of_their_own() -> None:
    old = made(DEPLOYMENT, workload())
    new = deepcopy(old) | {"status": {"replicas": 3}}
    new["spec"]["replicas"] = 9
    through_status = deepcopy(new)
    strategy(DEPLOYMENT).prepare_update(through_status, old, context("status"))
    assert through_status["spec"]["replicas"] == 1
    assert through_status["status"] == {"replicas": 3}
    strategy(DEPLOYMENT).prepare_update(new, old, context())
    assert new["spec"]["replicas"] == 9
    assert new["status"] == {}


def test_generation() -> None:
    old = made(DEPLOYMENT, workload())
    annotated = deepcopy(old)
    annotated["metadata"]["annotations"] = {"a": "b"}
    scaled = deepcopy(old)
    scaled["spec"]["replicas"] = 2
    for key, of_annotations in ((DEPLOYMENT, True), (REPLICASET, False)):
        rules = strategy(key)
        assert rules.has_generation
        assert rules.changes_generation(scaled, old)
        assert rules.changes_generation(annotated, old) is of_annotations
        assert not rules.changes_generation(deepcopy(old), old)


def test_scale() -> None:
    stored = made(DEPLOYMENT, workload(replicas=3))
    stored["status"] = {"replicas": 2}
    rules = strategy(DEPLOYMENT)
    assert rules.scale(stored) == {"spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=web"}}
    rules.set_scale(stored, 0)
    assert rules.scale(stored) == {"spec": {}, "status": {"replicas": 2, "selector": "app=web"}}


def test_fields() -> None:
    assert strategy(REPLICASET).fields({"status": {"replicas": 2}}) == {"status.replicas": "2"}


def test_template_warnings() -> None:
    tree = workload(template=template(imagePullSecrets=[{"name": "a"}, {"name": "a"}]))
    assert strategy(DEPLOYMENT).warnings(made(DEPLOYMENT, tree)) == [
        'spec.template.spec.imagePullSecrets[1].name: duplicate name "a"']


def test_controller_revisions() -> None:
    key = ("apps", "controllerrevisions")
    tree = {"metadata": {"name": "r"}, "data": {"a": 1}, "revision": 1}
    assert create_errors(key, tree) == []
    assert create_errors(key, {"metadata": {"name": "r"}, "revision": -1}) == [
        "data: Required value: data is mandatory", "revision: Invalid value: -1: must be greater than or equal to 0"]
    assert update_errors(key, tree, {**deepcopy(tree), "revision": 2}) == []
    assert update_errors(key, tree, {**deepcopy(tree), "data": {"a": 2}}) == [
        'data: Invalid value: {"a":2}: field is immutable']
    assert update_errors(key, tree, {**deepcopy(tree), "data": {"a": 1, "b": ""}}) == [
        'data: Invalid value: {"a":1,"b":""}: field is immutable']
