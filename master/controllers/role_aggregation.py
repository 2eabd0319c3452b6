"""ClusterRoles that are made of others: their rules are those of every ClusterRole that their selectors match.

So whoever adds a kind to the cluster can add its rules to admin, edit and view by a label. Source: the "Aggregated
ClusterRoles" part of the RBAC reference.
"""

from __future__ import annotations

from collections.abc import Iterable

from master.controllers.base import Controller, Deps
from sampan.api.codec import to_tree
from sampan.api.labelselectors import SelectorError, of_object
from sampan.api.resources import CLUSTERROLES
from sampan.api.types.rbac_v1 import ClusterRole, PolicyRule
from sampan.client.protocol import Patch


def aggregated(role: ClusterRole, roles: Iterable[ClusterRole]) -> list[PolicyRule]:
    """The rules that the role should have: those of the others, by name, each once."""
    selectors = []
    for selector in role.aggregation_rule.cluster_role_selectors if role.aggregation_rule else ():
        try:
            selectors.append(of_object(selector))
        except SelectorError:
            continue  # validation refuses such; here it selects nothing
    rules: list[PolicyRule] = []
    for other in sorted(roles, key=lambda entry: entry.metadata.name):
        if other.metadata.name != role.metadata.name and any(
                selector.matches(other.metadata.labels) for selector in selectors):
            rules += [rule for rule in other.rules if rule not in rules]
    return rules


class RoleAggregationController(Controller[str]):
    """Writes the rules into the roles; one change may lead to the next (view, then edit, then admin)."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("clusterrole-aggregation", deps, workers=1)
        self._roles = deps.informers.get(CLUSTERROLES)
        self._roles.add_handler(self._changed)

    def _changed(self, old: ClusterRole | None, new: ClusterRole | None) -> None:
        if old and new and (old.rules, old.metadata.labels, old.aggregation_rule) == (
                new.rules, new.metadata.labels, new.aggregation_rule):
            return
        labelled = any(role.metadata.labels for role in (old, new) if role)  # it may just have lost its last label
        if labelled or (new and new.aggregation_rule):
            for role in self._roles:
                if role.aggregation_rule:
                    self.queue.add(role.metadata.name)

    async def reconcile(self, key: str) -> None:
        """Write the rules where they differ."""
        role = self._roles.get(key)
        if role is None or role.aggregation_rule is None or role.metadata.deletion_timestamp is not None:
            return
        rules = aggregated(role, self._roles)
        if rules != role.rules:
            body = {"metadata": {"resourceVersion": role.metadata.resource_version},
                    "rules": [to_tree(rule) for rule in rules]}
            await self.deps.client.patch(CLUSTERROLES, key, Patch("merge", body))
