"""Fixtures that every kind of test may ask for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.engine import EngineHandle


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[EngineHandle]:
    """A private Docker Engine with the image `tests.support.engine.IMAGE`; one for the whole session."""
    from tests.support import engine

    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    handle = engine.engine_up(Path(tempfile.mkdtemp(prefix="st-", dir="/tmp")))  # short: it holds sockets
    try:
        engine.import_image(handle)
        yield handle
    finally:
        engine.engine_down(handle)
