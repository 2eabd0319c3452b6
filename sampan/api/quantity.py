"""Quantities: ``100m``, ``1.5Gi``, ``2e3``. Exact arithmetic, and upstream's one way to write each value.

Source: k8s.io/apimachinery/pkg/api/resource.
"""

from __future__ import annotations


class QuantityError(ValueError):
    """The text is no quantity; the message is upstream's."""


class Quantity:
    """An exact amount; immutable, ordered, hashable. `str()` gives the canonical form."""

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """Read a quantity; QuantityError with upstream's text."""
        raise NotImplementedError

    @property
    def value(self) -> int:
        """Rounded up to whole units: bytes for memory."""
        raise NotImplementedError

    @property
    def milli(self) -> int:
        """Rounded up to thousandths: millicores for CPU."""
        raise NotImplementedError


def canonical(text: str) -> str:
    """The text in canonical form: ``1000m`` becomes ``1``; QuantityError."""
    return str(Quantity.parse(text))


def to_int(text: str) -> int:
    """Whole units (bytes), rounded up."""
    return Quantity.parse(text).value


def to_milli(text: str) -> int:
    """Thousandths (millicores), rounded up."""
    return Quantity.parse(text).milli
