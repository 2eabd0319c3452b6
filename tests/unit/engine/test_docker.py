"""The adapter with an SDK that a test writes: what takes its time there."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from agent.engine.docker import DockerEngine, engine
from agent.engine.protocol import EngineTimeout
from agent.engine.stream import Handover
from agent.images.puller import PARALLEL


class Api:
    """A Docker that takes its time to start a command, which then runs on, and to pull an image."""

    base_url, api_version = "http+docker://localhost", "1.41"

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.ours, self.theirs = socket.socketpair()
        self.running = False
        self.asked: list[str] = []

    def exec_create(self, container: str, command: list[str], **how: bool) -> dict[str, str]:
        return {"Id": "exec1"}

    def request(self, method: str, address: str, **rest: Any) -> SimpleNamespace:
        self.asked.append(method)
        if method == "POST":
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


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


@pytest.fixture
async def docker(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DockerEngine]:
    made = DockerEngine("unix:///nowhere.sock", slow_timeout=30.0)
    monkeypatch.setattr(made._sdk, "call", lambda function: function(api))
    monkeypatch.setattr(engine, "take_socket", lambda _: Handover(api.ours, b"", chunked=False))
    yield made
    api.answer.set()
    await made.close()


async def test_a_command_whose_start_takes_too_long_is_killed_too(
        docker: DockerEngine, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker starts it all the same; else a probe that hangs would leave a process behind with each run."""
    killed: list[tuple[int, str]] = []
    monkeypatch.setattr(engine, "_kill_inside", lambda pid, container_id: killed.append((pid, container_id)))
    kill_exec = docker._kill_exec

    async def after_the_timeout(container_id: str, exec_id: str) -> None:
        api.answer.set()
        await kill_exec(container_id, exec_id)

    monkeypatch.setattr(docker, "_kill_exec", after_the_timeout)
    with pytest.raises(EngineTimeout, match=r"timed out after 0\.05 s"):
        await docker.run("c1", ["sleep", "1000"], 0.05)
    assert killed == [(4711, "c1c1")]


async def test_containers_can_be_removed_while_a_registry_does_not_answer(docker: DockerEngine, api: Api) -> None:
    """Docker answers a pull only once the registry has; as many as may be at once leave room for other work."""
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(docker.pull(f"app:{number}")) for number in range(PARALLEL)]
        while len(api.asked) < PARALLEL:
            await asyncio.sleep(0.005)
        await docker.remove("c1")
        assert api.asked[-1] == "DELETE"
        for pull in pulls:
            pull.cancel()
