"""Namespaces: a finalizer of their own keeps them until they are empty."""

from __future__ import annotations

from master.apiserver.kinds.common import Errors, Tree, child, items, keep, metadata, spec, status
from master.apiserver.strategy import Context, Strategy
from sampan.api import names
from sampan.api.errors import invalid

FINALIZER = "kubernetes"
STANDARD_FINALIZERS = ("kubernetes", "foregroundDeletion", "orphan")
NAME_LABEL = "kubernetes.io/metadata.name"


class NamespaceStrategy(Strategy):
    """The rules of namespaces."""

    name_rule = "label"

    def default(self, obj: Tree) -> None:
        """The label by which selectors find a namespace; the phase."""
        if name := metadata(obj).get("name"):
            child(child(obj, "metadata"), "labels")[NAME_LABEL] = name
        child(obj, "status").setdefault("phase", "Active")

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """Active, and not to go before it is empty."""
        obj["status"] = {"phase": "Active"}
        tree = child(obj, "spec")
        finalizers = items(tree, "finalizers")
        tree["finalizers"] = finalizers if FINALIZER in finalizers else [*finalizers, FINALIZER]
        self.default(obj)

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """Finalizers only through `finalize`, the phase only through `status`."""
        if context.subresource != "status":
            keep(new, old, "status")
        if context.subresource != "finalize":
            keep(new, old, "spec")

    def validate(self, obj: Tree, context: Context) -> Errors:
        """The finalizers' names."""
        errors: Errors = []
        for index, name in enumerate(items(spec(obj), "finalizers")):
            path = f"spec.finalizers[{index}]" if context.subresource == "finalize" else "spec.finalizers"
            errors += [invalid(path, name, message) for message in names.qualified_name(name)]
            if "/" not in name and name not in STANDARD_FINALIZERS:
                errors.append(invalid(path, name,
                                      "name is neither a standard finalizer name nor is it fully qualified"))
        return errors

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """The phase says whether it is being deleted, and nothing else."""
        if context.subresource != "status":
            return []
        deleted = bool(metadata(new).get("deletionTimestamp"))
        phase, wanted = status(new).get("phase") or "", "Terminating" if deleted else "Active"
        if phase == wanted:
            return []
        return [invalid("status.Phase", phase, f"may only be '{wanted}' if `deletionTimestamp` is "
                                               f"{'not ' if deleted else ''}empty")]

    def fields(self, obj: Tree) -> dict[str, str]:
        """The phase."""
        return {"status.phase": status(obj).get("phase") or "", "name": metadata(obj).get("name") or ""}
