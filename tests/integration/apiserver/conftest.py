"""A server for each test: over memory, and over SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.apiserver import Running, api_server


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """Running on loopback with TLS."""
    async with api_server(tmp_path, request.param) as running:
        yield running
