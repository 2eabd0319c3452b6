"""Field selectors: ``status.phase!=Running,spec.nodeName=n1``.

Source: k8s.io/apimachinery/pkg/fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sampan.api.labelselectors import SelectorError

_EVERY_KIND = frozenset(("metadata.name", "metadata.namespace"))
"""What can be asked of kinds that have no fields of their own for it."""


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One condition; `equal` False for ``!=``."""

    field: str
    value: str
    equal: bool = True

    def __str__(self) -> str:
        return f"{self.field}{'=' if self.equal else '!='}{_escape(self.value)}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All of its requirements together."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        """Whether an object with these fields is selected; one that is not there reads as empty."""
        return all((fields.get(item.field, "") == item.value) == item.equal for item in self.requirements)

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return not self.requirements

    def exact(self, field: str) -> str | None:
        """The value that a field must have, None where it may have several: lets a list read one key only."""
        return next((item.value for item in self.requirements if item.field == field and item.equal), None)

    def check(self, known: frozenset[str] | set[str]) -> None:
        """SelectorError with upstream's text when it asks for a field that the kind does not have."""
        for item in self.requirements:
            if item.field not in known:
                raise SelectorError(f'"{item.field}" is not a known field selector: only "metadata.name", '
                                    '"metadata.namespace"' if known <= _EVERY_KIND
                                    else f"field label not supported: {item.field}")

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERY_FIELD: Final = FieldSelector()


def parse_fields(text: str) -> FieldSelector:
    """Read a field selector; SelectorError with upstream's text."""
    result = []
    for term in _terms(text):
        if not term:
            continue
        left, operator, right = _split(term)
        if not operator:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{term}'")
        result.append(FieldRequirement(left, _unescape(right), operator != "!="))
    return FieldSelector(tuple(sorted(result, key=lambda item: item.field)))


def _terms(text: str) -> list[str]:
    """Split at commas that no backslash precedes."""
    terms, current, escaped = [], "", False
    for character in text:
        if character == "," and not escaped:
            terms.append(current)
            current = ""
        else:
            current += character
        escaped = character == "\\" and not escaped
    return [*terms, current]


def _split(term: str) -> tuple[str, str, str]:
    """Split at the first operator."""
    for index in range(len(term)):
        for operator in ("!=", "==", "="):
            if term.startswith(operator, index):
                return term[:index], operator, term[index + len(operator):]
    return term, "", ""


def _unescape(value: str) -> str:
    result, escaped = "", False
    for character in value:
        if escaped:
            if character not in "\\,=":
                raise SelectorError(f"invalid field selector: invalid escape sequence: \\{character}")
            result += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in ",=":
            raise SelectorError(f"invalid field selector: unescaped character in value: {character}")
        else:
            result += character
    if escaped:
        raise SelectorError("invalid field selector: invalid escape sequence: \\")
    return result


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")
