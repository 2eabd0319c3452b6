"""Into running pods and out of them: exec, attach, cp and port-forward; SPDY in 1.27, WebSockets in 1.32 and 1.33."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.kubectl import Kubectl, Result, forwarding, one_version
from tests.support.terminal import Terminal

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IMAGE = "sampan-test/box:1"


def shell(kubectl: Kubectl, script: str, *options: str, stdin: str | None = None) -> Result:
    """Run a script in the container `main` of the pod `web`."""
    return kubectl.run("exec", "web", "-c", "main", *options, "--", "sh", "-c", script, stdin=stdin)


# --- exec -------------------------------------------------------------------------------------------------------------


def test_exec(reader: Kubectl) -> None:
    assert shell(reader, "echo out; echo err >&2; exit 3") == Result(
        3, "out\n", "err\ncommand terminated with exit code 3\n")
    assert shell(reader, "hostname") == Result(0, "web\n", "")
    result = reader.run("exec", "web", "--", "true")
    assert result == Result(0, "", 'Defaulted container "main" out of: main, side\n')
    assert reader("exec", "deployment/shop", "--", "hostname").startswith("shop-")
    assert reader.run("exec", "web", "-c", "side", "--", "sh", "-c", "kill -9 $$").code == 137


def test_exec_passes_input_and_its_end(reader: Kubectl) -> None:
    text = "0123456789abcdef\n" * 60_000
    assert shell(reader, "cat", "-i", stdin=text) == Result(0, text, "")
    assert shell(reader, "wc -c", "-i", stdin=text) == Result(0, f"{len(text)}\n", "")
    assert shell(reader, "cat", stdin=text) == Result(0, "", "")  # without -i nothing is sent


def test_exec_brings_all_of_a_large_output(reader: Kubectl) -> None:
    result = shell(reader, "yes 0123456789abcde | head -c 8000000")
    assert (result.code, len(result.out), result.err) == (0, 8_000_000, "")


def test_exec_with_a_terminal(reader: Kubectl) -> None:
    command = reader.command("exec", "-it", "web", "-c", "main", "--", "sh")
    with Terminal(command, reader.env, rows=33, columns=101) as terminal:
        terminal.expect(r"[#$] ")
        terminal.type("stty size; while [ \"$(stty size)\" = '33 101' ]; do sleep 0.05; done; stty size\n")
        terminal.expect(r"33 101\r\n")
        terminal.resize(44, 55)
        terminal.expect(r"44 55\r\n")
        terminal.type("sh -c 'echo now; exec sleep 100'\n")
        terminal.expect(r"now\r\n")
        terminal.type("\x03")  # Ctrl-C reaches the command, not kubectl
        terminal.expect(r"[#$] ")
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
        assert "command terminated with exit code 5" in terminal.screen


def test_exec_refusals(reader: Kubectl) -> None:
    result = reader.run("exec", "web", "-c", "none", "--", "true")
    assert result.code == 1
    assert "container none is not valid for pod web" in result.err
    result = reader.run("exec", "web", "-c", "main", "--", "no-such-command")
    assert result.code in (126, 127)
    assert 'exec: "no-such-command": executable file not found in $PATH' in result.out + result.err


@one_version
def test_exec_where_nothing_runs(kubectl: Kubectl) -> None:
    kubectl("run", "done", f"--image={IMAGE}", "--restart=Never", "--", "true")
    kubectl("wait", "pod/done", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    result = kubectl.run("exec", "done", "--", "true")
    assert (result.code, result.err) == (
        1, "error: cannot exec into a container in a completed pod; current phase is Succeeded\n")


def test_many_commands_at_once(reader: Kubectl) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda number: shell(reader, f"echo {number}; exit {number}"), range(12)))
    assert [(result.code, result.out) for result in results] == [(number, f"{number}\n") for number in range(12)]


# --- attach -----------------------------------------------------------------------------------------------------------

READER = "while read line; do echo got:$line; done; echo over; exit 4"


def test_attach_to_input_and_output(kubectl: Kubectl) -> None:
    kubectl("run", "one", f"--image={IMAGE}", "--restart=Never", "--stdin", "--attach=false", "--", "sh", "-c", READER)
    kubectl("wait", "pod/one", "--for=condition=Ready", "--timeout=120s")
    attached = kubectl.popen("attach", "-i", "one")
    try:
        assert attached.stdin is not None
        assert attached.stdout is not None
        for word in ("first", "second"):
            attached.stdin.write(word + "\n")
            attached.stdin.flush()
            assert attached.stdout.readline() == f"got:{word}\n"
        attached.stdin.write("last\n")
        out, _ = attached.communicate(timeout=60)
        assert "got:last\n" in out
    finally:
        attached.kill()
        attached.wait()


@one_version
def test_attach_with_a_terminal(kubectl: Kubectl) -> None:
    kubectl("run", "one", f"--image={IMAGE}", "--restart=Never", "--stdin", "--tty", "--attach=false", "--", "sh")
    kubectl("wait", "pod/one", "--for=condition=Ready", "--timeout=120s")
    with Terminal(kubectl.command("attach", "-it", "one"), kubectl.env, rows=20, columns=70) as terminal:
        terminal.expect("try pressing enter")
        terminal.type("\n")
        terminal.expect(r"[#$] ")
        terminal.type("stty size\n")
        terminal.expect(r"20 70\r\n")
        terminal.type("exit 0\n")
        terminal.wait()


# --- cp ---------------------------------------------------------------------------------------------------------------


def test_cp_both_ways(reader: Kubectl, tmp_path: Path) -> None:
    name = f"copy-{reader.version}"
    folder = tmp_path / name
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "bytes").write_bytes(bytes(range(256)) * 8000)
    (folder / "deep" / "deeper" / "text").write_text("hello\n")
    assert reader("cp", str(folder / "bytes"), f"web:/tmp/{name}-bytes", "-c", "main") == ""
    reader("cp", str(folder), "web:/tmp", "-c", "main")
    assert shell(reader, f"md5sum < /tmp/{name}-bytes; cat /tmp/{name}/deep/deeper/text").out.splitlines()[1] == "hello"
    back = tmp_path / "back"
    reader("cp", f"{reader.namespace}/web:/tmp/{name}", str(back), "-c", "main")
    assert (back / "bytes").read_bytes() == (folder / "bytes").read_bytes()
    assert (back / "deep" / "deeper" / "text").read_text() == "hello\n"
    reader("cp", f"web:tmp/{name}-bytes", str(tmp_path / "one"), "-c", "main")
    assert (tmp_path / "one").read_bytes() == (folder / "bytes").read_bytes()


# --- port-forward -----------------------------------------------------------------------------------------------------


def fetch(cluster: ClusterHandle, port: int, path: str = "/") -> str:
    """What an HTTP server on the node's loopback answers."""
    return cluster.run("busybox", "wget", "-qO-", f"http://127.0.0.1:{port}{path}", timeout=60).stdout


@pytest.mark.parametrize("target", [("pod/web", ":8080"), ("service/web", ":80"), ("pod/web", ":http")])
def test_port_forward(reader: Kubectl, cluster: ClusterHandle, target: tuple[str, str]) -> None:
    with forwarding(reader, *target) as (port, _):
        assert fetch(cluster, port) == "hello from the pod\n"
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: fetch(cluster, port), range(8))) == {"hello from the pod\n"}


def test_port_forward_brings_all_of_a_large_file(reader: Kubectl, cluster: ClusterHandle) -> None:
    shell(reader, "[ -e /www/large ] || yes 0123456789abcde | head -c 5000000 > /www/large")
    with forwarding(reader, "pod/web", ":8080") as (port, _):
        assert len(fetch(cluster, port, "/large")) == 5_000_000


def test_port_forward_to_a_closed_port(reader: Kubectl, cluster: ClusterHandle) -> None:
    with forwarding(reader, "pod/web", ":9") as (port, process):
        result = cluster.run("busybox", "wget", "-qO-", f"http://127.0.0.1:{port}/", check=False, timeout=60)
        assert result.returncode != 0
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.search(r"an error occurred forwarding \d+ -> 9: error forwarding port 9 to pod", line), line
        assert "onnection refused" in line


# --- proxy ------------------------------------------------------------------------------------------------------------


def test_proxy(reader: Kubectl, cluster: ClusterHandle) -> None:
    process = reader.popen("proxy", "--port=0")
    try:
        assert process.stdout is not None
        match = re.fullmatch(r"Starting to serve on 127\.0\.0\.1:(\d+)\n", process.stdout.readline())
        assert match
        pod = json.loads(fetch(cluster, int(match[1]), f"/api/v1/namespaces/{reader.namespace}/pods/web"))
        assert pod["metadata"]["name"] == "web"
        assert fetch(cluster, int(match[1]), f"/api/v1/namespaces/{reader.namespace}/pods/web/log?container=side") == (
            "from the side\n")
    finally:
        process.terminate()
        process.communicate()
