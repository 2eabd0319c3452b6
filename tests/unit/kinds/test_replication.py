"""The rules of ReplicationControllers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.kinds import REPLICATION_CONTROLLER, create_errors, made, strategy, template, update_errors

Tree = dict[str, Any]
LABELS = {"app": "web"}


def controller(**spec: Any) -> Tree:
    return {"metadata": {"name": "w", "namespace": "default"}, "spec": {"template": template(), **spec}}


def test_defaults_come_from_the_template() -> None:
    stored = made(REPLICATION_CONTROLLER, controller())
    assert (stored["spec"]["replicas"], stored["spec"]["selector"], stored["metadata"]["labels"]) == (1, LABELS, LABELS)
    assert stored["status"] == {"replicas": 0}
    assert stored["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    assert made(REPLICATION_CONTROLLER, stored) == stored


def test_what_is_given_stays() -> None:
    tree = controller(replicas=0, selector={"app": "web", "tier": "x"})
    tree["metadata"]["labels"] = {"own": "1"}
    stored = made(REPLICATION_CONTROLLER, tree)
    assert (stored["spec"]["replicas"], stored["spec"]["selector"]) == (0, {"app": "web", "tier": "x"})
    assert stored["metadata"]["labels"] == {"own": "1"}


UNLABELLED = {"spec": template()["spec"]}


@pytest.mark.parametrize(("tree", "expected"), [
    (controller(), []), (controller(selector=LABELS), []),
    ({"metadata": {"name": "w"}, "spec": {}}, ["spec.selector: Required value", "spec.template: Required value"]),
    (controller(template=UNLABELLED), ["spec.selector: Required value"]),
    (controller(replicas=-1), ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
    (controller(selector={"app": "other"}), [
        ('spec.template.metadata.labels: Invalid value: map[string]string{"app":"web"}: `selector` does not match '
         "template `labels`")]),
    (controller(template=template(restartPolicy="OnFailure")),
     ['spec.template.spec.restartPolicy: Unsupported value: "OnFailure": supported values: "Always"']),
    (controller(template=template(activeDeadlineSeconds=5)), [
        ("spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not "
         "Supported")])])
def test_validation(tree: Tree, expected: list[str]) -> None:
    assert create_errors(REPLICATION_CONTROLLER, tree) == expected


def test_the_selector_may_change() -> None:
    new = controller(selector={"tier": "x"})
    new["spec"]["template"]["metadata"]["labels"]["tier"] = "x"
    assert update_errors(REPLICATION_CONTROLLER, controller(), new) == []


def test_scale() -> None:
    rules = strategy(REPLICATION_CONTROLLER)
    stored = made(REPLICATION_CONTROLLER, controller(replicas=2, selector={"b": "2", "a": "1"}))
    stored["status"] = {"replicas": 1}
    assert rules.scale(stored) == {"spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "a=1,b=2"}}
    rules.set_scale(stored, 5)
    assert stored["spec"]["replicas"] == 5
    assert rules.fields(stored) == {"status.replicas": "1"}


def test_dependents_are_kept_by_default() -> None:
    assert strategy(REPLICATION_CONTROLLER).keeps_dependents
