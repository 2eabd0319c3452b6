"""What installations take from the network on users' hosts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import download_wheels


@pytest.fixture(scope="session")
def wheels() -> Iterator[Path]:
    """The wheels of requirements.lock, downloaded once."""
    with tempfile.TemporaryDirectory(prefix="wheels-", dir="/var/tmp") as folder:
        yield download_wheels(Path(folder))
