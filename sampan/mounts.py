"""The host's table of mounts. Source: proc(5), /proc/pid/mountinfo."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TABLE = Path("/proc/self/mountinfo")

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file system is mounted; `kind` is its type, `options` are those of the file system itself."""

    point: Path
    kind: str
    options: tuple[str, ...] = ()


def parse(table: bytes) -> list[Mount]:
    """All mounts, in the order in which they were made. Paths may have any bytes; blanks come as octal escapes."""
    found = []
    for line in filter(None, table.split(b"\n")):
        place, _, kind = line.partition(b" - ")
        point = _OCTAL.sub(lambda match: bytes((int(match[1], 8),)), place.split(b" ")[4])
        name, _, options = kind.split(b" ", 2)
        found.append(Mount(Path(os.fsdecode(point)), os.fsdecode(name), tuple(os.fsdecode(options).split(","))))
    return found


def read(table: Path = TABLE) -> list[Mount]:
    """What this process sees mounted now."""
    return parse(table.read_bytes())


def points_at_or_below(places: Iterable[Path], mounts: Iterable[Mount]) -> list[Path]:
    """Mount points that are one of these folders or within one, deepest first."""
    roots = set(places)
    below = [mount.point for mount in mounts if mount.point in roots or roots.intersection(mount.point.parents)]
    return sorted(below, key=lambda point: len(point.parts), reverse=True)
