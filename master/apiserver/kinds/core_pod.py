"""Pods: what the server decides when one is made, and the little that may change afterwards."""

from __future__ import annotations

from copy import deepcopy

from master.apiserver.kinds import (
    checks,
    pod_apparmor,
    pod_containers,
    pod_defaults,
    pod_gates,
    pod_validation,
    pod_warnings,
)
from master.apiserver.kinds.common import NIL, Errors, Tree, child, items, keep, metadata, same, spec, status
from master.apiserver.kinds.qos import qos_class
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import forbidden, invalid, required, show

MAX_INT32 = 2**31 - 1
SYSTEM_CONDITIONS = ("PodScheduled", "Ready", "Initialized")


class PodStrategy(Strategy):
    """The rules of pods."""

    def default(self, obj: Tree) -> None:
        """See pod_defaults."""
        pod_defaults.default_pod(obj)

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """A new pod is Pending, and held back while gates say so."""
        pod_apparmor.adopt(obj)
        tree = spec(obj)
        tree.pop("resources", None)  # resources of the pod as a whole: not switched on in 1.32
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(tree)}
        if items(tree, "schedulingGates"):
            obj["status"]["conditions"] = [{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """The status belongs to its own door, the spec to the main one."""
        if context.subresource == "status":
            keep(new, old, "spec")
            keep(metadata(new), metadata(old), "ownerReferences")
            keep(metadata(new), metadata(old), "deletionTimestamp")
            if status(old).get("qosClass"):
                child(new, "status").setdefault("qosClass", status(old)["qosClass"])
            return
        keep(new, old, "status")
        if context.subresource == "ephemeralcontainers":
            added = spec(new).get("ephemeralContainers")
            new["spec"] = deepcopy(spec(old))
            if added:
                new["spec"]["ephemeralContainers"] = added
        elif context.subresource == "":
            spec(new).pop("resources", None)

    def validate(self, obj: Tree, context: Context) -> Errors:
        """The whole pod; through the status' door the spec is the stored one and was checked when it came in."""
        if context.subresource in ("status", "binding", "eviction"):
            return []
        stored = bool(metadata(obj).get("resourceVersion"))
        return pod_validation.pod(obj) + ([] if stored else pod_validation.new_pod(obj))

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """Almost everything of a pod is fixed once it is made."""
        if context.subresource == "status":
            return _status_update(new, old)
        if context.subresource == "ephemeralcontainers":
            return _ephemeral_update(new, old)
        if context.subresource:
            return []
        return pod_validation.annotation_update(new, old) + _spec_update(spec(new), spec(old))

    def warnings(self, obj: Tree) -> list[str]:
        """See pod_warnings."""
        return pod_warnings.pod_warnings(obj)

    def update_warnings(self, new: Tree, old: Tree) -> list[str]:
        """None: hardly any of it can change, and it is controllers and agents that update pods."""
        return []

    def grace_period(self, obj: Tree, requested: int | None) -> int:
        """The pod's own unless the request says; nothing to wait for where no container can be running."""
        seconds = requested if requested is not None else spec(obj).get("terminationGracePeriodSeconds", 0)
        if not spec(obj).get("nodeName") or status(obj).get("phase") in ("Failed", "Succeeded"):
            return 0
        return 1 if seconds < 0 else int(seconds)

    def fields(self, obj: Tree) -> dict[str, str]:
        """The pod's place and state."""
        tree, state = spec(obj), status(obj)
        addresses = items(state, "podIPs")
        return {
            "spec.nodeName": tree.get("nodeName") or "",
            "spec.restartPolicy": tree.get("restartPolicy") or "",
            "spec.schedulerName": tree.get("schedulerName") or "",
            "spec.serviceAccountName": tree.get("serviceAccountName") or "",
            "spec.hostNetwork": "true" if tree.get("hostNetwork") else "false",
            "status.phase": state.get("phase") or "",
            "status.podIP": state.get("podIP") or (addresses[0].get("ip") or "" if addresses else ""),
            "status.nominatedNodeName": state.get("nominatedNodeName") or "",
        }


def _spec_update(new: Tree, old: Tree) -> Errors:
    errors: Errors = []
    for key in ("containers", "initContainers"):
        containers = items(new, key)
        if len(containers) != len(items(old, key)):
            return [*errors, forbidden(f"spec.{key}", "pod updates may not add or remove containers")]
        for index, container in enumerate(containers):
            if not container.get("image"):
                errors.append(required(f"spec.{key}[{index}].image"))
            errors += pod_containers.image_spaces(container, f"spec.{key}[{index}]")
    wrong, stop = _deadline_update(new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds"))
    errors += wrong
    if stop:
        return errors
    errors += _only_added_tolerations(items(new, "tolerations"), items(old, "tolerations"))
    gates = {gate.get("name") for gate in items(old, "schedulingGates")}
    errors += [forbidden(f"spec.schedulingGates[{index}].name",
                         f"only deletion is allowed, but found new scheduling gate '{gate.get('name') or ''}'")
               for index, gate in enumerate(items(new, "schedulingGates")) if gate.get("name") not in gates]
    comparable = _without_updatable(new, old)
    if gates:
        errors += pod_gates.narrowed(comparable, old)
    if not same(comparable, old):
        difference = "\n".join(_differences(old, comparable, "spec"))
        errors.append(forbidden("spec", "pod updates may not change fields other than "
                                        f"{pod_validation.UPDATABLE}\n{difference}"))
    return errors


def _deadline_update(new: int | None, old: int | None) -> tuple[Errors, bool]:
    """A deadline may be set and come nearer, not go away; the flag says to stop at this complaint."""
    path = "spec.activeDeadlineSeconds"
    if new is None:
        message = "must not update from a positive integer to nil value"
        return ([] if old is None else [invalid(path, NIL, message)]), False
    if not 0 <= new <= MAX_INT32:
        return [invalid(path, new, f"must be between 0 and {MAX_INT32}, inclusive")], True
    if old is not None and old < new:
        return [invalid(path, new, "must be less than or equal to previous value")], True
    return [], False


def _only_added_tolerations(new: list[Tree], old: list[Tree]) -> Errors:
    def timeless(tolerations: list[Tree]) -> set[tuple[str, ...]]:
        return {tuple(item.get(name) or "" for name in ("key", "operator", "value", "effect")) for item in tolerations}

    if timeless(old) <= timeless(new):
        return []
    return [forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")]


def _without_updatable(new: Tree, old: Tree) -> Tree:
    """The new spec with the old one's values where a change is allowed: what remains different is refused."""
    result = deepcopy(new)
    for key in ("containers", "initContainers"):
        for container, before in zip(items(result, key), items(old, key), strict=True):
            keep(container, before, "image")
    for key in ("activeDeadlineSeconds", "schedulingGates", "tolerations"):
        keep(result, old, key)
    if old.get("terminationGracePeriodSeconds", 0) < 0 and result.get("terminationGracePeriodSeconds") == 1:
        result["terminationGracePeriodSeconds"] = old["terminationGracePeriodSeconds"]
    return result


def _differences(old: object, new: object, path: str) -> list[str]:
    """Which fields differ, one line for the old value and one for the new."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for key in sorted(old.keys() | new.keys())
                for line in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for index, pair in enumerate(zip(old, new, strict=True))
                for line in _differences(*pair, f"{path}[{index}]")]
    if same(old, new):
        return []
    return [f"{sign} {path}: {show(value)}" for sign, value in (("-", old), ("+", new)) if value is not None]


def _ephemeral_update(new: Tree, old: Tree) -> Errors:
    """Ephemeral containers may be added, not changed or taken away."""
    path = "spec.ephemeralContainers"
    after = {container.get("name"): container for container in items(spec(new), "ephemeralContainers")}
    errors: Errors = []
    for index, container in enumerate(items(spec(old), "ephemeralContainers")):
        name = container.get("name") or ""
        if name not in after:
            errors.append(forbidden(path, f'existing ephemeral containers "{name}" may not be removed\n'))
        elif not same(after[name], container):
            errors.append(forbidden(f"{path}[{index}]",
                                    f'existing ephemeral containers "{name}" may not be changed\n'))
    return errors


def _status_update(new: Tree, old: Tree) -> Errors:
    errors = pod_validation.annotation_update(new, old)
    after, before = status(new), status(old)
    for index, condition in enumerate(items(after, "conditions")):
        if condition.get("type") not in SYSTEM_CONDITIONS:
            errors += checks.qualified_name(f"metadata.conditions[{index}].Type", condition.get("type") or "")
    nominated = after.get("nominatedNodeName") or ""
    if nominated and nominated != before.get("nominatedNodeName"):
        errors += checks.dns_subdomain("status.nominatedNodeName", nominated)
    if before.get("qosClass") and after.get("qosClass") != before["qosClass"]:
        errors.append(invalid("status.qosClass", after.get("qosClass") or "", "field is immutable"))
    policy = spec(old).get("restartPolicy") or "Always"
    errors += _states(after, before, "containerStatuses", policy, set())
    sidecars = {container.get("name") for container in items(spec(old), "initContainers")
                if container.get("restartPolicy") == "Always"}
    errors += _states(after, before, "initContainerStatuses", policy, sidecars)
    errors += _states(after, before, "ephemeralContainerStatuses", "Never", set())
    for key in ("podIPs", "hostIPs"):
        for index, entry in enumerate(items(after, key)):
            errors += checks.ip(f"status.{key}[{index}]", entry.get("ip") or "")
    hosts = items(after, "hostIPs")
    if hosts and hosts[0].get("ip") != after.get("hostIP"):
        errors.append(invalid("status.hostIPs[0].ip", hosts[0].get("ip") or "", "must be equal to `hostIP`"))
    return errors


def _states(after: Tree, before: Tree, key: str, policy: str, free: set[str | None]) -> Errors:
    """A container that has ended for good stays ended."""
    if policy == "Always":
        return []
    errors: Errors = []
    for index, old in enumerate(items(before, key)):
        ended = (old.get("state") or {}).get("terminated")
        if ended is None or old.get("name") in free or (ended.get("exitCode") and policy == "OnFailure"):
            continue
        errors += [forbidden(f"status.{key}[{index}].state", "may not be transitioned to non-terminated state")
                   for new in items(after, key)
                   if new.get("name") == old.get("name") and not (new.get("state") or {}).get("terminated")]
    return errors
