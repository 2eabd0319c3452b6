"""Fields that take a number or a percentage: ``maxSurge: 1`` or ``maxSurge: 25%``.

Source: k8s.io/apimachinery/pkg/util/intstr.
"""

from __future__ import annotations

import re

_PERCENT = re.compile(r"[+-]?[0-9]+")


def percent(text: str) -> int:
    """The number before the percent sign; ValueError with upstream's text."""
    if not text.endswith("%"):
        raise ValueError("invalid value for IntOrString: invalid type: string is not a percentage")
    number = text[:-1]
    if not _PERCENT.fullmatch(number) or len(number) > 10:
        raise ValueError(f'invalid value for IntOrString: invalid value "{text}": strconv.Atoi: parsing '
                         f'"{number}": invalid syntax')
    return int(number)


def is_percent(value: object) -> bool:
    """Whether it is written as a percentage."""
    return isinstance(value, str) and value.endswith("%")


def scaled_value(value: int | str, total: int, *, round_up: bool) -> int:
    """A number as it is, a percentage of `total` rounded to a whole number; ValueError with upstream's text."""
    if isinstance(value, int):
        return value
    share = percent(value) * total
    return -(-share // 100) if round_up else _toward_zero(share)


def _toward_zero(share: int) -> int:
    return share // 100 if share >= 0 else -(-share // 100)
