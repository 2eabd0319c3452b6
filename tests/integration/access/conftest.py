from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from master.apiserver.accounts.signing import SigningKey
from tests.support.apiserver import Running, api_server


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Running]:
    """A server that issues tokens, without controllers."""
    async with api_server(tmp_path, key=SigningKey.create()) as made:
        yield made
