"""Other clients: the Python one, raw WebSockets as the conformance suite opens them; refusals and disconnects."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sampan.api.types import core_v1
from sampan.pki import ca
from tests.support import nodeline, streaming
from tests.support.streaming import Lab

EXEC = "/api/v1/namespaces/default/pods/web/exec"
LOG = "/api/v1/namespaces/default/pods/web/log"

@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with streaming.lab(tmp_path) as made:
        yield made


COMMANDS = """
import json
import sys
import kubernetes
from kubernetes.stream import stream

api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(sys.argv[1]))
shell = ["sh", "-c", "read x; echo got:$x; exit 4"]
client = stream(api.connect_get_namespaced_pod_exec, "web", "default", command=shell, stdin=True, stdout=True,
                stderr=True, tty=False, _preload_content=False)
client.write_stdin("word\\n")
client.run_forever(timeout=60)
code = client.returncode
client.close()
api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(sys.argv[1]))
simple = stream(api.connect_get_namespaced_pod_exec, "web", "default", command=["echo", "hi"], stdin=False,
                stdout=True, stderr=True, tty=False)
print(json.dumps([client.read_stdout(), code, simple]))
"""

LOGS = """
import json
import sys
import kubernetes

api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(sys.argv[1]))
text = api.read_namespaced_pod_log("web", "default")
followed = api.read_namespaced_pod_log("web", "default", follow=True, _preload_content=False)
print(json.dumps([text, followed.read().decode()]))
"""

FORWARD = """
import sys
import kubernetes
from kubernetes.stream import portforward

api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(sys.argv[1]))
ports = sys.argv[2:]
forward = portforward(api.connect_get_namespaced_pod_portforward, "web", "default", ports=",".join(ports))
for port in ports:
    connection = forward.socket(int(port))
    connection.settimeout(60)
    connection.sendall(f"to {port}\\n".encode())
    answer = b""
    while not answer.endswith(b"\\n"):
        answer += connection.recv(1000)
    sys.stdout.write(answer.decode())
"""


async def python_client(program: str, lab: Lab, *arguments: str) -> str:
    """Run the Python client in a process of its own: its threads and sockets outlive its objects."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(lab.kubeconfig), *arguments,
                                                   stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return output.decode()


async def test_the_python_client_runs_commands(lab: Lab) -> None:
    await lab.pod("web")
    assert json.loads(await python_client(COMMANDS, lab)) == ["got:word\n", 4, "hi\n"]


async def test_the_python_client_reads_logs(lab: Lab) -> None:
    await lab.pod("web")
    lab.engine.log("web-main", b"one\n")
    lab.engine.log("web-main", b"END\n")
    assert json.loads(await python_client(LOGS, lab)) == ["one\nEND\n"] * 2


async def test_the_python_client_forwards_ports(lab: Lab) -> None:
    await lab.pod("web")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(b"echo:" + line)
        await writer.drain()
        writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]

    answer = await python_client(FORWARD, lab, *map(str, ports))
    assert answer.splitlines() == [f"echo:to {port}" for port in ports]
    for server in servers:
        server.close()


def tls(lab: Lab, tmp_path: Path, user: str = "admin", group: str = "system:masters") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(lab.directory / "pki" / "ca.crt"))
    authority = streaming.ClusterPki(lab.directory / "pki").authority()
    pair = authority.issue(ca.Identity(user, (group,)))
    path = tmp_path / f"{user}.pem"
    path.write_bytes(pair.certificate + pair.key)
    context.load_cert_chain(path)
    return context


async def messages(socket: aiohttp.ClientWebSocketResponse) -> list[bytes | str]:
    kinds = (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)
    return [message.data async for message in socket if message.type in kinds]


@pytest.mark.parametrize(("protocol", "error"), [
    ("channel.k8s.io", b"\x03command terminated with non-zero exit code: command terminated with exit code 7"),
    ("v4.channel.k8s.io", b"\x03" + b'{"metadata":{},"status":"Failure"'),
    ("v5.channel.k8s.io", b"\x03" + b'{"metadata":{},"status":"Failure"'),
])
async def test_exec_over_bare_websockets(lab: Lab, tmp_path: Path, protocol: str, error: bytes) -> None:
    await lab.pod("web")
    query = "?command=sh&command=-c&command=printf+text;exit+7&stdout=1&stderr=1&container=main"
    async with (aiohttp.ClientSession() as session,
                session.ws_connect(lab.url + EXEC + query, ssl=tls(lab, tmp_path), protocols=(protocol,)) as socket):
        assert socket.protocol == protocol
        got = await messages(socket)
        assert socket.close_code == 1000
    assert got[0] == b"\x01"
    assert b"\x01text" in got
    assert isinstance(got[-1], bytes)
    assert got[-1].startswith(error)


async def test_exec_in_base64(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web")
    query = "?command=cat&stdin=1&stdout=1"
    async with (aiohttp.ClientSession() as session,
                session.ws_connect(lab.url + EXEC + query, ssl=tls(lab, tmp_path),
                                   protocols=("v4.base64.channel.k8s.io",)) as socket):
        assert (await socket.receive()).data == "1"
        await socket.send_str("0" + base64.b64encode(b"hello").decode())
        assert (await socket.receive()).data == "1" + base64.b64encode(b"hello").decode()


async def test_v5_closes_input(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web")
    query = "?command=sort&stdin=1&stdout=1"
    async with (aiohttp.ClientSession() as session,
                session.ws_connect(lab.url + EXEC + query, ssl=tls(lab, tmp_path),
                                   protocols=("v5.channel.k8s.io",)) as socket):
        await socket.send_bytes(b"\x00b\na\n")
        await socket.send_bytes(b"\xff\x00")
        got = await messages(socket)
    assert b"\x01a\nb\n" in got
    assert isinstance(got[-1], bytes)
    assert json.loads(got[-1][1:]) == {"metadata": {}, "status": "Success"}


async def test_a_client_that_leaves_ends_the_command(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web")
    query = "?command=sleep&command=1000&stdout=1"
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(lab.url + EXEC + query, ssl=tls(lab, tmp_path),
                                          protocols=("v5.channel.k8s.io",))
        await socket.receive()
        assert lab.engine.streams[0].process.returncode is None
        await socket.close()
    await nodeline.until(lambda: lab.engine.streams[0].process.returncode is not None)


async def test_a_follower_that_leaves_ends_its_session(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web")
    lab.engine.log("web-main", b"line\n")
    async with aiohttp.ClientSession() as session:
        response = await session.get(lab.url + LOG + "?follow=true", ssl=tls(lab, tmp_path))
        assert await response.content.readline() == b"line\n"
        assert response.content_type == "text/plain"
        await nodeline.until(lambda: sessions() == 1)
        response.close()
    await nodeline.until(lambda: sessions() == 0)


def sessions() -> int:
    """Sessions that an agent's tasks still serve."""
    return sum("Link.answer" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_logs_over_websockets(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web")
    lab.engine.log("web-main", b"line\n")
    async with (aiohttp.ClientSession() as session,
                session.ws_connect(lab.url + LOG + "?container=main", ssl=tls(lab, tmp_path),
                                   protocols=("binary.k8s.io",)) as socket):
        assert await messages(socket) == [b"line\n"]


@pytest.mark.parametrize(("path", "code", "text"), [
    (LOG + "?tailLines=-1", 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
    (LOG + "?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422, "at most one of"),
    (LOG + "?tailLines=x", 400, "invalid syntax"),
    (LOG + "?sinceTime=yesterday", 400, "cannot parse"),
    (EXEC + "?command=x&stdout=1", 400, "Upgrade request required"),
    (EXEC + "?command=x", 400, "you must specify at least 1 of stdin, stdout, stderr"),
    (EXEC + "?stdout=1", 400, "at least 1 command"),
    (EXEC.replace("exec", "portforward"), 400, "Upgrade request required"),
])
async def test_bad_requests(lab: Lab, tmp_path: Path, path: str, code: int, text: str) -> None:
    await lab.pod("web")
    async with (aiohttp.ClientSession() as session,
                session.get(lab.url + path, ssl=tls(lab, tmp_path)) as response):
        assert response.status == code
        assert text in (await response.json())["message"]


async def test_several_containers_need_a_choice(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web", core_v1.Container(name="a", image="busybox"), core_v1.Container(name="b", image="busybox"))
    async with (aiohttp.ClientSession() as session, session.get(lab.url + LOG, ssl=tls(lab, tmp_path)) as response):
        assert response.status == 400
        assert (await response.json())["message"] == (
            "a container name must be specified for pod web, choose one of: [a b]")


async def test_a_refusal_of_the_node_in_each_dialect(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web", waiting="ContainerCreating")
    url = lab.url + EXEC + "?command=id&stdout=1"
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, protocols=("v5.channel.k8s.io",), ssl=tls(lab, tmp_path)) as socket:
            assert (await messages(socket))[-1] == (
                b'\x03{"metadata":{},"status":"Failure","message":"Internal error occurred: unable to upgrade '
                b'connection: container not found (\\"main\\")","reason":"InternalError","details":{"causes":[{'
                b'"message":"unable to upgrade connection: container not found (\\"main\\")"}]},"code":500}')
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, protocols=("v4.channel.k8s.io",), ssl=tls(lab, tmp_path))
        assert refused.value.status == 500
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
        async with session.post(url, ssl=tls(lab, tmp_path), headers=headers) as response:
            assert (response.status, await response.text()) == (500, 'container not found ("main")')


async def test_a_node_that_is_not_there(lab: Lab, tmp_path: Path) -> None:
    made = await lab.pod("web")
    client = lab.parts.client
    spec = core_v1.PodSpec(containers=made.spec.containers, node_name="elsewhere")
    await client.create(streaming.PODS, core_v1.Pod(metadata=nodeline.meta("far"), spec=spec))
    async with (aiohttp.ClientSession() as session,
                session.get(lab.url + LOG.replace("web", "far"), ssl=tls(lab, tmp_path)) as response):
        assert response.status == 404
        assert (await response.json())["message"] == 'nodes "elsewhere" not found'


async def test_a_stranger_may_not_run_commands(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(lab.url + EXEC + "?command=id&stdout=1", protocols=("v5.channel.k8s.io",),
                                     ssl=tls(lab, tmp_path, "eve", "people"))
    assert refused.value.status == 403
    assert not lab.engine.streams
