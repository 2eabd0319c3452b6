"""A pod that waits behind scheduling gates may still be narrowed to fewer nodes, but not widened to others (KEP-3838).

Source: validateNodeSelectorMutation and validateNodeAffinityMutation in pkg/apis/core/validation upstream.
"""

from __future__ import annotations

from master.apiserver.kinds.common import Errors, Tree, go_map, items, keep, part, same
from sampan.api.errors import invalid

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERMS = f"spec.affinity.nodeAffinity.{_REQUIRED}.nodeSelectorTerms"


def narrowed(new: Tree, old: Tree) -> Errors:
    """What is wrong with a gated pod's new spec; its nodeSelector and nodeAffinity become the old ones, in place."""
    errors: Errors = []
    before, after = part(old, "nodeSelector"), part(new, "nodeSelector")
    if any(after.get(key) != value for key, value in before.items()):
        errors.append(invalid("spec.nodeSelector", go_map(after or None),
                              "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
    keep(new, old, "nodeSelector")
    had, has = (part(part(spec, "affinity"), "nodeAffinity") for spec in (old, new))
    if not same(has, had):
        errors += _terms(items(part(has, _REQUIRED), "nodeSelectorTerms"),
                         items(part(had, _REQUIRED), "nodeSelectorTerms"))
        new["affinity"] = dict(part(new, "affinity"))
        keep(new["affinity"], part(old, "affinity"), "nodeAffinity")
    return errors


def _terms(new: list[Tree], old: list[Tree]) -> Errors:
    """Where there were no terms, any may come."""
    if not old:
        return []
    if len(new) != len(old):
        return [invalid(_TERMS, new, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")]
    return [invalid(f"{_TERMS}[{index}]", term, "only additions are allowed (no mutations or deletions)")
            for index, (term, before) in enumerate(zip(new, old, strict=True)) if not _only_added(term, before)]


def _only_added(new: Tree, old: Tree) -> bool:
    """Whether a term asks for all that it asked for before; one that was empty fits no node, and stays so."""
    kinds = ("matchExpressions", "matchFields")
    if not any(items(old, kind) for kind in kinds):
        return not any(items(new, kind) for kind in kinds)
    return all(same(items(new, kind)[:len(items(old, kind))], items(old, kind)) for kind in kinds)
