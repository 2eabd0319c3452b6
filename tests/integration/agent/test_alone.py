"""The agent as a process on a node that is cut off from its master: what the checkpoint says is run, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.engine.docker import DockerEngine
from agent.engine.infra import ensure_infra_image
from agent.link.checkpoint import Checkpoint
from agent.link.files import NodeFiles
from agent.link.view import View
from sampan.api.codec import encode, from_tree
from sampan.api.types import core_v1
from sampan.nodeline import Key
from sampan.pki import ca
from tests.support.engine import IMAGE, EngineHandle, api, run_in, start_dockerd, stop_dockerd
from tests.support.pods import make_pod

pytestmark = [pytest.mark.docker, pytest.mark.net]


class Node:
    """A node's folders and its agent process, in the network namespace of its engine."""

    def __init__(self, root: Path, handle: EngineHandle) -> None:
        self.root = root
        self.handle = handle
        self.name = f"node-{secrets.token_hex(3)}"
        self.uid = f"uid-{secrets.token_hex(4)}"
        self.process: subprocess.Popen[bytes] | None = None

    def remember(self, **spec: Any) -> None:
        """Write the checkpoint of a node with one pod, and an identity that nobody has to accept."""
        authority_pair, authority = ca.Authority.create("test")
        identity = ca.Identity(f"system:node:{self.name}", ("system:nodes",))
        NodeFiles(self.root / "pki").store(authority.issue(identity), authority_pair.certificate)
        view = View()
        node = from_tree(core_v1.Node, {"metadata": {"name": self.name}, "spec": {"podCIDR": "10.244.77.0/24"}})
        view.put(Key("", "nodes", "", self.name), "n", "1", encode(node))
        pod = make_pod("web", self.uid, **{"nodeName": self.name, "terminationGracePeriodSeconds": 1, **spec})
        view.put(Key("", "pods", "default", "web"), self.uid, "2", encode(pod))
        Checkpoint(self.root, self.name).save(view.entries())

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.handle.netns}", sys.executable, "-m", "agent.main", *words,
                "--node-name", self.name, "--node-ip", "192.0.2.10", "--server", "https://127.0.0.1:1",
                "--node-server", "127.0.0.1:1", "--root-dir", str(self.root), "--run-dir", str(self.root / "run"),
                "--docker-host", self.handle.docker_host, "--cgroup-root", f"/{self.name}"]

    def start(self, *words: str) -> None:
        """Start the agent, and wait until it says that it is up."""
        (self.root / "log").unlink(missing_ok=True)
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(*words), stdout=log, stderr=log)
        self.until(lambda: "is up" in (self.root / "log").read_text())

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(60)

    def boxes(self) -> list[dict[str, Any]]:
        """As the engine inspects them: our containers."""
        wanted = json.dumps({"label": [f"sampan.node={self.name}"]})
        found = json.loads(api(self.handle, "GET", f"/containers/json?all=1&filters={wanted}"
                               .replace('"', "%22").replace(" ", "")))
        inspected = []
        for box in found:
            with contextlib.suppress(RuntimeError):  # it has gone since
                inspected.append(json.loads(api(self.handle, "GET", f"/containers/{box['Id']}/json")))
        return inspected

    def app(self) -> dict[str, Any] | None:
        return next((box for box in self.boxes() if box["Name"].startswith("/k8s_app_") and box["State"]["Running"]),
                    None)

    def until(self, holds: Callable[[], object], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (self.root / "log").read_text()[-4000:]
            time.sleep(0.1)


@pytest.fixture
def node(docker_engine: EngineHandle, tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path, docker_engine)
    yield made
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run(made.command("cleanup"), check=False, capture_output=True, timeout=60)


SCRIPT = "echo hello > /tmp/index.html; exec busybox httpd -f -p 8080 -h /tmp"
SERVER = {"name": "app", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", SCRIPT],
          "ports": [{"containerPort": 8080}], "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
          "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}


def answers(node: Node, ip: str) -> bool:
    fetch = f"import urllib.request; print(urllib.request.urlopen('http://{ip}:8080/', timeout=2).read())"
    return "hello" in run_in(node.handle.netns, [sys.executable, "-c", fetch], check=False).stdout


def test_docker_restarts_and_the_pod_comes_back_with_its_network(node: Node) -> None:
    node.remember(containers=[SERVER])
    node.start()
    node.until(lambda: answers(node, "10.244.77.2"))
    first = node.app()
    assert first is not None
    stop_dockerd(node.handle)
    start_dockerd(node.handle)
    node.until(lambda: (found := node.app()) and found["Id"] != first["Id"])
    node.until(lambda: any(answers(node, f"10.244.77.{n}") for n in (2, 3, 4)))
    node.until(lambda: len([box for box in node.boxes() if box["Name"].startswith("/k8s_POD_")]) == 1)
    links = run_in(node.handle.netns, ["ip", "-o", "link", "show", "master", "sampan0"]).stdout.splitlines()
    assert len(links) == 1, links
    taken = [path.name for path in (node.root / "run" / "ipam").rglob("10.244.*")]
    assert len(taken) == 1, "each restart of Docker would cost an address"
    node.end(signal.SIGTERM)


def test_a_node_without_its_master_runs_its_pods(node: Node) -> None:
    node.remember(containers=[SERVER])
    node.start()
    node.until(node.app)
    first = node.app()
    assert first is not None
    address = run_in(node.handle.netns, ["ip", "-4", "-o", "address", "show", "dev", "sampan0"], check=False).stdout
    assert "10.244.77.1/24" in address, address
    hosts = next(mount["Source"] for mount in first["Mounts"] if mount["Destination"] == "/etc/hosts")
    node.until(lambda: "10.244.77.2\tweb" in Path(hosts).read_text())
    node.until(lambda: answers(node, "10.244.77.2"))

    for how in (signal.SIGKILL, signal.SIGTERM):
        code = node.end(how)
        assert code == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        node.start()
        again = node.app()
        assert again is not None
        assert (again["Id"], again["State"]["StartedAt"]) == (first["Id"], first["State"]["StartedAt"])

    other = subprocess.run(node.command(), check=False, capture_output=True, text=True, timeout=60)
    assert other.returncode == 1
    assert "another sampan-agent runs" in other.stderr

    api(node.handle, "POST", f"/containers/{first['Id']}/kill")
    node.until(lambda: (found := node.app()) and found["Id"] != first["Id"])
    node.end(signal.SIGTERM)
    done = subprocess.run(node.command("cleanup"), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert node.boxes() == []
    assert "sampan0" not in run_in(node.handle.netns, ["ip", "link"]).stdout
    assert not list((node.root / "pods").glob("*"))


def test_another_infra_image_can_be_named(node: Node) -> None:
    async def build() -> str:
        engine = DockerEngine(node.handle.docker_host)
        try:
            return await ensure_infra_image(engine)
        finally:
            await engine.close()

    name = f"registry.local/pause-{node.name}:7"
    repository, tag = name.rsplit(":", 1)
    api(node.handle, "POST", f"/images/{asyncio.run(build())}/tag?repo={repository}&tag={tag}")
    node.remember(containers=[SERVER])
    node.start("--infra-image", name)
    node.until(lambda: answers(node, "10.244.77.2"))
    assert {box["Config"]["Image"] for box in node.boxes() if box["Name"].startswith("/k8s_POD_")} == {name}
    node.end(signal.SIGTERM)


def test_a_node_that_has_not_joined_says_what_it_needs(node: Node) -> None:
    done = subprocess.run(node.command(), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "bootstrap-token-file: this node has not joined yet" in done.stderr
