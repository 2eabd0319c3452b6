"""Deployments, ReplicaSets and ControllerRevisions (apps)."""

from __future__ import annotations

from typing import Any

from master.apiserver.kinds import checks, pod_defaults, pod_validation, pod_warnings
from master.apiserver.kinds.common import (
    NIL,
    Errors,
    Tree,
    child,
    drop_unset,
    go_int_or_string,
    go_map,
    go_selector,
    immutable,
    keep,
    metadata,
    notes,
    part,
    same,
    set_default,
    spec,
    status,
)
from master.apiserver.strategy import Context, Strategy
from sampan.api import names, selectors
from sampan.api.errors import IMMUTABLE, forbidden, invalid, not_supported, required

STRATEGIES = ("Recreate", "RollingUpdate")
TOO_MANY = "cannot be greater than status.replicas"
FULL = 100  # percent


class Replicated(Strategy):
    """What Deployments, ReplicaSets and ReplicationControllers have in common: a template, a selector, a number."""

    has_generation = True
    counts: tuple[str, ...] = ()

    def default(self, obj: Tree) -> None:
        """One pod; the template's own defaults."""
        tree = child(obj, "spec")
        tree.setdefault("replicas", 1)
        drop_unset(tree, ("minReadySeconds",))
        pod_defaults.default_template(child(tree, "template"))

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """The status belongs to its own door."""
        keep(new, old, "spec" if context.subresource == "status" else "status")

    def changes_generation(self, new: Tree, old: Tree) -> bool:
        """The spec counts."""
        return not same(spec(new), spec(old))

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Selector, template, numbers."""
        if context.subresource == "status":
            return _status(status(obj), self.counts)
        tree = spec(obj)
        errors = checks.nonnegative("spec.replicas", tree.get("replicas") or 0)
        errors += checks.nonnegative("spec.minReadySeconds", tree.get("minReadySeconds") or 0)
        return errors + self.validate_pods(tree)

    def validate_pods(self, tree: Tree) -> Errors:
        """The spec's selector and template, and that they fit together."""
        return _selector_and_template(tree)

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """The selector is fixed: pods that it found before would be orphaned."""
        if context.subresource == "status":
            before, after = status(old).get("collisionCount"), status(new).get("collisionCount")
            if before is not None and (after is None or after < before):
                return [invalid("status.collisionCount", after or 0, "cannot be decremented")]
            return []
        return self.validate_selector_update(new, old)

    def validate_selector_update(self, new: Tree, old: Tree) -> Errors:
        """See validate_update."""
        after_selector = spec(new).get("selector")
        return immutable("spec.selector", after_selector, spec(old).get("selector"), go_selector(after_selector))

    def warnings(self, obj: Tree) -> list[str]:
        """Those of the template."""
        return pod_warnings.template_warnings(part(spec(obj), "template"), "spec.template")

    def update_warnings(self, new: Tree, old: Tree) -> list[str]:
        """The same, to who changes the spec."""
        return [] if metadata(new).get("generation") == metadata(old).get("generation") else self.warnings(new)

    def scale(self, obj: Tree) -> Tree:
        """How many there shall be, how many there are, and which they are."""
        replicas = spec(obj).get("replicas", 1)
        result: Tree = {"spec": {"replicas": replicas} if replicas else {},
                        "status": {"replicas": status(obj).get("replicas", 0)}}
        if text := self.selector_text(spec(obj)):
            result["status"]["selector"] = text
        return result

    def selector_text(self, tree: Tree) -> str:
        """The spec's selector as the Scale tells it."""
        return selector_text(tree.get("selector"))

    def set_scale(self, obj: Tree, replicas: int) -> None:
        """Only the number changes."""
        child(obj, "spec")["replicas"] = replicas


class DeploymentStrategy(Replicated):
    """The rules of Deployments."""

    counts = ("updatedReplicas", "readyReplicas", "availableReplicas")

    def default(self, obj: Tree) -> None:
        """Rolling updates by quarters, ten old revisions, ten minutes to progress."""
        super().default(obj)
        tree = spec(obj)
        strategy = child(tree, "strategy")
        set_default(strategy, "type", "RollingUpdate")
        if strategy["type"] == "RollingUpdate":
            rolling = child(strategy, "rollingUpdate")
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")
        drop_unset(tree, ("paused",))
        tree.setdefault("revisionHistoryLimit", 10)
        tree.setdefault("progressDeadlineSeconds", 600)

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """No status yet."""
        obj["status"] = {}

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """Whoever writes the status does not write labels."""
        super().prepare_update(new, old, context)
        if context.subresource == "status":
            keep(child(new, "metadata"), metadata(old), "labels")

    def changes_generation(self, new: Tree, old: Tree) -> bool:
        """The annotations count as well: the controller copies them to the ReplicaSets."""
        return super().changes_generation(new, old) or notes(new) != notes(old)

    def validate(self, obj: Tree, context: Context) -> Errors:
        """And the rollout's numbers."""
        errors = super().validate(obj, context)
        if context.subresource == "status":
            return errors
        tree = spec(obj)
        errors += _rollout(part(tree, "strategy"))
        errors += checks.nonnegative("spec.revisionHistoryLimit", tree.get("revisionHistoryLimit") or 0)
        deadline = tree.get("progressDeadlineSeconds")
        if deadline is not None:
            errors += checks.nonnegative("spec.progressDeadlineSeconds", deadline)
            if deadline <= (tree.get("minReadySeconds") or 0):
                errors.append(invalid("spec.progressDeadlineSeconds", deadline,
                                      "must be greater than minReadySeconds"))
        return errors


class ReplicaSetStrategy(Replicated):
    """The rules of ReplicaSets."""

    counts = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """No pods yet."""
        obj["status"] = {"replicas": 0}

    def fields(self, obj: Tree) -> dict[str, str]:
        """How many there are."""
        return {"status.replicas": str(status(obj).get("replicas") or 0)}


def selector_text(selector: Tree | None) -> str:
    """A LabelSelector as `kubectl` and the Scale write it: app=web,tier in (a,b)."""
    try:
        return str(selectors.of_object(selector))
    except selectors.SelectorError:
        return ""


def _selector_and_template(tree: Tree) -> Errors:
    errors: Errors = []
    selector = tree.get("selector")
    if selector is None:
        errors.append(required("spec.selector"))
    else:
        errors += checks.label_selector("spec.selector", selector)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            errors.append(invalid("spec.selector", go_selector(selector), "empty selector is invalid for deployment"))
    template = part(tree, "template")
    found = part(template, "metadata").get("labels")
    try:
        parsed = selectors.of_object(selector)
    except selectors.SelectorError:
        return [*errors, invalid("spec.selector", go_selector(selector), "invalid label selector")]
    if not parsed.matches(found or {}):
        errors.append(invalid("spec.template.metadata.labels", go_map(found),
                              "`selector` does not match template `labels`"))
    return errors + lasting_template(template, "ReplicaSet")


def lasting_template(template: Tree, kind: str) -> Errors:
    """A template whose pods are to run for good; `kind` is what upstream's message calls its owner."""
    errors = pod_validation.template(template, "spec.template")
    pods = part(template, "spec")
    if pods.get("restartPolicy") != "Always":
        errors.append(not_supported("spec.template.spec.restartPolicy", pods.get("restartPolicy") or "", ("Always",)))
    if "activeDeadlineSeconds" in pods:
        errors.append(forbidden("spec.template.spec.activeDeadlineSeconds",
                                f"activeDeadlineSeconds in {kind} is not Supported"))
    return errors


def _rollout(strategy: Tree) -> Errors:
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    at = "spec.strategy.rollingUpdate"
    if kind == "Recreate":
        return [] if rolling is None else [forbidden(at, "may not be specified when strategy `type` is 'Recreate'")]
    if kind != "RollingUpdate":
        return [not_supported("spec.strategy", kind, STRATEGIES)]
    unavailable, surge = part(strategy, "rollingUpdate").get("maxUnavailable", 0), part(
        strategy, "rollingUpdate").get("maxSurge", 0)
    errors = _count_or_percent(f"{at}.maxUnavailable", unavailable) + _count_or_percent(f"{at}.maxSurge", surge)
    if _number(unavailable) == 0 and _number(surge) == 0:
        errors.append(invalid(f"{at}.maxUnavailable", go_int_or_string(unavailable),
                              "may not be 0 when `maxSurge` is 0"))
    if isinstance(unavailable, str) and _number(unavailable) > FULL:
        errors.append(invalid(f"{at}.maxUnavailable", go_int_or_string(unavailable), "must not be greater than 100%"))
    return errors


def _count_or_percent(path: str, value: int | str) -> Errors:
    if isinstance(value, str):
        return [invalid(path, go_int_or_string(value), message) for message in names.percent(value)]
    return checks.nonnegative(path, value)


def _number(value: int | str) -> int:
    """The number, without the percent sign; 0 for what is neither."""
    if isinstance(value, int):
        return value
    digits = value.removesuffix("%")
    return int(digits) if value.endswith("%") and digits.isdecimal() else 0


def _status(state: Tree, counts: tuple[str, ...]) -> Errors:
    errors: Errors = []
    total: int = state.get("replicas") or 0
    for key in ("observedGeneration", "replicas", *counts):
        errors += checks.nonnegative(f"status.{key}", state.get(key) or 0)
    for key in counts:
        if (count := state.get(key) or 0) > total:
            errors.append(invalid(f"status.{key}", count, TOO_MANY))
    available = state.get("availableReplicas") or 0
    if available > (state.get("readyReplicas") or 0):
        errors.append(invalid("status.availableReplicas", available, "cannot be greater than readyReplicas"))
    return errors


class ControllerRevisionStrategy(Strategy):
    """The rules of ControllerRevisions: a snapshot that never changes."""

    status_field = ""

    def validate(self, obj: Tree, context: Context) -> Errors:
        """There must be something to keep."""
        errors = [] if obj.get("data") is not None else [required("data", "data is mandatory")]
        return errors + checks.nonnegative("revision", obj.get("revision") or 0)

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """The data is fixed; the revision may move up."""
        data: Any = new.get("data")  # anybody's JSON: there "" is not the same as nothing
        return [] if data == old.get("data") else [invalid("data", NIL if data is None else data, IMMUTABLE)]

