"""Role-based access control: roles and bindings from the caches, arranged so that a question is a few look-ups.

Source: the rbac.authorization.k8s.io reference; plugin/pkg/auth/authorizer/rbac for the words of a reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from master.apiserver.authorization.attributes import NO_OPINION, Attributes, Decision
from master.apiserver.authorization.rules import Rule, read_rules
from master.apiserver.entry import Entry
from master.apiserver.registry import Registry
from master.apiserver.strategy import User
from sampan.api.errors import ApiError, not_found
from sampan.api.resources import CLUSTERROLEBINDINGS, CLUSTERROLES, ROLEBINDINGS, ROLES

Tree = dict[str, Any]
RoleKey = tuple[str, str]
"""Namespace ("" for a ClusterRole) and name."""
Subject = tuple[str, str]
"""``u`` or ``g``, and a user's or a group's name; a ServiceAccount is the user that it authenticates as."""

GROUP = "rbac.authorization.k8s.io"
ACCOUNT_PREFIX = "system:serviceaccount:"
_REMEMBERED, _SHORT = 8192, 1000
"""How many answers are kept, and up to how many characters of a question: clients choose these."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A binding, as one of its subjects sees it."""

    role: RoleKey
    reason: str
    """``ClusterRoleBinding "b" of ClusterRole "r" to User "u"``."""


Grants = dict[tuple[str, str], Grant]
"""By the binding's namespace and name."""


class Rbac:
    """Answers from an index that the caches' changes keep up to date."""

    def __init__(self) -> None:
        self._roles: dict[RoleKey, tuple[Rule, ...]] = {}
        self._cluster: defaultdict[Subject, Grants] = defaultdict(dict)
        self._within: defaultdict[str, defaultdict[Subject, Grants]] = defaultdict(lambda: defaultdict(dict))
        self._known: dict[tuple[str, tuple[str, ...], Attributes], Decision] = {}

    def follow(self, registry: Registry) -> None:
        """Keep up with the registry's caches; before they run."""
        for roles in (ROLES, CLUSTERROLES):
            registry.of(roles).cache.listen(self._role_changed)
        for bindings in (ROLEBINDINGS, CLUSTERROLEBINDINGS):
            registry.of(bindings).cache.listen(self._binding_changed)

    # --- questions ------------------------------------------------------------------------------------------------

    def decide(self, user: User, asked: Attributes) -> Decision:
        """Allowed where one rule of one role that is bound to the user allows it."""
        key = user.name, user.groups, asked
        known = self._known.get(key)
        if known is None:
            known = self._decide(user, asked)
            texts = (user.name, *user.groups, asked.name, asked.namespace, asked.plural, asked.path, asked.fields)
            if sum(map(len, texts)) <= _SHORT:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[key] = known
        return known

    def _decide(self, user: User, asked: Attributes) -> Decision:
        missing: list[str] = []
        for grant in self._grants(user, asked.namespace):
            rules = self._roles.get(grant.role)
            if rules is None:
                missing.append(str(missing_role(grant.role)))
            elif any(rule.allows(asked) for rule in rules):
                return Decision(allowed=True, reason=f"RBAC: allowed by {grant.reason}")
        if not missing:
            return NO_OPINION
        words = list(dict.fromkeys(missing))
        return Decision(allowed=False, reason="RBAC: " + (words[0] if len(words) == 1 else f"[{', '.join(words)}]"))

    def rules_for(self, user: User, namespace: str) -> tuple[list[Rule], list[str]]:
        """All that a user may do in a namespace and in the cluster; and the roles that are bound and not there."""
        rules: list[Rule] = []
        missing: list[str] = []
        for grant in self._grants(user, namespace):
            found = self._roles.get(grant.role)
            if found is None:
                missing.append(str(missing_role(grant.role)))
            else:
                rules += found
        return rules, list(dict.fromkeys(missing))

    def role(self, kind: str, name: str, namespace: str) -> tuple[Rule, ...]:
        """The rules of the role that a binding in `namespace` refers to; ApiError 404."""
        key = ("" if kind == "ClusterRole" else namespace, name)
        rules = self._roles.get(key)
        if rules is None:
            raise missing_role(key)
        return rules

    def _grants(self, user: User, namespace: str) -> Iterator[Grant]:
        subjects = [("u", user.name), *(("g", group) for group in user.groups)]
        for subject in subjects:
            if subject in self._cluster:
                yield from self._cluster[subject].values()
        within = self._within.get(namespace) if namespace else None
        if within:
            for subject in subjects:
                if subject in within:
                    yield from within[subject].values()

    # --- changes --------------------------------------------------------------------------------------------------

    def _role_changed(self, old: Entry | None, new: Entry | None) -> None:
        self._known.clear()
        if new is not None:
            self._roles[new.namespace, new.name] = read_rules(new.decode().get("rules"))
        elif old is not None:
            self._roles.pop((old.namespace, old.name), None)

    def _binding_changed(self, old: Entry | None, new: Entry | None) -> None:
        self._known.clear()
        if old is not None:
            table = self._within[old.namespace] if old.namespace else self._cluster
            for subject, _ in grants_of(old.decode()):
                grants = table.get(subject, {})
                grants.pop((old.namespace, old.name), None)
                if not grants:
                    table.pop(subject, None)
            if old.namespace and not table:
                del self._within[old.namespace]
        if new is not None:
            table = self._within[new.namespace] if new.namespace else self._cluster
            for subject, grant in grants_of(new.decode()):
                table[subject].setdefault((new.namespace, new.name), grant)


def grants_of(binding: Tree) -> Iterable[tuple[Subject, Grant]]:
    """What a RoleBinding or ClusterRoleBinding gives to whom."""
    meta, ref = binding["metadata"], binding.get("roleRef") or {}
    namespace, name = meta.get("namespace") or "", meta["name"]
    kind, role = ref.get("kind") or "", ref.get("name") or ""
    if kind not in ("Role", "ClusterRole") or (kind == "Role" and not namespace):
        return
    key = (namespace if kind == "Role" else "", role)
    what = f'RoleBinding "{name}/{namespace}"' if namespace else f'ClusterRoleBinding "{name}"'
    for subject in binding.get("subjects") or ():
        to, shown = subject.get("name") or "", subject.get("name") or ""
        match subject.get("kind"):
            case "User":
                found: Subject = ("u", to)
            case "Group":
                found = ("g", to)
            case "ServiceAccount":
                place = subject.get("namespace") or namespace
                if not place:
                    continue
                found, shown = ("u", f"{ACCOUNT_PREFIX}{place}:{to}"), f"{to}/{place}"
            case _:
                continue
        yield found, Grant(key, f'{what} of {kind} "{role}" to {subject["kind"]} "{shown}"')


def missing_role(key: RoleKey) -> ApiError:
    """404 for a role that is bound and not there; upstream writes the kind small and in the singular here."""
    namespace, name = key
    return not_found(GROUP, "role" if namespace else "clusterrole", name)
