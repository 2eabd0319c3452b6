"""Leases (coordination.k8s.io): heartbeats of nodes and the choice of a leader."""

from __future__ import annotations

from master.apiserver.kinds.common import Errors, Tree, child, spec
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import invalid


class LeaseStrategy(Strategy):
    """The rules of Leases. An update must say which version it saw: two holders must not overwrite each other."""

    status_field = ""
    allow_create_on_update = True
    allow_unconditional_update = False

    def default(self, obj: Tree) -> None:
        """Only the spec itself."""
        child(obj, "spec")

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Numbers that make sense."""
        errors: Errors = []
        tree = spec(obj)
        duration, transitions = tree.get("leaseDurationSeconds"), tree.get("leaseTransitions")
        if duration is not None and duration <= 0:
            errors.append(invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"))
        if transitions is not None and transitions < 0:
            errors.append(invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
        if tree.get("preferredHolder") and not tree.get("strategy"):
            errors.append(invalid("spec.preferredHolder", tree["preferredHolder"],
                                  "may only be specified if `strategy` is defined"))
        return errors
