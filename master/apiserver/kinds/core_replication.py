"""ReplicationControllers (core), the older form of ReplicaSets: their selector is a plain map."""

from __future__ import annotations

from master.apiserver.kinds import pod_defaults
from master.apiserver.kinds.apps import ReplicaSetStrategy, lasting_template, selector_text
from master.apiserver.kinds.common import Errors, Tree, child, drop_unset, go_map, metadata, part
from sampan.api.errors import invalid, required


class ReplicationControllerStrategy(ReplicaSetStrategy):
    """The rules of ReplicationControllers, where they are others than those of ReplicaSets."""

    keeps_dependents = True

    def default(self, obj: Tree) -> None:
        """One pod; selector and labels are the template's where they are not given."""
        tree = child(obj, "spec")
        tree.setdefault("replicas", 1)
        drop_unset(tree, ("minReadySeconds",))
        if "template" not in tree:
            return
        pod_defaults.default_template(tree["template"])
        if labels := part(tree["template"], "metadata").get("labels"):
            if not tree.get("selector"):
                tree["selector"] = dict(labels)
            if not metadata(obj).get("labels"):
                child(obj, "metadata")["labels"] = dict(labels)

    def validate_pods(self, tree: Tree) -> Errors:
        """There must be a selector; it fits the template's labels."""
        selector = tree.get("selector") or {}
        errors = [] if selector else [required("spec.selector")]
        template = tree.get("template")
        if template is None:
            return [*errors, required("spec.template")]
        labels = part(template, "metadata").get("labels") or {}
        if not selector.items() <= labels.items():
            errors.append(invalid("spec.template.metadata.labels", go_map(labels),
                                  "`selector` does not match template `labels`"))
        return errors + lasting_template(template, "ReplicationController")

    def validate_selector_update(self, new: Tree, old: Tree) -> Errors:
        """It may change, as it always could."""
        return []

    def selector_text(self, tree: Tree) -> str:
        """As a Scale writes it."""
        return selector_text({"matchLabels": tree.get("selector") or {}})
