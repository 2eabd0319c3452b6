"""Quantities: ``100m``, ``1.5Gi``, ``2e3``. Exact arithmetic, and upstream's one way to write each value.

Source: k8s.io/apimachinery/pkg/api/resource. The smallest amount is one nano; smaller ones are rounded up to it, so
that who asks for something gets something.
"""

from __future__ import annotations

import re
from functools import lru_cache, total_ordering
from typing import Final

_FORMAT_WRONG = (r"quantities must match the regular expression "
                 r"'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
_SUFFIX_WRONG = "unable to parse quantity's suffix"

_SHAPE: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)")
_NANO_DIGITS: Final = 9
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_SUFFIX: Final = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX: Final = ("", *_BINARY)
_MAX_EXPONENT: Final = 1000  # beyond it a few bytes of text would make numbers of gigabytes
_MAX_DIGITS: Final = 1000
_MAX_BINARY: Final = 2**63 - 1
_ONE: Final = 10**_NANO_DIGITS


class QuantityError(ValueError):
    """The text is no quantity; the message is upstream's."""


@total_ordering
class Quantity:
    """An exact amount; immutable, ordered, hashable. `str()` gives the canonical form.

    Two quantities are equal when their amounts are, however they are written. Sums keep the way of writing of the
    first, unless that is zero.
    """

    __slots__ = ("_form", "_nano")

    def __init__(self, nano: int = 0, form: str = "decimal") -> None:
        self._nano = nano
        self._form = form

    @classmethod
    def of(cls, units: int, *, binary: bool = False) -> Quantity:
        """So many whole units; `binary` writes them with Ki, Mi, … where that is exact."""
        return cls(units * _ONE, "binary" if binary else "decimal")

    @classmethod
    def of_milli(cls, thousandths: int) -> Quantity:
        """So many thousandths: millicores."""
        return cls(thousandths * (_ONE // 1000))

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """Read a quantity; QuantityError with upstream's text."""
        match = _SHAPE.fullmatch(text)
        if not text or match is None or not text.isascii():
            raise QuantityError(_FORMAT_WRONG)
        sign, whole, fraction, suffix = match[1], match[2], match[3] or "", match[4]
        if len(whole) + len(fraction) > _MAX_DIGITS:
            raise QuantityError("unable to parse numeric part of quantity")
        digits = int((whole + fraction) or "0")
        if suffix in _BINARY:
            nano, form = _binary(digits, len(fraction), _BINARY[suffix])
        else:
            exponent, form = _exponent(suffix)
            nano = _scaled(digits, exponent - len(fraction) + _NANO_DIGITS)
        return cls(-nano if sign == "-" else nano, form)

    @property
    def value(self) -> int:
        """Rounded up to whole units: bytes for memory."""
        return _away_from_zero(self._nano, _ONE)

    @property
    def milli(self) -> int:
        """Rounded up to thousandths: millicores for CPU."""
        return _away_from_zero(self._nano, _ONE // 1000)

    @property
    def sign(self) -> int:
        """-1, 0 or 1."""
        return (self._nano > 0) - (self._nano < 0)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self._nano + other._nano, self._form if self._nano else other._form)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self._nano - other._nano, self._form if self._nano else other._form)

    def __neg__(self) -> Quantity:
        return Quantity(-self._nano, self._form)

    def __bool__(self) -> bool:
        return self._nano != 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self._nano == other._nano

    def __lt__(self, other: Quantity) -> bool:
        return self._nano < other._nano

    def __hash__(self) -> int:
        return hash(self._nano)

    def __repr__(self) -> str:
        return f"Quantity({str(self)!r})"

    def __str__(self) -> str:
        if not self._nano:
            return "0"
        if self._form == "binary" and abs(self._nano) >= 1024 * _ONE and self._nano % _ONE == 0:
            mantissa, exponent = _strip(self._nano // _ONE, 1024, len(_BINARY_SUFFIX) - 1)
            return f"{mantissa}{_BINARY_SUFFIX[exponent]}"
        mantissa, thousands = _strip(self._nano, 1000, None if self._form == "exponent" else 9)
        power = thousands * 3 - _NANO_DIGITS
        if self._form == "exponent":
            return f"{mantissa}e{power}" if power else str(mantissa)
        return f"{mantissa}{_DECIMAL_SUFFIX[power]}"


ZERO: Final = Quantity()


def _exponent(suffix: str) -> tuple[int, str]:
    """The power of ten that a suffix stands for, and the way of writing that it belongs to."""
    if suffix in _DECIMAL:
        return _DECIMAL[suffix], "decimal"
    if suffix[0] in "eE" and suffix[1:].lstrip("+-").isdigit():
        exponent = int(suffix[1:]) if len(suffix) < 8 else _MAX_EXPONENT + 1
        if abs(exponent) <= _MAX_EXPONENT:
            return exponent, "exponent"
    raise QuantityError(_SUFFIX_WRONG)


def _binary(digits: int, decimals: int, exponent: int) -> tuple[int, str]:
    """Nanos of a number with a binary suffix; less than one is written in decimal, too much is cut, as upstream."""
    nano = _away_from_zero(digits * _ONE << exponent, 10**decimals)
    if 0 < nano < _ONE:
        return nano, "decimal"
    return min(nano, _MAX_BINARY * _ONE), "binary"


def _scaled(digits: int, power: int) -> int:
    return digits * 10**power if power >= 0 else _away_from_zero(digits, 10**-power)


def _away_from_zero(amount: int, unit: int) -> int:
    """Divide, rounding away from zero."""
    return -(-amount // unit) if amount > 0 else amount // unit


def _strip(number: int, base: int, limit: int | None) -> tuple[int, int]:
    """Take out factors of `base`, at most `limit` of them."""
    count = 0
    while (limit is None or count < limit) and number % base == 0:
        number //= base
        count += 1
    return number, count


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The text in canonical form: ``1000m`` becomes ``1``; QuantityError. Manifests repeat few values: kept."""
    return str(Quantity.parse(text))


def to_int(text: str) -> int:
    """Whole units (bytes), rounded up."""
    return Quantity.parse(text).value


def to_milli(text: str) -> int:
    """Thousandths (millicores), rounded up."""
    return Quantity.parse(text).milli
