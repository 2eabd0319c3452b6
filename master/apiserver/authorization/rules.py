"""One rule of a role: what it allows, and whether rules together cover another. Pure.

Source: the rbac.authorization.k8s.io reference; k8s.io/component-helpers/auth/rbac/validation for `uncovered`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from master.apiserver.authorization.attributes import Attributes

EVERY = "*"
MOST_PARTS = 20_000
"""Up to how many parts rules are taken apart: half a second's work, of which the default roles are a hundredth."""
Names = frozenset[str]
_NONE: Names = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule. `names` empty means every name; `paths` are URLs that are no resources, maybe ending in ``*``."""

    verbs: Names
    groups: Names = _NONE
    resources: Names = _NONE
    names: Names = _NONE
    paths: tuple[str, ...] = field(default=())

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Rule:
        """From the API's form."""
        verbs, groups, resources, names = (
            frozenset(tree.get(key) or ()) for key in ("verbs", "apiGroups", "resources", "resourceNames"))
        return cls(verbs, groups, resources, names, tuple(tree.get("nonResourceURLs") or ()))

    def tree(self) -> dict[str, Any]:
        """In the API's form, sorted."""
        found = {"apiGroups": sorted(self.groups), "nonResourceURLs": list(self.paths),
                 "resourceNames": sorted(self.names), "resources": sorted(self.resources)}
        return {key: value for key, value in found.items() if value} | {"verbs": sorted(self.verbs)}

    def allows(self, asked: Attributes) -> bool:
        """Whether the rule lets a request through."""
        verbs = self.verbs
        if asked.verb not in verbs and EVERY not in verbs:
            return False
        if asked.path:
            return any(_path_covers(path, asked.path) for path in self.paths)
        groups = self.groups
        if asked.group not in groups and EVERY not in groups:
            return False
        return self._names_resource(asked) and (not self.names or asked.name in self.names)

    def _names_resource(self, asked: Attributes) -> bool:
        resources = self.resources
        return (asked.resource in resources or EVERY in resources
                or (bool(asked.subresource) and f"*/{asked.subresource}" in resources))

    def covers(self, part: Rule) -> bool:
        """Whether whoever has this rule can do all that `part`, which is about resources or paths, allows."""
        if not _has(self.verbs, part.verbs):
            return False
        if part.paths:
            return all(any(_path_covers(own, path) for own in self.paths) for path in part.paths)
        return (_has(self.groups, part.groups) and all(self._covers_resource(name) for name in part.resources)
                and (not self.names or (bool(part.names) and part.names <= self.names)))

    def _covers_resource(self, name: str) -> bool:
        if name in self.resources or EVERY in self.resources:
            return True
        _, slash, subresource = name.partition("/")
        return bool(slash) and f"*/{subresource}" in self.resources

    @property
    def count(self) -> int:
        """How many parts the rule has."""
        return len(self.verbs) * (len(self.paths) + len(self.groups) * len(self.resources) * max(len(self.names), 1))

    def parts(self) -> Iterator[Rule]:
        """The rule taken apart: one verb on one thing each."""
        for path in self.paths:
            for verb in sorted(self.verbs):
                yield Rule(frozenset((verb,)), paths=(path,))
        for group in sorted(self.groups):
            for resource in sorted(self.resources):
                for name in sorted(self.names) or ("",):
                    for verb in sorted(self.verbs):
                        yield Rule(frozenset((verb,)), frozenset((group,)), frozenset((resource,)),
                                   frozenset((name,)) if name else _NONE)

    def __str__(self) -> str:
        """As upstream's refusals show a rule."""
        shown = (("APIGroups", sorted(self.groups)), ("Resources", sorted(self.resources)),
                 ("NonResourceURLs", self.paths), ("ResourceNames", sorted(self.names)),
                 ("Verbs", sorted(self.verbs)))
        return "{" + ", ".join(f"{name}:{go_list(values)}" for name, values in shown if values) + "}"


def go_list(values: Iterable[str]) -> str:
    """Texts as Go's %q shows a list of them."""
    return "[" + " ".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values) + "]"


def read_rules(trees: Iterable[Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """The rules of a role."""
    return tuple(Rule.read(tree) for tree in trees or ())


class TooManyParts(ValueError):
    """Rules that can be written in little space, and would take hours to compare part by part."""


def uncovered(owned: Sequence[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The parts of `wanted` that no rule in `owned` gives; TooManyParts."""
    left = [rule for rule in wanted if (rule.paths and rule.resources) or not any(own.covers(rule) for own in owned)]
    count = sum(rule.count for rule in left)
    if count > MOST_PARTS:
        raise TooManyParts(f"the rules combine to {count} permissions, of which at most {MOST_PARTS} can be compared "
                           "with those currently held")
    return [part for rule in left for part in rule.parts() if not any(own.covers(part) for own in owned)]


def compact(parts: Iterable[Rule]) -> list[Rule]:
    """Parts that differ in their verbs alone, put together again."""
    merged: dict[tuple[Names, Names, Names, tuple[str, ...]], Rule] = {}
    for part in parts:
        key = part.groups, part.resources, part.names, part.paths
        known = merged.get(key)
        merged[key] = replace(known, verbs=known.verbs | part.verbs) if known else part
    return list(merged.values())


def _has(own: Names, wanted: Names) -> bool:
    return EVERY in own or wanted <= own


def _path_covers(own: str, path: str) -> bool:
    return own in (EVERY, path) or (own.endswith(EVERY) and path.startswith(own.rstrip(EVERY)))
