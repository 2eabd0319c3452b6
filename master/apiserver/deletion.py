"""What a request to delete an object does to it. Pure: from the object and the options to a plan.

Source: k8s.io/apiserver/pkg/registry/rest/delete.go and registry/generic/registry/store.go.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from master.apiserver.kinds.common import go_strings
from master.apiserver.metadata import FOREGROUND, ORPHAN
from master.apiserver.request import Query
from sampan.api.errors import FieldError, bad_request, invalid, invalid_object, not_supported
from sampan.api.times import Time

Tree = dict[str, Any]

POLICIES = ("Background", "Foreground", "Orphan")


@dataclass(frozen=True, slots=True)
class Options:
    """DeleteOptions. `grace_period` is in seconds, None for the object's own; "" is unset."""

    grace_period: int | None = None
    propagation: str = ""
    orphan: bool | None = None
    uid: str = ""
    revision: str = ""
    dry_run: bool = False

    @property
    def waits_for_dependents(self) -> bool:
        """Whether the caller expects the object to stay a while: answered with 202, for old clients' sake only."""
        return self.orphan is False


def check_kind(body: Tree) -> None:
    """DeleteOptions of any group and version, since clients send that of the object's; ApiError 400."""
    version, kind = body.get("apiVersion") or "v1", body.get("kind") or "DeleteOptions"
    if kind != "DeleteOptions":
        raise bad_request(f'no kind "{kind}" is registered for version "{version}": expected DeleteOptions')
    if str(version).count("/") > 1:
        raise bad_request(f"unexpected GroupVersion string: {version}")


def read_options(body: Tree, query: Query) -> Options:
    """DeleteOptions from the body, or from the query where there is no body; ApiError 422."""
    preconditions = body.get("preconditions") or {}
    if body:
        grace, policy, orphan = body.get("gracePeriodSeconds"), body.get("propagationPolicy"), body.get(
            "orphanDependents")
        dry_run = body.get("dryRun") or []
    else:
        grace = query.integer("gracePeriodSeconds")
        policy = query.get("propagationPolicy") if query.has("propagationPolicy") else None
        orphan = query.flag("orphanDependents") if query.has("orphanDependents") else None
        dry_run = []
    dry_run = [*dry_run, *query.all("dryRun")]
    errors: list[FieldError] = []
    if policy is not None and orphan is not None:
        errors.append(invalid("propagationPolicy", policy,
                              "orphanDependents and deletionPropagation cannot be both set"))
    if policy is not None and policy not in POLICIES:
        errors.append(not_supported("propagationPolicy", policy, ("Foreground", "Background", "Orphan", "nil")))
    if grace is not None and grace < 0:
        grace = 1  # negative values are treated as the value `1`, as upstream documents it
    errors += check_dry_run(dry_run)
    if errors:
        raise invalid_object("meta.k8s.io", "DeleteOptions", "", errors)
    return Options(grace, policy or "", orphan, preconditions.get("uid") or "",
                   preconditions.get("resourceVersion") or "", bool(dry_run))


def check_dry_run(values: list[str]) -> list[FieldError]:
    """Only ``All`` is known."""
    return [not_supported("dryRun", go_strings(values), ("All",))] if any(value != "All" for value in values) else []


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: remove the object, mark it (`obj` is the marked object), or keep it as it is."""

    action: Literal["remove", "mark", "keep"]
    obj: Tree


def finalizers_after(obj: Tree, options: Options, *, orphans: bool = False) -> list[str]:
    """The finalizers as the wanted propagation has them; the garbage collector takes its own two away when done.

    `orphans`: the kind's dependents stay where neither the request nor a finalizer says otherwise.
    """
    have = list(obj["metadata"].get("finalizers") or ())
    if options.orphan is not None or options.propagation:
        orphan = options.orphan is True or options.propagation == "Orphan"
        foreground = options.propagation == "Foreground"
    else:
        foreground = FOREGROUND in have
        orphan = ORPHAN in have or (orphans and not foreground)
    kept = [item for item in have if item not in (ORPHAN, FOREGROUND)]
    return kept + [ORPHAN] * orphan + [FOREGROUND] * foreground


def plan(obj: Tree, options: Options, *, grace: int, now: datetime, orphans: bool = False) -> Plan:
    """Decide. `grace` is how long the kind lets the object end, in seconds: 0 but for running pods; `orphans` is the
    kind's default for its dependents.
    """
    metadata = obj["metadata"]
    pending = bool(metadata.get("deletionTimestamp"))
    left = metadata.get("deletionGracePeriodSeconds") or 0
    if pending and left > 0:
        if options.grace_period is None or options.grace_period >= left:
            return Plan("keep", obj)
        start = Time.parse(metadata["deletionTimestamp"]) - timedelta(seconds=left)
        return _mark(obj, finalizers_after(obj, options, orphans=orphans), options.grace_period, start)
    return _mark(obj, finalizers_after(obj, options, orphans=orphans), 0 if pending else grace, now)


def _mark(obj: Tree, finalizers: list[str], grace: int, start: datetime) -> Plan:
    """The deletion began at `start` and may take `grace` seconds; finalizers hold the object longer."""
    held = bool(finalizers) or _is_held_namespace(obj)
    if not held and grace == 0:
        return Plan("remove", obj)
    marked = copy.deepcopy(obj)
    metadata = marked["metadata"]
    metadata["finalizers"] = finalizers
    if not finalizers:
        del metadata["finalizers"]
    pending = bool(metadata.get("deletionTimestamp"))
    if not pending and metadata.get("generation"):
        metadata["generation"] += 1
    if not pending or metadata.get("deletionGracePeriodSeconds"):
        metadata["deletionTimestamp"] = str(Time.of(start + timedelta(seconds=grace)))
    metadata["deletionGracePeriodSeconds"] = grace
    if _is_namespace(obj):
        del metadata["deletionGracePeriodSeconds"]  # a namespace waits for its content, not for a time
        marked.setdefault("status", {})["phase"] = "Terminating"
    return Plan("keep" if marked == obj else "mark", marked)


def done_with(new: Tree, old: Tree) -> bool:
    """Whether an update of an object that is being deleted leaves nothing to wait for."""
    if not old["metadata"].get("deletionTimestamp") or old["metadata"].get("deletionGracePeriodSeconds"):
        return False
    return not new["metadata"].get("finalizers") and not _is_held_namespace(new)


def _is_namespace(obj: Tree) -> bool:
    return obj.get("kind") == "Namespace" and obj.get("apiVersion") == "v1"


def _is_held_namespace(obj: Tree) -> bool:
    """Namespaces have a list of finalizers in their spec too, which the namespace controller empties."""
    return _is_namespace(obj) and bool((obj.get("spec") or {}).get("finalizers"))
