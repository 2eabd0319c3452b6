"""ReplicationControllers (core), the older form of ReplicaSets: their selector is a plain map."""

from __future__ import annotations

from master.apiserver.kinds import pod_defaults
from master.apiserver.kinds.apps import Replicated, lasting_template, selector_text
from master.apiserver.kinds.common import Errors, Tree, child, drop_unset, go_map, metadata, part, status
from master.apiserver.strategy import Context
from sampan.api.errors import invalid, required


class ReplicationControllerStrategy(Replicated):
    """The rules of ReplicationControllers."""

    counts = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
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

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """No pods yet."""
        obj["status"] = {"replicas": 0}

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

    def fields(self, obj: Tree) -> dict[str, str]:
        """How many there are."""
        return {"status.replicas": str(status(obj).get("replicas") or 0)}


