"""One suite for every Engine: the fake, and Docker (marked `docker`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.engine.protocol import (
    ContainerSpec,
    Engine,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    Limits,
    NameConflict,
    NotFound,
)

IMAGE = "sampan-test/box:1"


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    made: Engine
    if request.param == "fake":
        from agent.engine.fake import FakeEngine
        made = FakeEngine(images=[IMAGE])
    else:
        from agent.engine.docker import DockerEngine
        made = DockerEngine(request.getfixturevalue("docker_engine").docker_host)
    yield made
    for container in await made.list({"test": ""}):
        await made.remove(container.id)
    await made.close()


def spec(*command: str, name: str = "", **more: Any) -> ContainerSpec:
    unique = name or f"c-{os.urandom(4).hex()}"
    return ContainerSpec(unique, IMAGE, command=command or ("sleep", "1000"), labels={"test": unique}, **more)


async def started(engine: Engine, *command: str, **more: Any) -> str:
    container_id = await engine.create(spec(*command, **more))
    await engine.start(container_id)
    return container_id


async def ended(engine: Engine, container_id: str) -> None:
    async with asyncio.timeout(60):
        async for _ in engine.logs(container_id, follow=True):
            pass
        while (await engine.inspect(container_id)).running:
            await asyncio.sleep(0.01)


async def test_info_names_driver_and_versions(engine: Engine) -> None:
    info = await engine.info()
    await engine.ping()
    assert info.cgroup_driver in ("cgroupfs", "systemd")
    assert info.version
    assert info.api_version


async def test_a_container_lives_and_dies(engine: Engine) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    made = spec()
    container_id = await engine.create(made)
    created = await engine.inspect(container_id)
    assert (created.status, created.pid, created.started_at, created.finished_at) == ("created", 0, None, None)
    assert created.name == made.name
    assert created.labels["test"] == made.name
    assert created.created_at is not None
    assert created.created_at > before
    await engine.start(container_id)
    await engine.start(container_id)  # twice is fine
    running = await engine.inspect(container_id)
    assert running.running
    assert running.pid > 0
    assert running.started_at is not None
    assert running.finished_at is None
    await engine.stop(container_id, 0)
    stopped = await engine.inspect(container_id)
    assert stopped.status == "exited"
    assert stopped.exit_code in (137, 143)
    assert stopped.finished_at is not None
    assert stopped.finished_at >= running.started_at
    await engine.stop(container_id, 10)  # twice is fine
    await engine.kill(container_id)
    await engine.remove(container_id)
    await engine.remove(container_id)
    await engine.stop(container_id, 1)
    with pytest.raises(NotFound):
        await engine.inspect(container_id)


async def test_the_exit_code_is_the_process_s(engine: Engine) -> None:
    container_id = await started(engine, "sh", "-c", "exit 3")
    await ended(engine, container_id)
    container = await engine.inspect(container_id)
    assert (container.status, container.exit_code) == ("exited", 3)


async def test_a_taken_name_tells_its_holder(engine: Engine) -> None:
    first = spec()
    holder = await engine.create(first)
    with pytest.raises(NameConflict) as caught:
        await engine.create(spec(name=first.name))
    assert caught.value.holder == holder


async def test_an_image_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await engine.create(ContainerSpec("x", "sampan-test/none:9"))
    assert await engine.image("sampan-test/none:9") is None


async def test_images(engine: Engine) -> None:
    image = await engine.image(IMAGE)
    assert image is not None
    assert IMAGE in image.tags
    assert image.size > 0
    assert await engine.image(image.id) is not None
    assert image.id in {listed.id for listed in await engine.images()}


async def test_list_finds_by_label(engine: Engine) -> None:
    one, two = spec(), spec()
    ids = [await engine.create(one), await engine.create(two)]
    assert {c.id for c in await engine.list({"test": ""})} == set(ids)
    assert [c.id for c in await engine.list({"test": one.name})] == ids[:1]
    assert await engine.list({"test": "nobody"}) == []


async def test_list_while_containers_vanish(engine: Engine) -> None:
    ids = [await engine.create(spec()) for _ in range(6)]
    async with asyncio.TaskGroup() as group:
        lists = [group.create_task(engine.list({"test": ""})) for _ in range(5)]
        for container_id in ids:
            group.create_task(engine.remove(container_id))
    assert all(container.id in ids for found in lists for container in found.result())


async def test_events_tell_of_start_and_end(engine: Engine) -> None:
    made = spec()
    container_id = await engine.create(made)
    since = datetime.now(UTC)
    seen = []

    async def watch() -> None:
        async for event in engine.events({"test": made.name}, since):
            seen.append(event)
            if event.action == "destroy":
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(watch())
        await engine.start(container_id)
        await engine.kill(container_id)
        await engine.remove(container_id)
    actions = [event.action for event in seen if event.action != "kill"]
    assert actions == ["start", "die", "destroy"]
    assert {event.container_id for event in seen} == {container_id}
    assert seen[0].labels["test"] == made.name
    assert abs((seen[0].time - since).total_seconds()) < 60


async def test_logs(engine: Engine) -> None:
    container_id = await started(engine, "echo", "one", "two")
    await ended(engine, container_id)
    lines = [line async for line in engine.logs(container_id)]
    assert [(line.stream, line.data) for line in lines] == [("stdout", b"one two\n")]
    assert lines[0].time.endswith("Z")
    assert lines[0].time[4] == "-"
    assert [line async for line in engine.logs(container_id, tail=0)] == []


async def test_exec_writes_and_tells_its_code(engine: Engine) -> None:
    container_id = await started(engine)
    stream = await engine.exec(container_id, ["echo", "hello"])
    assert [piece async for piece in stream.output()] == [("stdout", b"hello\n")]
    assert await stream.exit_code() == 0
    await stream.close()
    result = await engine.run(container_id, ["sh", "-c", "exit 7"], 10)
    assert result.exit_code == 7


async def test_exec_reads_until_its_input_ends(engine: Engine) -> None:
    container_id = await started(engine)
    stream = await engine.exec(container_id, ["cat"], stdin=True)
    await stream.write(b"to and fro")
    await stream.close_stdin()
    assert b"".join([data async for _, data in stream.output()]) == b"to and fro"
    assert await stream.exit_code() == 0
    await stream.close()


async def test_a_command_that_takes_too_long(engine: Engine) -> None:
    container_id = await started(engine)
    with pytest.raises(EngineTimeout):
        await engine.run(container_id, ["sleep", "100"], 0.5)


async def test_nothing_runs_in_a_stopped_container(engine: Engine) -> None:
    container_id = await engine.create(spec())
    with pytest.raises(EngineError):
        await engine.exec(container_id, ["true"])
    with pytest.raises(NotFound):
        await engine.exec("nobody", ["true"])


async def test_attach_to_the_container_s_own_process(engine: Engine) -> None:
    container_id = await started(engine, "cat", stdin=True, stdin_once=True)
    stream = await engine.attach(container_id, stdin=True)
    await stream.write(b"ping\n")
    output = aiter(stream.output())
    async with asyncio.timeout(60):
        assert await anext(output) == ("stdout", b"ping\n")
        await stream.close_stdin()
        assert await stream.exit_code() == 0
    await stream.close()


async def test_stats_of_a_running_container(engine: Engine) -> None:
    container_id = await started(engine)
    stats = await engine.stats(container_id)
    assert stats.memory_bytes >= stats.working_set_bytes > 0
    assert stats.cpu_nanoseconds > 0


async def test_limits_can_be_changed(engine: Engine) -> None:
    container_id = await started(engine, limits=Limits(cpu_shares=512, memory=64 << 20))
    await engine.update(container_id, Limits(cpu_shares=256, memory=128 << 20))
    with pytest.raises(NotFound):
        await engine.update("nobody", Limits(cpu_shares=256))


async def test_a_used_image_stays(engine: Engine) -> None:
    await started(engine)
    with pytest.raises(EngineError):
        await engine.remove_image(IMAGE)
    await engine.remove_image("sampan-test/none:9")
    assert await engine.image(IMAGE) is not None


async def test_a_pull_that_cannot_succeed(engine: Engine) -> None:
    with pytest.raises(EngineError):
        await engine.pull("127.0.0.1:1/none:1")
    assert not isinstance(EngineError("x"), EngineUnavailable)
