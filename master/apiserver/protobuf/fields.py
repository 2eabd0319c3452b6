"""The table of field numbers, read from fields.txt when the first protobuf body comes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_FIELD = re.compile(r"([\w.]*)=(\d+)([*%!]?)(?:([sbitd])|:(\S+))")


@dataclass(frozen=True, slots=True)
class Field:
    """How a field is written: see the head of fields.txt for the letters. `name` is "." for an inlined one."""

    name: str
    flag: str
    scalar: str
    message: str


Message = Mapping[int, Field]


@cache
def _lines() -> dict[str, str]:
    text = (files("master.apiserver.protobuf") / "fields.txt").read_text("utf-8")
    split = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: rest for name, _, rest in split}


@cache
def message(name: str) -> Message | None:
    """The fields of a message such as ``core.v1.Pod`` by number; None for an unknown one."""
    line = _lines().get(name)
    if line is None:
        return None
    return {int(match[2]): Field(match[1], match[3], match[4] or "", match[5] or "")
            for match in _FIELD.finditer(line)}


def message_of(api_version: str, kind: str) -> str | None:
    """The message of a kind, None for one without; options such as DeleteOptions belong to every group."""
    group, _, version = api_version.rpartition("/")
    for name in (f"{group.partition('.')[0] or 'core'}.{version}.{kind}", f"meta.v1.{kind}"):
        if message(name) is not None:
            return name
    return None
