"""The real kubectl, over each protocol that it has used for streams: SPDY (1.27), WebSocket (1.32, 1.33)."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.api.types import core_v1
from tests.support import nodeline, streaming
from tests.support.kubectl import VERSIONS, Kubectl, Result
from tests.support.streaming import Lab

pytestmark = pytest.mark.kubectl


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with streaming.lab(tmp_path) as made:
        yield made


@pytest.fixture(params=VERSIONS)
def kubectl(request: pytest.FixtureRequest, lab: Lab) -> Kubectl:
    return lab.kubectl(request.param)


async def run(kubectl: Kubectl, *arguments: str, stdin: str | None = None) -> Result:
    return await asyncio.to_thread(kubectl.run, *arguments, stdin=stdin, timeout=60)


async def test_exec_tells_output_errors_and_exit_codes_apart(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    result = await run(kubectl, "exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert result == Result(3, "out\n", "err\ncommand terminated with exit code 3\n")
    assert await run(kubectl, "exec", "web", "--", "echo", "fine") == Result(0, "fine\n", "")


async def test_exec_passes_input_and_its_end(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    text = "line\n" * 200_000
    result = await run(kubectl, "exec", "-i", "web", "--", "cat", stdin=text)
    assert result.code == 0, result.err
    assert result.out == text
    result = await run(kubectl, "exec", "-i", "web", "--", "wc", "-c", stdin=text)
    assert result.out.strip() == str(len(text))


async def test_exec_of_a_large_output_arrives_whole(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    result = await run(kubectl, "exec", "web", "--", "sh", "-c", "yes 0123456789abcde | head -c 20000000")
    assert result.code == 0, result.err
    assert len(result.out) == 20_000_000


async def test_exec_with_a_terminal_and_its_size(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    # The size follows the start, as upstream: wait for it.
    script = 'while [ "$(stty size)" = "0 0" ]; do sleep 0.05; done; stty size; read x; echo got:$x; exit 5'
    command = [*kubectl.command("exec", "-it", "web", "--"), "sh", "-c", script]
    inner = "stty rows 33 cols 101; " + shlex.join(command) + "; echo code:$?"

    def interact() -> str:
        done = subprocess.run(["script", "-qec", inner, "/dev/null"], input="hello\n", capture_output=True, text=True,
                              env=kubectl.env | {"TERM": "xterm"}, timeout=60, check=False)
        return done.stdout + done.stderr
    text = await asyncio.to_thread(interact)
    assert "33 101" in text
    assert "got:hello" in text
    assert "code:5" in text


async def test_what_users_read_when_there_is_nothing_to_run_in(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("two", core_v1.Container(name="a", image="busybox"), core_v1.Container(name="b", image="busybox"))
    await lab.pod("slow", waiting="ContainerCreating")
    await lab.pod("unbound", bound=False)
    result = await run(kubectl, "exec", "-c", "nope", "two", "--", "true")
    assert result.code == 1
    assert "container nope is not valid for pod two" in result.err
    # What the node refuses reads so: kubectl 1.27 is told by SPDY, the others over an upgraded WebSocket.
    upgrade = "(error|error: Internal error occurred): unable to upgrade connection: "
    result = await run(kubectl, "exec", "slow", "--", "true")
    assert re.fullmatch(upgrade + r'container not found \("main"\)\n', result.err), result
    assert result.code == 1
    result = await run(kubectl, "attach", "slow")
    assert re.search(upgrade + r"container main not found in pod slow_default\n$", result.err), result
    result = await run(kubectl, "exec", "unbound", "--", "true")
    assert "pod unbound does not have a host assigned" in result.err
    result = await run(kubectl, "logs", "slow")
    assert result.err.strip().endswith('container "main" in pod "slow" is waiting to start: ContainerCreating')
    assert await run(kubectl, "logs", "unbound") == Result(0, "", "")
    result = await run(kubectl, "logs", "two", "-c", "zzz")
    assert "container zzz is not valid for pod two" in result.err


async def test_attach_reads_and_writes(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web", core_v1.Container(name="main", image="busybox", stdin=True))
    lab.engine.attached["web-main"] = ["sh", "-c", "read x; echo got:$x; echo problem >&2"]
    result = await run(kubectl, "attach", "-i", "web", stdin="word\n")
    assert result.code == 0, result.err
    assert "got:word\n" in result.out
    assert "problem" in result.err


async def test_cp_both_ways(lab: Lab, kubectl: Kubectl, tmp_path: Path) -> None:
    await lab.pod("web")
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(bytes(range(256)) * 5000)
    result = await run(kubectl, "cp", str(source), f"web:{there}")
    assert result.code == 0, result.err
    assert there.read_bytes() == source.read_bytes()
    result = await run(kubectl, "cp", f"web:{there}", str(back))
    assert result.code == 0, result.err
    assert back.read_bytes() == source.read_bytes()


async def test_logs_with_their_options(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    for number in range(10):
        lab.engine.log("web-main", f"line {number}\n".encode())
    assert (await run(kubectl, "logs", "web")).out == "".join(f"line {number}\n" for number in range(10))
    assert (await run(kubectl, "logs", "web", "--tail=2")).out == "line 8\nline 9\n"
    stamped = await run(kubectl, "logs", "web", "--tail=1", "--timestamps")
    assert stamped.out == "2026-01-01T00:00:09.000000000Z line 9\n"
    assert (await run(kubectl, "logs", "web", "--limit-bytes=9")).out == "line 0\nli"
    assert (await run(kubectl, "logs", "web", "--since-time=2026-01-01T00:00:08Z")).out == "line 8\nline 9\n"
    result = await run(kubectl, "logs", "web", "--previous")
    assert 'previous terminated container "main" in pod "web" not found' in result.err


async def test_logs_follow(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    process = await asyncio.create_subprocess_exec(*kubectl.command("logs", "-f", "web"), env=kubectl.env,
                                                   stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    for number in range(3):
        lab.engine.log("web-main", f"{number}\n".encode())
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == f"{number}\n".encode()
    lab.engine.log("web-main", b"END\n")
    async with asyncio.timeout(60):
        assert await process.stdout.read() == b"END\n"
        assert await process.wait() == 0


async def test_port_forward(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        data = await reader.read()  # to the client's end: half-close must come through
        writer.write(b"echo:" + data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(*kubectl.command("port-forward", "web", f":{port}"), env=kubectl.env,
                                                   stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        match = re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
        assert match is not None, line

        async def ask(payload: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(match[1]))
            writer.write(payload)
            await writer.drain()
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

        async with asyncio.timeout(60):
            assert await ask(b"hello") == b"echo:hello"
            payloads = [bytes((65 + number,)) * 300_000 for number in range(5)]
            answers = await asyncio.gather(*(ask(payload) for payload in payloads))
        assert answers == [b"echo:" + payload for payload in payloads]
        assert served == 6
    finally:
        process.terminate()
        await process.wait()
        server.close()
    await nodeline.until(lambda: process.returncode is not None)


async def test_port_forward_to_a_closed_port(lab: Lab, kubectl: Kubectl) -> None:
    await lab.pod("web")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    process = await asyncio.create_subprocess_exec(*kubectl.command("port-forward", "web", f":{port}"), env=kubectl.env,
                                                   stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
            local = line.split(":")[1].split()[0]
            reader, writer = await asyncio.open_connection("127.0.0.1", int(local))
            assert await reader.read() == b""
            writer.close()
            text = (await process.stderr.readline()).decode()
        assert f"error forwarding port {port} to pod web" in text
        assert "inside the pod: connection refused" in text
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
