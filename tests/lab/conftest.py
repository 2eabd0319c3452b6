"""One lab of three nodes for all tests here, and a namespace in it for each test."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.lab import LabHandle, LabSpace


@pytest.fixture(scope="session")
def lab() -> Iterator[LabHandle]:
    """A running lab with the test image on every node; at the end it is taken down, and must leave nothing."""
    from tests.support.lab import LabHandle, remains

    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    if given := os.environ.get("SAMPAN_TEST_LAB"):
        running = LabHandle(given)
        running.load_box()
        yield running
        return
    made = LabHandle(f"t{secrets.token_hex(3)}")
    try:
        done = made.sampan("up", check=False)
        sys.stdout.write(done.stdout)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs(made)}"
        made.load_box()
        yield made
    finally:
        made.sampan("down")
    assert remains(made.name) == []


def logs(lab: LabHandle) -> str:
    """The ends of what master and agents have logged, where it came to that."""
    if lab.sampan("status", check=False).returncode != 0:
        return ""
    return "".join(f"--- {name} {part}\n{lab.log(name, part)[-4000:]}\n" for name, node in lab.nodes.items()
                   for part in ("master", "agent") if (node.directories["log"] / f"{part}.log").exists())


@pytest.fixture
def space(lab: LabHandle) -> Iterator[LabSpace]:
    """A namespace of the cluster. Once it is deleted, nothing of its pods may be left on any node."""
    from tests.support.lab import LabSpace, strays
    from tests.support.space import patience

    made = LabSpace(lab, f"t-{secrets.token_hex(3)}")
    try:
        yield made
    finally:
        made.close()
    found: list[str] = []

    def clean() -> bool:
        found[:] = strays(lab, made.kubectl.json("get", "pods", "-A")["items"])
        return not found

    try:
        patience("nothing is left that no pod owns", clean)
    except AssertionError as error:
        error.add_note("\n".join(found))
        raise
