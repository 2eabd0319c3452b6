"""Machines for the tests in this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vm import Vm, base_image, copy_disk, with_project


@pytest.fixture(scope="session")
def installed() -> Iterator[tuple[Path, Path]]:
    """The base image's folder, and a disk with this project installed; tests work on copies."""
    folder = Path(tempfile.mkdtemp(prefix="vm-", dir="/var/tmp"))
    base = base_image()
    try:
        yield base, with_project(base, folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def machine(installed: tuple[Path, Path]) -> Iterator[Vm]:
    """A machine on a disk of its own, not booted yet."""
    base, disk = installed
    folder = Path(tempfile.mkdtemp(prefix="vm-", dir="/var/tmp"))
    own = folder / "disk.img"
    copy_disk(disk, own)
    vm = Vm(base, own, folder)
    try:
        yield vm
    finally:
        vm.stop()
        shutil.rmtree(folder)
