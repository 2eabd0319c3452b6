"""Checks of what a pod asks of its node: affinity, tolerations, spreading."""

from __future__ import annotations

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Errors, Tree, items, part
from sampan.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required, show

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
MAX_WEIGHT = 100
BAD_WEIGHT = "must be in the range 1-100"
BAD_OPERATOR = "not a valid selector operator"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def taint_effect(path: str, effect: str) -> Errors:
    """The effect of a taint, which must be there."""
    if not effect:
        return [required(path)]
    return [] if effect in EFFECTS else [not_supported(path, effect, EFFECTS)]


def taints(found: list[Tree], path: str) -> Errors:
    """A node's taints: good labels, known effects, one value for a key and effect."""
    errors: Errors = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(found):
        at = f"{path}[{index}]"
        key, value, effect = (taint.get(name) or "" for name in ("key", "value", "effect"))
        errors += checks.qualified_name(f"{at}.key", key)
        if messages := checks.label_value(value):
            errors.append(invalid(f"{at}.value", value, ";".join(messages)))
        errors += taint_effect(f"{at}.effect", effect)
        if (key, effect) in seen:
            shown = (f"core.Taint{{Key:{show(key)}, Value:{show(value)}, Effect:{show(effect)}, "
                     "TimeAdded:<nil>}")
            errors.append(FieldError(at, "FieldValueDuplicate",
                                     f"Duplicate value: {shown}: taints must be unique by key and effect pair"))
        seen.add((key, effect))
    return errors


def tolerations(spec: Tree, path: str) -> Errors:
    """A pod's tolerations."""
    errors: Errors = []
    for index, toleration in enumerate(items(spec, "tolerations")):
        at = f"{path}[{index}]"
        key, operator, value, effect = (toleration.get(name) or "" for name in ("key", "operator", "value", "effect"))
        if key:
            errors += checks.qualified_name(f"{at}.key", key)
        elif operator != "Exists":
            errors.append(invalid(f"{at}.operator", operator, "operator must be Exists when `key` is empty, which "
                                                              'means "match all values and all keys"'))
        if "tolerationSeconds" in toleration and effect != "NoExecute":
            errors.append(invalid(f"{at}.effect", effect,
                                  "effect must be 'NoExecute' when `tolerationSeconds` is set"))
        if operator in ("Equal", ""):
            if messages := checks.label_value(value):
                errors.append(invalid(f"{at}.operator", value, ";".join(messages)))
        elif operator == "Exists":
            if value:
                errors.append(invalid(f"{at}.operator", value, "value must be empty when `operator` is 'Exists'"))
        else:
            errors.append(not_supported(f"{at}.operator", operator, ("Equal", "Exists")))
        if effect:
            errors += taint_effect(f"{at}.effect", effect)
    return errors


def affinity(spec: Tree, path: str) -> Errors:
    """Node, pod and anti-affinity."""
    tree = part(spec, "affinity")
    errors: Errors = []
    if "nodeAffinity" in tree:
        at = f"{path}.nodeAffinity"
        node = tree["nodeAffinity"]
        if _REQUIRED in node:
            errors += node_selector(node[_REQUIRED], f"{at}.{_REQUIRED}")
        for index, term in enumerate(items(node, _PREFERRED)):
            here = f"{at}.{_PREFERRED}[{index}]"
            errors += _weight(term, here)
            errors += _node_term(part(term, "preference"), f"{here}.preference", values=False)
    for kind in ("podAffinity", "podAntiAffinity"):
        for index, term in enumerate(items(tree.get(kind), _REQUIRED)):
            errors += _pod_term(term, f"{path}.{kind}.{_REQUIRED}[{index}]")
        for index, term in enumerate(items(tree.get(kind), _PREFERRED)):
            here = f"{path}.{kind}.{_PREFERRED}[{index}]"
            errors += _weight(term, here)
            errors += _pod_term(part(term, "podAffinityTerm"), f"{here}.podAffinityTerm")
    return errors


def _weight(term: Tree, path: str) -> Errors:
    weight = term.get("weight") or 0
    return [] if 0 < weight <= MAX_WEIGHT else [invalid(f"{path}.weight", weight, BAD_WEIGHT)]


def node_selector(selector: Tree, path: str) -> Errors:
    """A node selector: at least one term."""
    terms = items(selector, "nodeSelectorTerms")
    at = f"{path}.nodeSelectorTerms"
    if not terms:
        return [required(at, "must have at least one node selector term")]
    return [error for index, term in enumerate(terms) for error in _node_term(term, f"{at}[{index}]", values=True)]


def _node_term(term: Tree, path: str, *, values: bool) -> Errors:
    errors: Errors = []
    for index, requirement in enumerate(items(term, "matchExpressions")):
        at = f"{path}.matchExpressions[{index}]"
        errors += _node_operator(requirement, at)
        errors += checks.qualified_name(f"{at}.key", requirement.get("key") or "")
        if values:
            errors += [invalid(f"{at}.values[{number}]", value, message)
                       for number, value in enumerate(items(requirement, "values"))
                       for message in checks.label_value(value)]
    for index, requirement in enumerate(items(term, "matchFields")):
        at = f"{path}.matchFields[{index}]"
        operator, key, wanted = requirement.get("operator") or "", requirement.get("key") or "", items(
            requirement, "values")
        if operator not in ("In", "NotIn"):
            errors.append(invalid(f"{at}.operator", operator, BAD_OPERATOR))
        elif len(wanted) != 1:
            errors.append(required(f"{at}.values", "must be only one value when `operator` is 'In' or 'NotIn' for "
                                                   "node field selector"))
        if key != "metadata.name":
            errors.append(invalid(f"{at}.key", key, "not a valid field selector key"))
        else:
            for number, value in enumerate(wanted):
                errors += checks.dns_subdomain(f"{at}.values[{number}]", value)
    return errors


def _node_operator(requirement: Tree, path: str) -> Errors:
    operator, count = requirement.get("operator") or "", len(items(requirement, "values"))
    if operator in ("In", "NotIn"):
        return [] if count else [required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")]
    if operator in ("Exists", "DoesNotExist"):
        return [] if not count else [forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' "
                                                                 "or 'DoesNotExist'")]
    if operator in ("Gt", "Lt"):
        return [] if count == 1 else [required(f"{path}.values", "must be specified single value when `operator` is "
                                                                 "'Lt' or 'Gt'")]
    return [invalid(f"{path}.operator", operator, BAD_OPERATOR)]


def _pod_term(term: Tree, path: str) -> Errors:
    errors: Errors = []
    for key in ("labelSelector", "namespaceSelector"):
        if key in term:
            errors += checks.label_selector(f"{path}.{key}", term[key])
    for name in items(term, "namespaces"):
        errors += checks.dns_label(f"{path}.namespace", name)
    matched = set(items(term, "matchLabelKeys"))
    for key in ("matchLabelKeys", "mismatchLabelKeys"):
        if items(term, key) and "labelSelector" not in term:
            errors.append(forbidden(f"{path}.{key}", "must not be specified when labelSelector is not set"))
        else:
            for index, label in enumerate(items(term, key)):
                errors += checks.qualified_name(f"{path}.{key}[{index}]", label)
    for index, label in enumerate(items(term, "matchLabelKeys")):
        if label in matched & set(items(term, "mismatchLabelKeys")):
            errors.append(invalid(f"{path}.matchLabelKeys[{index}]", label,
                                  "exists in both matchLabelKeys and mismatchLabelKeys"))
    topology = term.get("topologyKey") or ""
    if not topology:
        errors.append(required(f"{path}.topologyKey", "can not be empty"))
    return errors + checks.qualified_name(f"{path}.topologyKey", topology)


def spread(spec: Tree, path: str) -> Errors:
    """What topologySpreadConstraints ask."""
    errors: Errors = []
    found = items(spec, "topologySpreadConstraints")
    last = {(constraint.get("topologyKey"), constraint.get("whenUnsatisfiable")): index
            for index, constraint in enumerate(found)}
    for index, constraint in enumerate(found):
        at = f"{path}[{index}]"
        key, action = constraint.get("topologyKey") or "", constraint.get("whenUnsatisfiable") or ""
        if (skew := constraint.get("maxSkew") or 0) <= 0:
            errors.append(invalid(f"{at}.maxSkew", skew, "must be greater than zero"))
        if not key:
            errors.append(required(f"{at}.topologyKey", "can not be empty"))
        if action not in ("DoNotSchedule", "ScheduleAnyway"):
            errors.append(not_supported(f"{at}.whenUnsatisfiable", action, ("DoNotSchedule", "ScheduleAnyway")))
        if last.get((key, action), index) > index:
            errors.append(duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {action}}}"))
        errors += _spread_details(constraint, at, action)
    return errors


def _spread_details(constraint: Tree, path: str, action: str) -> Errors:
    errors: Errors = []
    domains = constraint.get("minDomains")
    if domains is not None:
        if domains <= 0:
            errors.append(invalid(f"{path}.minDomains", domains, "must be greater than zero"))
        if action != "DoNotSchedule":
            errors.append(invalid(f"{path}.minDomains", domains, "can only use minDomains if "
                                                                 f"whenUnsatisfiable=DoNotSchedule, not {action}"))
    for key in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        if constraint.get(key, "Honor") not in ("Honor", "Ignore"):
            errors.append(not_supported(f"{path}.{key}", constraint[key], ("Honor", "Ignore")))
    keys, selector = items(constraint, "matchLabelKeys"), constraint.get("labelSelector")
    if keys and selector is None:
        errors.append(forbidden(f"{path}.matchLabelKeys", "must not be specified when labelSelector is not set"))
    used = {*part(selector, "matchLabels"), *(item.get("key") for item in items(selector, "matchExpressions"))}
    for index, key in enumerate(keys):
        errors += checks.qualified_name(f"{path}.matchLabelKeys[{index}]", key)
        if key in used:
            errors.append(invalid(f"{path}.matchLabelKeys[{index}]", key,
                                  "exists in both matchLabelKeys and labelSelector"))
    if selector is not None:
        errors += checks.label_selector(f"{path}.labelSelector", selector)
    return errors
