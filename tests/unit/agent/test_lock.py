"""One agent to a run directory, and nobody else decides whether there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.main import StartError, only_agent


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    with only_agent(tmp_path / "run"):
        assert (tmp_path / "run" / "agent.lock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(StartError, match="another sampan-agent runs"), only_agent(tmp_path / "run"):
            pass
    with only_agent(tmp_path / "run"):
        pass
