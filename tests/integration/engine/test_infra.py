"""The infra image in a real engine: it holds namespaces, reaps, and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.engine.docker import DockerEngine
from agent.engine.infra import ensure_infra_image
from agent.engine.protocol import ContainerSpec
from tests.support.engine import IMAGE, EngineHandle

pytestmark = pytest.mark.docker


@pytest.fixture
async def engine(docker_engine: EngineHandle) -> AsyncIterator[DockerEngine]:
    made = DockerEngine(docker_engine.docker_host)
    yield made
    for container in await made.list({"test": "infra"}):
        await made.remove(container.id)
    await made.close()


async def test_a_pod_that_shares_its_namespaces(engine: DockerEngine) -> None:
    reference = await ensure_infra_image(engine)
    assert await ensure_infra_image(engine) == reference
    image = await engine.image(reference)
    assert image is not None
    assert list(image.entrypoint) == ["/infra"]
    assert image.size < 1 << 14  # 201 bytes; with containerd's image store Docker counts manifests and whole blocks
    infra = await engine.create(ContainerSpec("infra", reference, labels={"test": "infra"}, ipc_mode="shareable"))
    await engine.start(infra)
    shared = f"container:{infra}"
    app = await engine.create(ContainerSpec("app", IMAGE, command=["sleep", "1000"], labels={"test": "infra"},
                                            network_mode=shared, ipc_mode=shared, pid_mode=shared))
    await engine.start(app)
    # The shell leaves an orphan, which becomes process 1's: the infra program's.
    async def processes() -> list[list[bytes]]:
        output = (await engine.run(app, ["ps", "-o", "ppid,stat,args"], 10)).output
        return [line.split(None, 2) for line in output.splitlines()]

    def orphan(listed: list[list[bytes]]) -> bool:
        return any(words[0] == b"1" and words[2] == b"tail -f /dev/null" for words in listed)

    def unreaped(listed: list[list[bytes]]) -> bool:
        return orphan(listed) or any(words[1].startswith(b"Z") for words in listed)

    await engine.run(app, ["sh", "-c", "(tail -f /dev/null > /dev/null 2>&1 &)"], 10)
    async with asyncio.timeout(60):
        while not orphan(await processes()):
            pass
        assert (await engine.run(app, ["killall", "tail"], 10)).exit_code == 0
        while unreaped(await processes()):
            pass
    addresses = (await engine.run(app, ["ip", "-o", "addr"], 10)).output.decode()
    assert "127.0.0.1/8 scope host lo" in addresses  # a namespace of its own, with loopback and nothing else
    assert {line.split()[1] for line in addresses.splitlines()} == {"lo"}
    assert b"/infra" in [words[2] for words in await processes()]
    await engine.stop(infra, 60)
    assert (await engine.inspect(infra)).exit_code == 0, "it had to be killed"
