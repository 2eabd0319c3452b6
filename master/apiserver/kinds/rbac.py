"""Roles and bindings (rbac.authorization.k8s.io): who may do what.

Source: pkg/apis/rbac/validation. That nobody gives away what they do not have is checked at admission.
"""

from __future__ import annotations

from collections.abc import Sequence

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Errors, Shown, Tree, drop_unset, go_strings, items, part, quoted, same
from master.apiserver.strategy import Context, Strategy
from sampan.api import names
from sampan.api.errors import invalid, not_supported, required

GROUP = "rbac.authorization.k8s.io"


class RoleStrategy(Strategy):
    """The rules of Roles and, without a namespace, of ClusterRoles."""

    name_rule = "path"
    status_field = ""
    allow_create_on_update = True

    def __init__(self, *, namespaced: bool) -> None:
        self._namespaced = namespaced

    def default(self, obj: Tree) -> None:
        """Nothing is filled in; a list of rules is always there."""
        obj.setdefault("rules", [])
        for rule in items(obj, "rules"):
            drop_unset(rule, ("apiGroups", "resources", "resourceNames", "nonResourceURLs"))

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Each rule is about resources or about URLs, and about something."""
        errors: Errors = []
        for index, rule in enumerate(items(obj, "rules")):
            errors += self._rule(rule, f"rules[{index}]")
        if "aggregationRule" in obj:
            selectors = items(part(obj, "aggregationRule"), "clusterRoleSelectors")
            at = "aggregationRule.clusterRoleSelectors"
            if not selectors:
                errors.append(required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
            for index, selector in enumerate(selectors):
                errors += checks.label_selector(f"{at}[{index}]", selector)
        return errors

    def _rule(self, rule: Tree, at: str) -> Errors:
        errors: Errors = []
        if not items(rule, "verbs"):
            errors.append(required(f"{at}.verbs", "verbs must contain at least one value"))
        urls = items(rule, "nonResourceURLs")
        if urls:
            if self._namespaced:
                errors.append(invalid(f"{at}.nonResourceURLs", go_strings(urls),
                                      "namespaced rules cannot apply to non-resource URLs"))
            if any(items(rule, key) for key in ("apiGroups", "resources", "resourceNames")):
                errors.append(invalid(f"{at}.nonResourceURLs", go_strings(urls),
                                      "rules cannot apply to both regular resources and non-resource URLs"))
            return errors
        if not items(rule, "apiGroups"):
            errors.append(required(f"{at}.apiGroups", "resource rules must supply at least one api group"))
        if not items(rule, "resources"):
            errors.append(required(f"{at}.resources", "resource rules must supply at least one resource"))
        return errors


class BindingStrategy(Strategy):
    """The rules of RoleBindings and, without a namespace, of ClusterRoleBindings."""

    name_rule = "path"
    status_field = ""
    allow_create_on_update = True

    def __init__(self, *, namespaced: bool) -> None:
        self._namespaced = namespaced

    def default(self, obj: Tree) -> None:
        """The API group of the role and of users and groups; there is only one."""
        if isinstance(obj.get("roleRef"), dict) and not obj["roleRef"].get("apiGroup"):
            obj["roleRef"]["apiGroup"] = GROUP
        drop_unset(obj, ("subjects",))
        for subject in items(obj, "subjects"):
            drop_unset(subject, ("apiGroup", "namespace"))
            if subject.get("kind") in ("User", "Group"):
                subject.setdefault("apiGroup", GROUP)

    def validate(self, obj: Tree, context: Context) -> Errors:
        """A role that can be there, and subjects of the known kinds."""
        ref = part(obj, "roleRef")
        group, kind, name = (ref.get(key) or "" for key in ("apiGroup", "kind", "name"))
        errors: Errors = [] if group == GROUP else [not_supported("roleRef.apiGroup", group, (GROUP,))]
        kinds: Sequence[str] = ("Role", "ClusterRole") if self._namespaced else ("ClusterRole",)
        if kind not in kinds:
            errors.append(not_supported("roleRef.kind", kind, kinds))
        if not name:
            errors.append(required("roleRef.name"))
        else:
            errors += [invalid("roleRef.name", name, message) for message in names.path_segment(name)]
        for index, subject in enumerate(items(obj, "subjects")):
            errors += self._subject(subject, f"subjects[{index}]")
        return errors

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """What a binding is about never changes: whoever may change its subjects may not choose another role."""
        if same(new.get("roleRef"), old.get("roleRef")):
            return []
        ref = part(new, "roleRef")
        group, kind, name = (quoted(ref.get(key) or "") for key in ("apiGroup", "kind", "name"))
        shown = Shown(f"rbac.RoleRef{{APIGroup:{group}, Kind:{kind}, Name:{name}}}")
        return [invalid("roleRef", shown, "cannot change roleRef")]

    def _subject(self, subject: Tree, at: str) -> Errors:
        kind, name, group = (subject.get(key) or "" for key in ("kind", "name", "apiGroup"))
        errors: Errors = [] if name else [required(f"{at}.name")]
        if kind == "ServiceAccount":
            if name:
                errors += [invalid(f"{at}.name", name, message) for message in names.dns_subdomain(name)]
            if group:
                errors.append(not_supported(f"{at}.apiGroup", group, ("",)))
            if not self._namespaced and not subject.get("namespace"):
                errors.append(required(f"{at}.namespace"))
        elif kind in ("User", "Group"):
            if group != GROUP:
                errors.append(not_supported(f"{at}.apiGroup", group, (GROUP,)))
        else:
            errors.append(not_supported(f"{at}.kind", kind, ("ServiceAccount", "User", "Group")))
        return errors
