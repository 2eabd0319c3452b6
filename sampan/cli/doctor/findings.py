"""What a check says, and how that is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, or may, but not as well as it could, or not for long."""
    FAULT = "fault"
    """The cluster does not work here, or not for all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and the commands that mend it, in their order."""

    level: Level
    check: str
    text: str
    commands: Sequence[str] = ()


def ok(check: str, text: str) -> Finding:
    """As it should be."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str, *commands: str) -> Finding:
    """Could be better."""
    return Finding(Level.WARNING, check, text, commands)


def fault(check: str, text: str, *commands: str) -> Finding:
    """Has to be mended."""
    return Finding(Level.FAULT, check, text, commands)


def faulty(found: Sequence[Finding]) -> bool:
    """Whether there is something to mend."""
    return any(item.level == Level.FAULT for item in found)


def render(found: Sequence[Finding], output: str) -> str:
    """All findings as text or JSON; in the text, commands stand below, to be copied."""
    counts = {level: sum(item.level == level for item in found) for level in Level}
    if output == "json":
        return json.dumps({
            "faults": counts[Level.FAULT], "warnings": counts[Level.WARNING],
            "findings": [{"level": item.level.value, "check": item.check, "text": item.text,
                          "commands": list(item.commands)} for item in found]}, indent=2, ensure_ascii=False)
    width = max((len(item.check) for item in found), default=0)
    lines = []
    for item in found:
        lines.append(f"{item.level:<8} {item.check:<{width}}  {item.text}")
        lines += [f"         {command}" for command in item.commands]
    total = ", ".join(f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}"
                      for level in (Level.FAULT, Level.WARNING))
    return "\n".join([*lines, "", total])
