"""Walks of values without parts: strings, numbers, quantities, times."""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from master.apiserver.schema.walk import Misfit
from sampan.api.quantity import QuantityError, canonical
from sampan.api.times import MicroTime, Time

Scalar = Callable[[Any], Any]

_INT32: Final = 2**31
_INT64: Final = 2**63
_SECONDS: Final = "2006-01-02T15:04:05Z07:00"
_MICROS: Final = "2006-01-02T15:04:05.000000Z07:00"
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/\r\n]")


def exactly(kind: type, go_type: str) -> Scalar:
    """Strings and booleans; the common case never gets here."""
    def walk(value: Any) -> Any:
        if type(value) is not kind:
            raise Misfit(value, go_type)
        return value
    return walk


def integer(go_type: str) -> Scalar:
    """Whole numbers of 32 or 64 bits."""
    bound = _INT32 if go_type == "int32" else _INT64

    def walk(value: Any) -> Any:
        if type(value) is int and -bound <= value < bound:
            return value
        raise Misfit(value, go_type, literal=type(value) in (int, float))
    return walk


def number(value: Any) -> Any:
    """Numbers with a fraction; only custom resources have them."""
    if type(value) in (int, float):
        return value
    raise Misfit(value, "float64")


def anything(value: Any) -> Any:
    """JSON that is stored as it is."""
    return value


def any_object(value: Any) -> Any:
    """An object whose content the server does not know: a RawExtension, FieldsV1."""
    if type(value) is not dict:
        raise Misfit(value, "map[string]interface {}")
    return value


def int_or_string(value: Any) -> Any:
    """A port's number or name; a number or a percentage."""
    if type(value) is str or (type(value) is int and -_INT32 <= value < _INT32):
        return value
    raise Misfit(value, "int32", literal=type(value) in (int, float))


def quantity(value: Any) -> Any:
    """A quantity, also as a bare number, in canonical form."""
    text = value.strip() if type(value) is str else str(value)
    try:
        return canonical(text)
    except QuantityError as error:
        raise Misfit(value, "", str(error)) from None


def time(value: Any) -> Any:
    """An instant, in UTC and whole seconds."""
    return str(Time.of(_instant(value, _SECONDS)))


def micro_time(value: Any) -> Any:
    """An instant, in UTC and with six digits."""
    return str(MicroTime.of(_instant(value, _MICROS)))


def _instant(value: Any, layout: str) -> datetime:
    if type(value) is not str:
        raise Misfit(value, "string")
    if _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            raise Misfit(value, "", f'parsing time "{value}": day, hour or month out of range') from None
    raise Misfit(value, "", f'parsing time "{value}" as "{layout}": cannot parse "{value}" as "2006"')


def base64(value: Any) -> Any:
    """Bytes in base64; line ends within are taken and dropped, as Go does."""
    if type(value) is not str:
        raise Misfit(value, "[]uint8")
    try:
        if "\n" not in value and "\r" not in value:
            binascii.a2b_base64(value, strict_mode=True)
            return value
        return b64encode(binascii.a2b_base64(value.replace("\n", "").replace("\r", ""), strict_mode=True)).decode()
    except ValueError:
        wrong = _NOT_BASE64.search(value.rstrip("="))
        place_in = wrong.start() if wrong else len(value.rstrip("="))
        raise Misfit(value, "", f"illegal base64 data at input byte {place_in}") from None
