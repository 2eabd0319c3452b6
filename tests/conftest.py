"""Fixtures that every kind of test may ask for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.engine import EngineHandle

# How long an example takes says more about the machine than about the code.
settings.register_profile("sampan", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sampan")


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
