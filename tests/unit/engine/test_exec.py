"""Commands in containers, with an SDK that a test writes."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from agent.engine.docker import DockerEngine, engine
from agent.engine.protocol import EngineTimeout
from agent.engine.stream import Handover


class Api:
    """A Docker that takes its time to start a command; the command then runs on."""

    base_url, api_version = "http+docker://localhost", "1.41"

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.ours, self.theirs = socket.socketpair()
        self.running = False

    def exec_create(self, container: str, command: list[str], **how: bool) -> dict[str, str]:
        return {"Id": "exec1"}

    def request(self, method: str, address: str, **rest: Any) -> SimpleNamespace:
        assert self.answer.wait(60)
        self.running = True
        return SimpleNamespace(status_code=200)

    def exec_inspect(self, exec_id: str) -> dict[str, Any]:
        return {"Running": self.running, "Pid": 4711, "ExitCode": None}

    def inspect_container(self, container: str) -> dict[str, str]:
        return {"Id": "c1c1"}

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


async def test_a_command_whose_start_takes_too_long_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker starts it all the same; else a probe that hangs would leave a process behind with each run."""
    docker, api, killed = DockerEngine("unix:///nowhere.sock"), Api(), []
    monkeypatch.setattr(docker._sdk, "call", lambda function: function(api))
    monkeypatch.setattr(engine, "take_socket", lambda _: Handover(api.ours, b"", chunked=False))
    monkeypatch.setattr(engine, "_kill_inside", lambda pid, container_id: killed.append((pid, container_id)))
    kill_exec = docker._kill_exec

    async def after_the_timeout(container_id: str, exec_id: str) -> None:
        api.answer.set()
        await kill_exec(container_id, exec_id)

    monkeypatch.setattr(docker, "_kill_exec", after_the_timeout)
    try:
        with pytest.raises(EngineTimeout, match=r"timed out after 0\.05 s"):
            await docker.run("c1", ["sleep", "1000"], 0.05)
        assert killed == [(4711, "c1c1")]
    finally:
        api.answer.set()
        await docker.close()
        api.close()
