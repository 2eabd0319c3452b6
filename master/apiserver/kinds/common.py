"""Small things that all kinds need: how values read in messages, what counts as unset, what to keep on an update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.api.errors import IMMUTABLE, FieldError, invalid

Tree = dict[str, Any]
Errors = list[FieldError]


@dataclass(frozen=True, slots=True)
class Shown:
    """A value that has its own way to be shown in a message.

    Upstream writes maps, lists and structs there in Go's syntax; users search the web for these texts.
    """

    text: str

    def __str__(self) -> str:
        return self.text


NIL = Shown('"null"')
"""How upstream shows a pointer that is not set."""


def quoted(text: str) -> str:
    """A string in Go's quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def go_strings(values: Iterable[str] | None) -> Shown:
    """A list of strings."""
    if values is None:
        return Shown("[]string(nil)")
    return Shown("[]string{" + ", ".join(quoted(value) for value in values) + "}")


def go_map(values: Mapping[str, str] | None) -> Shown:
    """A map of strings, keys sorted."""
    if values is None:
        return Shown("map[string]string(nil)")
    return Shown("map[string]string{" + ", ".join(
        f"{quoted(key)}:{quoted(values[key])}" for key in sorted(values)) + "}")


def go_int_or_string(value: int | str) -> Shown:
    """A port or a percentage."""
    kind, number, text = (1, 0, value) if isinstance(value, str) else (0, value, "")
    return Shown(f"intstr.IntOrString{{Type:{kind}, IntVal:{number}, StrVal:{quoted(text)}}}")


def go_selector(selector: Mapping[str, Any] | None) -> Shown:
    """A label selector."""
    if selector is None:
        return NIL
    expressions = selector.get("matchExpressions")
    shown = "[]v1.LabelSelectorRequirement(nil)"
    if expressions:
        shown = "[]v1.LabelSelectorRequirement{" + ", ".join(
            f"v1.LabelSelectorRequirement{{Key:{quoted(item.get('key', ''))}, "
            f"Operator:{quoted(item.get('operator', ''))}, Values:{go_strings(item.get('values'))}}}"
            for item in expressions) + "}"
    return Shown(f"v1.LabelSelector{{MatchLabels:{go_map(selector.get('matchLabels'))}, MatchExpressions:{shown}}}")


def part(tree: Mapping[str, Any] | None, key: str) -> Tree:
    """A member that is an object; an empty one (not in the tree) where it is missing."""
    value = (tree or {}).get(key)
    return value if isinstance(value, dict) else {}


def items(tree: Mapping[str, Any] | None, key: str) -> list[Any]:
    """A member that is a list; an empty one (not in the tree) where it is missing."""
    value = (tree or {}).get(key)
    return value if isinstance(value, list) else []


def spec(obj: Tree) -> Tree:
    """The object's spec."""
    return part(obj, "spec")


def status(obj: Tree) -> Tree:
    """The object's status."""
    return part(obj, "status")


def metadata(obj: Tree) -> Tree:
    """The object's metadata."""
    return part(obj, "metadata")


def labels(obj: Tree) -> Tree:
    """The object's labels."""
    return part(metadata(obj), "labels")


def notes(obj: Tree) -> Tree:
    """The object's annotations."""
    return part(metadata(obj), "annotations")


def child(tree: Tree, key: str) -> Tree:
    """A member that is an object, put there if it is missing."""
    value = tree.get(key)
    if not isinstance(value, dict):
        value = tree[key] = {}
    return value


def drop_unset(tree: Tree, keys: Iterable[str]) -> None:
    """Take out members that are "", 0, false, [] or {} and mean the same as not being there.

    Go's encoder does that to fields that are no pointers; doing the same keeps stored objects, and what is compared
    with them, in one form.
    """
    for key in keys:
        if key in tree and not tree[key]:
            del tree[key]


def set_default(tree: Tree, key: str, value: object) -> None:
    """Set a member that is missing or "" or 0; such fields are no pointers upstream."""
    if not tree.get(key):
        tree[key] = value


def keep(new: Tree, old: Tree, key: str) -> None:
    """Make a member of `new` what it is in `old`."""
    if key in old:
        new[key] = old[key]
    else:
        new.pop(key, None)


_MAPS = frozenset(("labels", "annotations", "matchLabels", "nodeSelector", "limits", "requests", "options"))
"""Members that are maps with keys of the user's own: there a key with an empty value is not the same as no key."""


def same(one: object, other: object) -> bool:
    """Equality as upstream means it: a list, map or text that is empty equals one that is not there."""
    if isinstance(one, dict) or isinstance(other, dict):
        left, right = one or {}, other or {}
        if not isinstance(left, dict) or not isinstance(right, dict):
            return False
        return all((left.get(key) or {}) == (right.get(key) or {}) if key in _MAPS
                   else same(left.get(key), right.get(key)) for key in left.keys() | right.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if one in (None, "", []) and other in (None, "", []):
        return True
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def immutable(path: str, new: object, old: object, shown: object = None) -> Errors:
    """A complaint where the values differ; `shown` is how the new one is written when it is no plain value."""
    if same(new, old):
        return []
    if shown is None:
        shown = NIL if new is None else new
    return [invalid(path, shown, IMMUTABLE)]
