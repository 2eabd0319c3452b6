"""What only a real Docker Engine shows: streams, logs, refusals, restarts, hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.engine.docker import DockerEngine
from agent.engine.protocol import (
    ContainerSpec,
    EngineError,
    EngineEvent,
    EngineTimeout,
    EngineUnavailable,
    Limits,
    LogLine,
    Mount,
)
from tests.support import engine as support
from tests.support.engine import IMAGE, EngineHandle

pytestmark = pytest.mark.docker


@pytest.fixture
async def engine(docker_engine: EngineHandle) -> AsyncIterator[DockerEngine]:
    made = DockerEngine(docker_engine.docker_host)
    yield made
    for container in await made.list({"test": "docker"}):
        await made.remove(container.id)
    await made.close()


@pytest.fixture
def own_engine() -> Iterator[EngineHandle]:
    """One that the test may stop."""
    handle = support.engine_up(Path(tempfile.mkdtemp(prefix="st-", dir="/tmp")), dockerd_options=["--live-restore"])
    try:
        support.import_image(handle)
        yield handle
    finally:
        support.engine_down(handle)


def spec(*command: str, **more: Any) -> ContainerSpec:
    return ContainerSpec(f"d-{os.urandom(4).hex()}", IMAGE, command=command, labels={"test": "docker"}, **more)


async def started(engine: DockerEngine, *command: str, **more: Any) -> str:
    container_id = await engine.create(spec(*command or ("sleep", "1000"), **more))
    await engine.start(container_id)
    return container_id


async def lines_of(engine: DockerEngine, container_id: str, **options: Any) -> list[LogLine]:
    async with asyncio.timeout(60):
        return [line async for line in engine.logs(container_id, **options)]


# -- containers


async def test_everything_that_a_container_is_given(engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    tmp_path.chmod(0o755)
    port = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    script = f"env; pwd; id; cat /data/file; touch /data/x /x; hostname; cat {port}"
    container_id = await started(
        engine, "sh", "-c", script, env={"a-b.c": "d=e f", "EMPTY": ""}, mounts=[Mount(str(tmp_path), "/data", True)],
        working_dir="/tmp", user="1000:1000", groups=[2000], hostname="pod-a", read_only_root=True,
        capabilities_drop=["ALL"], security_options=["no-new-privileges"],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "77"}, limits=Limits(512, 50_000, memory=64 << 20, pids=50))
    lines = await lines_of(engine, container_id, follow=True)
    output = [line.data.decode().strip() for line in lines if line.stream == "stdout"]
    assert {"a-b.c=d=e f", "EMPTY=", "/tmp", "content", "pod-a", "77"} <= set(output)
    assert any("uid=1000(app) gid=1000(app) groups=1000(app),2000" in line for line in output)
    refused = b"".join(line.data for line in lines if line.stream == "stderr")
    assert refused.count(b"Read-only file system") == 2
    container = await engine.inspect(container_id)
    assert container.exit_code == 0
    assert container.log_path.endswith("-json.log")


async def test_a_command_that_does_not_exist(engine: DockerEngine) -> None:
    container_id = await engine.create(spec("/no/such"))
    with pytest.raises(EngineError, match="no such file or directory"):
        await engine.start(container_id)
    container = await engine.inspect(container_id)
    assert (container.status, container.exit_code, container.running) == ("created", 127, False)
    assert "no such file" in container.error


async def test_a_mount_whose_source_is_missing(engine: DockerEngine) -> None:
    with pytest.raises(EngineError, match="bind source path does not exist"):
        await engine.create(spec("true", mounts=[Mount("/no/such", "/data")]))


async def test_out_of_memory_is_told(engine: DockerEngine) -> None:
    grow = "x=x; while true; do x=$x$x; done"
    container_id = await started(engine, "sh", "-c", grow, limits=Limits(memory=16 << 20))
    await lines_of(engine, container_id, follow=True)
    assert (await engine.inspect(container_id)).exit_code == 137
    async with asyncio.timeout(60):  # Docker may hear of it after the end
        while not (await engine.inspect(container_id)).oom_killed:
            await asyncio.sleep(0.05)


async def test_stop_gives_time_and_then_kills(engine: DockerEngine) -> None:
    polite = "trap 'echo bye; exit 4' TERM; echo ready; while true; do sleep 0.05; done"
    rude = "trap '' TERM; echo ready; while true; do sleep 0.05; done"
    ids = [await started(engine, "sh", "-c", script) for script in (polite, rude)]
    for container_id in ids:
        async for _ in engine.logs(container_id, follow=True):
            break  # it has set its trap
    begun = asyncio.get_running_loop().time()
    await asyncio.gather(engine.stop(ids[0], 110), engine.stop(ids[1], 1))
    assert 0.9 < asyncio.get_running_loop().time() - begun < 100
    assert [(await engine.inspect(container_id)).exit_code for container_id in ids] == [4, 137]
    assert [line.data for line in await lines_of(engine, ids[0])] == [b"ready\n", b"bye\n"]


# -- streams


async def test_much_output_of_both_kinds_arrives_whole(engine: DockerEngine) -> None:
    container_id = await started(engine)
    script = "head -c 3000000 /dev/urandom > /tmp/r; cat /tmp/r; cat /tmp/r >&2; md5sum < /tmp/r > /tmp/sum; exit 3"
    stream = await engine.exec(container_id, ["sh", "-c", script])
    taken: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    async for name, data in stream.output():
        taken[name] += data
    assert len(taken["stdout"]) == 3_000_000
    assert taken["stdout"] == taken["stderr"]
    assert await stream.exit_code() == 3
    await stream.close()


async def test_a_terminal(engine: DockerEngine) -> None:
    container_id = await started(engine)
    stream = await engine.exec(container_id, ["sh"], tty=True, stdin=True)
    output = bytearray()

    async def until(words: bytes) -> None:
        async with asyncio.timeout(60):
            while words not in output:
                _, data = await anext(pieces)
                output.extend(data)

    pieces = aiter(stream.output())
    await stream.resize(123, 45)
    await stream.write(b"stty size; echo a-$((1+1))\n")
    await until(b"45 123")
    await until(b"a-2")
    await stream.write(b"exit 9\n")
    async with asyncio.timeout(60):
        async for _ in pieces:
            pass
        assert await stream.exit_code() == 9
    await stream.write(b"too late")
    await stream.close()
    await stream.close()
    await stream.close_stdin()


async def test_a_missing_command_in_a_running_container(engine: DockerEngine) -> None:
    container_id = await started(engine)
    result = await engine.run(container_id, ["/no/such"], 10)
    assert result.exit_code in (126, 127)
    assert b"no such file or directory" in result.output


async def test_a_command_that_takes_too_long_is_killed(engine: DockerEngine) -> None:
    container_id = await started(engine)
    with pytest.raises(EngineTimeout, match=r"timed out after 0\.3 s"):
        await engine.run(container_id, ["sleep", "77"], 0.3)
    async with asyncio.timeout(60):
        while b"sleep 77" in (await engine.run(container_id, ["ps"], 10)).output:
            pass


async def test_much_input(engine: DockerEngine) -> None:
    container_id = await started(engine)
    stream = await engine.exec(container_id, ["md5sum"], stdin=True)
    data = os.urandom(2_000_000)
    await stream.write(data)
    await stream.close_stdin()
    import hashlib
    digest = hashlib.md5(data).hexdigest().encode()
    assert [(name, out.split()[0]) async for name, out in stream.output()] == [("stdout", digest)]
    await stream.close()


async def test_streams_hold_no_thread(docker_engine: EngineHandle) -> None:
    engine = DockerEngine(docker_engine.docker_host, workers=1, slow_workers=1)
    container_id = await started(engine)
    try:
        streams = [await engine.exec(container_id, ["cat"], stdin=True) for _ in range(5)]
        stopping = asyncio.ensure_future(engine.stop(container_id, 300))  # sleep as process 1 ignores SIGTERM
        async with asyncio.timeout(60):
            assert (await engine.inspect(container_id)).running
            await streams[4].write(b"x")
            assert await anext(aiter(streams[4].output())) == ("stdout", b"x")
            await engine.kill(container_id)
            await stopping
        for stream in streams:
            await stream.close()
    finally:
        await engine.remove(container_id)
        await engine.close()


async def test_an_abandoned_call_leaves_no_socket(engine: DockerEngine) -> None:
    """An unclosed socket would be a warning, and so an error."""
    container_id = await started(engine)
    await engine.ping()
    for delay in (0.0, 0.001, 0.003, 0.01):
        task = asyncio.ensure_future(anext(aiter(engine.logs(container_id, follow=True))))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- logs


async def test_logs_keep_streams_parts_and_bytes(engine: DockerEngine) -> None:
    script = (r"go() { until [ -e /tmp/$1 ]; do sleep 0.01; done; }; printf 'one\n'; go 1; printf 'two\n' >&2; go 2; "
              r"printf '\377\376\n'; go 3; head -c 40000 /dev/zero | tr '\0' z; printf 'end'")
    container_id = await started(engine, "sh", "-c", script)
    lines: list[LogLine] = []
    async with asyncio.timeout(60):
        async for line in engine.logs(container_id, follow=True):
            lines.append(line)
            if len(lines) <= 3:  # the streams have no common order but that
                await engine.run(container_id, ["touch", f"/tmp/{len(lines)}"], 60)
    assert [(line.stream, line.data) for line in lines[:2]] == [("stdout", b"one\n"), ("stderr", b"two\n")]
    assert lines[2].data.endswith(b"\n")  # json-file keeps text only: the bytes themselves are lost in Docker
    assert b"".join(line.data for line in lines[3:]) == b"z" * 40_000 + b"end"
    assert len(lines) > 4  # a long line comes in parts
    assert [line.data for line in await lines_of(engine, container_id, tail=1)][-1].endswith(b"end")
    middle = datetime.fromisoformat(lines[1].time[:26] + "+00:00")
    later = await lines_of(engine, container_id, since=middle)
    assert (lines[0] in later, lines[2] in later) == (False, True)
    assert await lines_of(engine, container_id, since=datetime.now(UTC)) == []


async def test_a_terminal_s_log(engine: DockerEngine) -> None:
    container_id = await started(engine, "sh", "-c", "echo one; echo two >&2; printf three", tty=True)
    lines = await lines_of(engine, container_id, follow=True)
    assert [(line.stream, line.data) for line in lines] == [
        ("stdout", b"one\r\n"), ("stdout", b"two\r\n"), ("stdout", b"three")]


async def test_following_goes_on_across_rotation(engine: DockerEngine) -> None:
    count = 400
    script = ("echo line-0; until [ -e /tmp/go ]; do sleep 0.01; done; "
              f"i=1; while [ $i -lt {count} ]; do echo line-$i; i=$((i+1)); sleep 0.002; done")
    container_id = await started(engine, "sh", "-c", script, log_max_size="4k", log_max_files=3)
    numbers: list[int] = []
    async with asyncio.timeout(60):
        async for line in engine.logs(container_id, follow=True):
            numbers.append(int(line.data.split(b"-")[1]))
            if len(numbers) == 1:  # it is followed: now the first line may go
                await engine.run(container_id, ["touch", "/tmp/go"], 60)
    # None twice, none out of order; a busy Docker may itself skip some when it rotates twice between two looks.
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (0, count - 1)


# -- restarts and hangs


async def test_a_restarted_daemon_is_found_again(own_engine: EngineHandle) -> None:
    engine = DockerEngine(own_engine.docker_host)
    container_id = await started(engine, "sh", "-c", "while true; do echo x; sleep 0.1; done")
    before = await engine.inspect(container_id)
    logs = aiter(engine.logs(container_id, follow=True))
    first = await anext(logs)
    events: list[EngineEvent] = []

    async def watch() -> None:
        async for event in engine.events({}):
            events.append(event)  # noqa: PERF401 - what came before the end is of interest

    watching = asyncio.ensure_future(watch())
    await engine.ping()
    support.stop_dockerd(own_engine, signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        await watching
    for call in (engine.ping(), engine.list(), engine.create(spec("true"))):
        with pytest.raises(EngineUnavailable):
            await call
    support.start_dockerd(own_engine)
    after = await engine.inspect(container_id)
    assert (after.pid, after.started_at) == (before.pid, before.started_at)
    assert first.data == b"x\n"
    await logs.aclose()  # type: ignore[attr-defined]
    await engine.remove(container_id)
    await engine.close()


async def stopped(pid: int) -> None:
    """All of its threads."""
    async with asyncio.timeout(60):
        while any(Path(task, "stat").read_text().rpartition(")")[2].split()[0] != "T"
                  for task in Path(f"/proc/{pid}/task").iterdir()):
            await asyncio.sleep(0.005)


async def test_a_hung_daemon_is_no_hang_of_ours(own_engine: EngineHandle) -> None:
    engine = DockerEngine(own_engine.docker_host, timeout=1)
    container_id = await started(engine)
    assert own_engine.dockerd is not None
    os.kill(own_engine.dockerd.pid, signal.SIGSTOP)
    try:
        await stopped(own_engine.dockerd.pid)
        begun = asyncio.get_running_loop().time()
        results = await asyncio.gather(engine.ping(), engine.list(), *(engine.inspect(container_id) for _ in range(40)),
                                       return_exceptions=True)
        assert asyncio.get_running_loop().time() - begun < 20, "they wait one after the other"
        assert {type(result) for result in results} == {EngineTimeout}
    finally:
        os.kill(own_engine.dockerd.pid, signal.SIGCONT)
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await engine.inspect(container_id)).running
                break
            except EngineTimeout:
                continue
    await engine.remove(container_id)
    await engine.close()


async def test_no_engine_at_all(tmp_path: Path) -> None:
    engine = DockerEngine(f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailable, match=r"none\.sock"):
        await engine.info()
    await engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.ping()
