"""The rules of metadata, the same for every kind. Pure.

Source: k8s.io/apimachinery/pkg/api/validation/objectmeta.go and k8s.io/apiserver/pkg/registry/rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sampan.api import names
from sampan.api.errors import IMMUTABLE, FieldError, forbidden, invalid, required
from sampan.api.times import Time

Tree = dict[str, Any]

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
STANDARD_FINALIZERS = (ORPHAN, FOREGROUND, "kubernetes")

_SERVER_SET = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink",
               "managedFields", "generation", "resourceVersion")
_IMMUTABLE = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def begin(obj: Tree, *, namespace: str, uid: str, now: datetime, generation: bool) -> None:
    """Give a new object what the server decides, in place."""
    metadata = obj["metadata"]
    for name in _SERVER_SET:
        metadata.pop(name, None)
    if namespace:
        metadata["namespace"] = namespace
    metadata["uid"] = uid
    metadata["creationTimestamp"] = str(Time.of(now))
    if generation:
        metadata["generation"] = 1


def carry_over(new: Tree, old: Tree) -> None:
    """Give an update what it may not change, silently where upstream is silent; in place."""
    metadata, before = new["metadata"], old["metadata"]
    for name in ("managedFields", "selfLink"):
        metadata.pop(name, None)
    for name in ("uid", "namespace", "creationTimestamp"):
        if not metadata.get(name) and before.get(name):
            metadata[name] = before[name]
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation",
                 "resourceVersion", "generateName"):
        if before.get(name) is not None:
            metadata[name] = before[name]
        elif name in ("generation", "resourceVersion", "generateName"):
            metadata.pop(name, None)


def validate(obj: Tree, *, namespaced: bool, name_rule: str) -> list[FieldError]:
    """Everything that is wrong with an object's metadata in itself."""
    metadata = obj["metadata"]
    errors = _validate_names(metadata, namespaced, name_rule)
    if metadata.get("labels"):
        errors += names.validate_labels(metadata["labels"], "metadata.labels")
    if metadata.get("annotations"):
        errors += names.validate_annotations(metadata["annotations"], "metadata.annotations")
    if metadata.get("ownerReferences"):
        errors += _validate_owners(metadata["ownerReferences"])
    if metadata.get("finalizers"):
        errors += _validate_finalizers(metadata["finalizers"])
    return errors


def _validate_names(metadata: Mapping[str, Any], namespaced: bool, rule: str) -> list[FieldError]:
    errors: list[FieldError] = []
    generate = metadata.get("generateName")
    if generate:
        errors += [invalid("metadata.generateName", generate, text)
                   for text in names.object_name(generate, rule, prefix=True)]
    name = metadata.get("name")
    if not name:
        errors.append(required("metadata.name", "name or generateName is required"))
    else:
        errors += [invalid("metadata.name", name, text) for text in names.object_name(name, rule)]
    namespace = metadata.get("namespace")
    if namespaced:
        if not namespace:
            errors.append(required("metadata.namespace"))
        else:
            errors += [invalid("metadata.namespace", namespace, text) for text in names.dns_label(namespace)]
    elif namespace:
        errors.append(forbidden("metadata.namespace", "not allowed on this type"))
    return errors


def _validate_owners(owners: list[Tree]) -> list[FieldError]:
    errors: list[FieldError] = []
    controllers: list[str] = []
    for owner in owners:
        for field, word in (("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")):
            if not owner.get(field):
                errors.append(invalid(f"metadata.ownerReferences.{field}", owner.get(field, ""),
                                      f"{word} must not be empty"))
        if owner.get("apiVersion") == "v1" and owner.get("kind") == "Event":
            errors.append(invalid("metadata.ownerReferences", "/v1, Kind=Event", "/v1, Kind=Event is disallowed from "
                                  "being an owner"))
        if owner.get("controller"):
            controllers.append(str(owner.get("name", "")))
            if len(controllers) == 2:
                errors.append(invalid("metadata.ownerReferences", owners, "Only one reference can have Controller set "
                                      f'to true. Found "true" in references for {controllers[0]} and {controllers[1]}'))
    return errors


def _validate_finalizers(finalizers: list[str]) -> list[FieldError]:
    errors = [invalid("metadata.finalizers", item, text) for item in finalizers for text in names.qualified_name(item)]
    errors += [invalid(f"metadata.finalizers[{index}]", item, "name is neither a standard finalizer name nor is it "
                       "fully qualified") for index, item in enumerate(finalizers)
               if "/" not in item and item not in STANDARD_FINALIZERS]
    if ORPHAN in finalizers and FOREGROUND in finalizers:
        errors.append(invalid("metadata.finalizers", finalizers,
                              f"finalizer {ORPHAN} and {FOREGROUND} cannot be both set"))
    return errors


def validate_update(new: Tree, old: Tree) -> list[FieldError]:
    """Everything that is wrong with a change of metadata, after `carry_over`."""
    metadata, before = new["metadata"], old["metadata"]
    errors = [invalid(f"metadata.{name}", metadata.get(name) or "", IMMUTABLE)
              for name in _IMMUTABLE if metadata.get(name) != before.get(name)]
    if before.get("deletionTimestamp"):
        had = set(before.get("finalizers") or ())
        added = [item for item in metadata.get("finalizers") or () if item not in had]
        if added:
            shown = ", ".join(f'"{item}"' for item in added)
            errors.append(forbidden("metadata.finalizers", "no new finalizers can be added if the object is being "
                                    f"deleted, found new finalizers []string{{{shown}}}"))
    return errors
