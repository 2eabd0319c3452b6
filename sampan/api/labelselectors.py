"""Label selectors: their text form, the LabelSelector objects in specs, and what they match. Pure.

Source: k8s.io/apimachinery/pkg/labels and pkg/apis/meta/v1. Texts of errors are upstream's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sampan.api import names
from sampan.api.errors import FieldError, invalid, not_supported
from sampan.api.types import meta_v1

Labels = Mapping[str, str]

_KNOWN: Final = ("in", "notin", "=", "==", "!=", "gt", "lt", "exists", "!")
_SIGN: Final = {"gt": ">", "lt": "<"}
_OF_OBJECT: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!", "Gt": "gt", "Lt": "lt"}
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


class SelectorError(ValueError):
    """The selector cannot be understood; the message is upstream's."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. `operator` is in, notin, =, ==, !=, exists, !, gt or lt; `values` are sorted."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether a set of labels fulfils it."""
        value = labels.get(self.key)
        match self.operator:
            case "in" | "=" | "==":
                return value is not None and value in self.values
            case "notin" | "!=":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        bound = int(self.values[0])
        return int(value) > bound if self.operator == "gt" else int(value) < bound

    def __str__(self) -> str:
        if self.operator == "exists":
            return self.key
        if self.operator == "!":
            return "!" + self.key
        if self.operator in ("in", "notin"):
            return f"{self.key} {self.operator} ({','.join(self.values)})"
        return f"{self.key}{_SIGN.get(self.operator, self.operator)}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of its requirements together; without any it matches everything, unless `impossible`."""

    requirements: tuple[Requirement, ...] = ()
    impossible: bool = field(default=False)

    def matches(self, labels: Labels | None) -> bool:
        """Whether a set of labels is selected."""
        if self.impossible:
            return False
        have: Labels = labels or {}
        return all(requirement.matches(have) for requirement in self.requirements)

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return not self.requirements and not self.impossible

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERYTHING: Final = LabelSelector()
NOTHING: Final = LabelSelector(impossible=True)


def requirement(key: str, operator: str, values: Sequence[str]) -> Requirement:
    """A checked requirement; SelectorError."""
    problem = check_requirement(key, operator, values)
    if problem is not None:
        raise SelectorError(str(problem))
    return Requirement(key, operator, tuple(sorted(set(values))))


def check_requirement(key: str, operator: str, values: Sequence[str]) -> FieldError | None:
    """What is wrong with a requirement, with upstream's paths below the selector."""
    texts = names.qualified_name(key)
    if texts:
        return invalid("key", key, "; ".join(texts))
    count = len(set(values))
    shown = list(values)
    if operator in ("in", "notin"):
        if not count:
            return invalid("values", shown, "for 'in', 'notin' operators, values set can't be empty")
    elif operator in ("=", "==", "!="):
        if count != 1:
            return invalid("values", shown, "exact-match compatibility requires one single value")
    elif operator in ("exists", "!"):
        if count:
            return invalid("values", shown, "values set must be empty for exists and does not exist")
    elif operator in ("gt", "lt"):
        if count != 1:
            return invalid("values", shown, "for 'Gt', 'Lt' operators, exactly one value is required")
        if not _INTEGER.fullmatch(shown[0]):
            return invalid("values[0]", shown[0], "for 'Gt', 'Lt' operators, the value must be an integer")
    else:
        return not_supported("operator", operator, _KNOWN)
    for index, value in enumerate(sorted(set(values))):
        texts = names.label_value(value)
        if texts:
            return invalid(f"values[{index}][{key}]", value, "; ".join(texts))
    return None


def of_labels(labels: Labels | None) -> LabelSelector:
    """Exactly these labels, unchecked; no labels select everything."""
    return LabelSelector(tuple(Requirement(key, "=", (value,)) for key, value in sorted((labels or {}).items())))


def of_object(selector: meta_v1.LabelSelector | Mapping[str, Any] | None) -> LabelSelector:
    """A spec's LabelSelector: None selects nothing, an empty one everything; SelectorError."""
    if selector is None:
        return NOTHING
    if isinstance(selector, meta_v1.LabelSelector):
        labels: Labels = selector.match_labels
        expressions = [(item.key, item.operator, item.values) for item in selector.match_expressions]
    else:
        labels = selector.get("matchLabels") or {}
        expressions = [(item.get("key", ""), item.get("operator", ""), item.get("values") or [])
                       for item in selector.get("matchExpressions") or ()]
    result = [requirement(key, "=", [value]) for key, value in sorted(labels.items())]
    for key, operator, values in expressions:
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise SelectorError(f'"{operator}" is not a valid label selector operator')
        result.append(requirement(key, _OF_OBJECT[operator], values))
    return LabelSelector(tuple(sorted(result, key=lambda item: item.key)))


def of_node_term(expressions: Sequence[Mapping[str, Any]]) -> LabelSelector:
    """A NodeSelectorTerm's matchExpressions, which also know Gt and Lt; SelectorError."""
    result = []
    for item in expressions:
        operator = _OF_OBJECT.get(item.get("operator", ""))
        if operator is None:
            raise SelectorError(f'"{item.get("operator", "")}" is not a valid node selector operator')
        result.append(requirement(item.get("key", ""), operator, item.get("values") or []))
    return LabelSelector(tuple(result)) if result else NOTHING


def parse_labels(text: str) -> LabelSelector:
    """Read ``app=web,tier in (a,b),!old,rank>3``; SelectorError with upstream's text."""
    return LabelSelector(tuple(sorted(_Parser(text).selector(), key=lambda item: item.key)))


_SPACE: Final = " \t\r\n"
_SPECIAL: Final = "=!(),><"
_TOKENS: Final = {")", ",", "!", "==", "=", ">", "<", "!=", "("}
_OPERATORS: Final = {"in": "in", "notin": "notin", "=": "=", "==": "==", "!=": "!=", ">": "gt", "<": "lt"}


def _scan(text: str) -> list[tuple[str, str]]:
    """Tokens as (kind, literal): kind is "id", "end", "error" or the symbol itself."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        start = position
        if text[position] in _SPACE:
            position += 1
        elif text[position] in _SPECIAL:
            position += 2 if text[position:position + 2] in _TOKENS else 1
            tokens.append((text[start:position], text[start:position]))
        else:
            while position < len(text) and text[position] not in _SPACE + _SPECIAL:
                position += 1
            tokens.append(("id", text[start:position]))
    tokens.append(("end", ""))
    return tokens


class _Parser:
    """Upstream's grammar, one method a rule."""

    def __init__(self, text: str) -> None:
        self._tokens = _scan(text)
        self._at = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[min(self._at, len(self._tokens) - 1)]

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def selector(self) -> list[Requirement]:
        result: list[Requirement] = []
        while True:
            kind, literal = self._peek()
            if kind == "end":
                return result
            if kind not in ("id", "!"):
                raise SelectorError(f"found '{literal}', expected: !, identifier, or 'end of string'")
            try:
                result.append(self._requirement())
            except SelectorError as error:
                raise SelectorError(f"unable to parse requirement: {error}") from error
            kind, literal = self._take()
            if kind == "end":
                return result
            if kind != ",":
                raise SelectorError(f"found '{literal}', expected: ',' or 'end of string'")
            kind, literal = self._peek()
            if kind not in ("id", "!"):
                raise SelectorError(f"found '{literal}', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        kind, key = self._take()
        absent = kind == "!"
        if absent:
            kind, key = self._take()
        if kind != "id":
            raise SelectorError(f"found '{key}', expected: identifier")
        texts = names.qualified_name(key)
        if texts:
            raise SelectorError(str(invalid("key", key, "; ".join(texts))))
        if absent or self._peek()[0] in ("end", ","):
            return requirement(key, "!" if absent else "exists", [])
        literal = self._take()[1]
        operator = _OPERATORS.get(literal)
        if operator is None:
            raise SelectorError(f"found '{literal}', expected: in, notin, =, ==, !=, gt, lt")
        return requirement(key, operator, self._values() if operator in ("in", "notin") else self._exact())

    def _exact(self) -> list[str]:
        if self._peek()[0] in ("end", ","):
            return [""]
        kind, literal = self._take()
        if kind != "id":
            raise SelectorError(f"found '{literal}', expected: identifier")
        return [literal]

    def _values(self) -> list[str]:
        kind, literal = self._take()
        if kind != "(":
            raise SelectorError(f"found '{literal}' expected: '('")
        kind, literal = self._peek()
        if kind == ")":
            self._take()
            return [""]
        if kind not in ("id", ","):
            raise SelectorError(f"found '{literal}', expected: ',', ')' or identifier")
        return self._list()

    def _list(self) -> list[str]:
        """Identifiers between parentheses; an empty place between commas is the empty value."""
        values: list[str] = []
        expecting = True
        while True:
            kind, literal = self._take()
            if kind == "id" and expecting:
                values.append(literal)
                expecting = False
            elif kind == ",":
                if expecting:
                    values.append("")
                expecting = True
            elif kind == ")":
                return [*values, ""] if expecting else values
            elif expecting:
                raise SelectorError(f"found '{literal}', expected: ',', or identifier")
            else:
                raise SelectorError(f"found '{literal}', expected: ',' or ')'")
