"""What the server says of its connections."""

from __future__ import annotations

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from master.apiserver.app import _wire_log


@pytest.mark.parametrize(("error", "told"), [
    (ConnectionResetError("Cannot write to closing transport"), False),  # kubectl that was interrupted in a list
    (ConnectionAbortedError("the client of a watch does not read"), False),
    (BadHttpMessage("nonsense"), False),
    (ValueError("a fault of ours"), True),
])
def test_only_our_own_faults_are_errors(caplog: pytest.LogCaptureFixture, error: Exception, told: bool) -> None:
    _wire_log().error("Error handling request", exc_info=error)
    assert bool(caplog.records) == told
