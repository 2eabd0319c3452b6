"""Admission: what the cluster adds to a new object, and what it refuses whatever the object says.

Each function stands for one of kube-apiserver's admission plugins and bears its rules and words.
"""

from __future__ import annotations

from typing import Any

from master.apiserver.registry import Registry, Served
from master.apiserver.strategy import Context
from sampan.api.errors import Cause, forbidden_request, not_found
from sampan.api.resources import NAMESPACES, PODS

Tree = dict[str, Any]

class Plugin:
    """One more check of writes, which may also complete them; does nothing by itself.

    `obj` and `new` may be changed in place, before defaults and validation; ApiError refuses. The namespace and the
    name are those in the object's metadata.
    """

    async def create(self, served: Served, obj: Tree, context: Context) -> None:
        """A new object."""

    async def update(self, served: Served, new: Tree, old: Tree, context: Context) -> None:
        """Another state of an object, or of what a subresource covers of it."""

    async def delete(self, served: Served, old: Tree, context: Context) -> None:
        """The end of an object."""


MIRROR = "kubernetes.io/config.mirror"
"""The annotation of a mirror pod: what a node shows of a pod that it runs by itself."""
IMMORTAL_NAMESPACES = frozenset(("default", "kube-system", "kube-public"))

_SYSTEM_PRIORITIES = {"": 0, "system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
_EVICTING_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_EVICTION_DELAY = 300  # seconds that a pod stays on a node that went away


async def admit_create(registry: Registry, served: Served, obj: Tree) -> None:
    """Check and complete a new object, in place; ApiError 403 or 404."""
    resource = served.resource
    metadata = obj["metadata"]
    if resource.namespaced:
        await _namespace_lifecycle(registry, served, metadata.get("namespace", ""), metadata.get("name", ""))
    if resource.key == PODS.key:
        spec = obj.setdefault("spec", {})
        if MIRROR not in (metadata.get("annotations") or {}):
            _service_account(spec)
        _priority(served, metadata.get("name", ""), spec)
        _default_toleration_seconds(spec)


def admit_update(served: Served, new: Tree, old: Tree) -> None:
    """Give a replaced pod what admission gave it at its creation, in place: a manifest does not know of it."""
    if served.resource.key != PODS.key:
        return
    spec, before = new.setdefault("spec", {}), old.get("spec") or {}
    for field in ("priority", "preemptionPolicy", "serviceAccountName", "serviceAccount"):
        if field in before and not spec.get(field):
            spec[field] = before[field]
    _default_toleration_seconds(spec)


def admit_delete(served: Served, name: str) -> None:
    """Refuse to delete what the cluster cannot live without; ApiError 403."""
    if served.resource.key == NAMESPACES.key and name in IMMORTAL_NAMESPACES:
        raise forbidden_request("", "namespaces", name, "this namespace may not be deleted")


async def _namespace_lifecycle(registry: Registry, served: Served, namespace: str, name: str) -> None:
    """Nothing is created in a namespace that is not there, or is on its way out."""
    entry = await registry.namespace(namespace)
    if entry is None:
        raise not_found("", "namespaces", namespace)
    # A look at the bytes spares decoding the namespace for each new object; the phase is only read to be sure.
    if b'"Terminating"' in entry.raw and (entry.tree.get("status") or {}).get("phase") == "Terminating":
        error = forbidden_request(served.resource.group, served.resource.plural, name, "unable to create new content "
                                  f"in namespace {namespace} because it is being terminated")
        error.causes = (Cause("NamespaceTerminating", f"namespace {namespace} is being terminated",
                              "metadata.namespace"),)
        raise error


def _service_account(spec: Tree) -> None:
    """A pod runs as its namespace's `default` account."""
    if not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec.get("serviceAccount") or "default"
    spec["serviceAccount"] = spec["serviceAccountName"]


def _priority(served: Served, name: str, spec: Tree) -> None:
    """The priority that a class's name stands for."""
    class_name = spec.get("priorityClassName") or ""
    if class_name not in _SYSTEM_PRIORITIES:
        raise forbidden_request(served.resource.group, served.resource.plural, name,
                                f"no PriorityClass with name {class_name} was found")
    priority = _SYSTEM_PRIORITIES[class_name]
    if spec.get("priority") not in (None, priority):
        raise forbidden_request(served.resource.group, served.resource.plural, name, f"the integer value of priority "
                                f"({spec['priority']}) must not be provided in pod spec; priority admission "
                                f"controller computed {priority} from the given PriorityClass name")
    spec["priority"] = priority
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _default_toleration_seconds(spec: Tree) -> None:
    """A pod leaves a node that is gone after five minutes, unless it says something else."""
    tolerations = spec.setdefault("tolerations", [])
    for taint in _EVICTING_TAINTS:
        if not any(item.get("key", "") in (taint, "") and item.get("effect", "") in ("NoExecute", "")
                   and (item.get("key") or item.get("operator") == "Exists") for item in tolerations):
            tolerations.append({"key": taint, "operator": "Exists", "effect": "NoExecute",
                                "tolerationSeconds": _EVICTION_DELAY})
