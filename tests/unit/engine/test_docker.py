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
from agent.engine.protocol import Container, EngineError, EngineTimeout, EngineUnavailable
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

    def inspect_container(self, container: str) -> dict[str, Any]:
        if container == "hung":
            assert self.answer.wait(60)
        if container == "strange":
            raise EngineError("cannot be read")
        return {"Id": "c1c1", "Name": "/one", "Image": "sha256:1", "Config": {"Image": "app:1"},
                "State": {"Status": "running", "Pid": 7}}

    def containers(self, **how: Any) -> list[dict[str, Any]]:
        return [{"Id": name, "Names": [f"/{name}"], "Image": "app:1", "ImageID": "sha256:1", "Labels": {"a": "b"},
                 "State": "running"} for name in ("c1c1", "hung", "strange")]

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


async def test_a_container_that_docker_hangs_on_does_not_hide_the_others(
        docker: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "_timeout", 0.5)
    one, hung, strange = await docker.list()
    assert (one.id, one.pid, one.inspected) == ("c1c1", 7, True)
    assert hung == Container("hung", "hung", "app:1", "sha256:1", {"a": "b"}, "running", inspected=False)
    assert strange == Container("strange", "strange", "app:1", "sha256:1", {"a": "b"}, "running", inspected=False)


async def test_a_list_from_which_docker_went_away_is_none(
        docker: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all that runs would be as unclear as what hangs."""
    async def unreachable(_: str) -> Container:
        raise EngineUnavailable("connection refused")

    monkeypatch.setattr(docker, "inspect", unreachable)
    with pytest.raises(EngineUnavailable, match="refused"):
        await docker.list()
