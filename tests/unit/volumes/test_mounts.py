"""The mount table: what is not found there is taken for plain files, and removed as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.volumes.mounts import HostMounter

LINE = "36 35 98:0 / {} rw,noatime shared:1 - ext3 /dev/root rw,errors=continue\n"


@pytest.mark.parametrize("name", ["plain", "a b", "tab\there", "back\\slash", "back\\134slash", "für-Übung",
                                  "line\u2028separator\x0b\r"])
def test_every_name_is_found(tmp_path: Path, name: str) -> None:
    table, root = tmp_path / "mountinfo", tmp_path / name
    escaped = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}  # what the kernel escapes
    text = "".join(LINE.format("".join(escaped.get(letter, letter) for letter in str(path)))
                   for path in (Path("/"), root, root / "pods" / "x", tmp_path / "other"))
    table.write_text(text, encoding="utf-8", newline="")
    assert HostMounter(table).mounted_below(root) == [root / "pods" / "x", root]
