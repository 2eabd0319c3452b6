"""What the lab itself promises."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.lab import IMAGE, SAMPAN, LabHandle, LabNode, LabSpace, engine_of, ready_nodes, remains
from tests.support.space import SLEEP, is_ready, patience, pod
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]


def test_three_nodes_are_ready_and_the_master_takes_no_ordinary_pods(lab: LabHandle) -> None:
    kubectl = lab.kubectl()
    lab.until_ready()
    nodes = {item["metadata"]["name"]: item for item in kubectl.json("get", "nodes")["items"]}
    assert set(nodes) == set(lab.nodes) == {"master", "node1", "node2"}
    assert nodes["master"]["spec"]["taints"] == [{"key": "node-role.kubernetes.io/control-plane",
                                                  "effect": "NoSchedule"}]
    assert nodes["master"]["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] == ""
    roles = kubectl("get", "nodes", "--no-headers", "-o", "custom-columns=NAME:.metadata.name")
    assert roles.split() == ["master", "node1", "node2"]
    addresses = {name: {entry["type"]: entry["address"] for entry in node["status"]["addresses"]}["InternalIP"]
                 for name, node in nodes.items()}
    assert addresses == {name: node.ip for name, node in lab.nodes.items()}
    assert [address.rpartition(".")[2] for address in addresses.values()] == ["10", "11", "12"]
    tokens = kubectl.json("get", "secrets", "-n", "kube-system",
                          "--field-selector=type=bootstrap.kubernetes.io/token")["items"]
    assert tokens == []  # each has served, and is gone


def test_status_tells_where_everything_is(lab: LabHandle) -> None:
    found = lab.status
    assert found["name"] == lab.name
    assert Path(found["kubeconfig"]).stat().st_mode & 0o777 == 0o600
    assert found["server"] == f"https://{lab.node('master').ip}:6443"
    for node in found["nodes"]:
        assert Path(f"/run/netns/{node['namespace']}").exists()
        wanted = {"containerd", "docker", "agent"} | ({"master"} if node["roles"] == ["control-plane"] else set())
        assert set(node["processes"]) == wanted
        for part, pid in node["processes"].items():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            assert any({"docker": "dockerd"}.get(part, part) in word for word in command)
            assert Path(f"/proc/{pid}/ns/net").stat().st_ino == Path(f"/run/netns/{node['namespace']}").stat().st_ino
    text = lab.sampan("status").stdout
    assert "node2" in text
    assert f"export KUBECONFIG={found['kubeconfig']}" in text
    assert lab.sampan("env").stdout == f"export KUBECONFIG={found['kubeconfig']}\n"
    listed = subprocess.run([SAMPAN, "lab", "list"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert any(line.split()[0] == lab.name for line in listed.splitlines())


def test_exec_is_in_the_hosts_network_with_its_engine_and_gives_its_exit_code(lab: LabHandle) -> None:
    node = lab.node("node1")
    script = "ip -4 -br addr show eth0; docker info -f '{{.DockerRootDir}}'; echo \"$SAMPAN_CONFIG_DIR\"; exit 7"
    done = lab.sampan("exec", "node1", "--", "sh", "-c", script, check=False)
    assert done.returncode == 7
    address, root, config = done.stdout.splitlines()
    assert f"{node.ip}/24" in address
    assert root == str(node.directories["docker"])
    assert config == str(node.directories["config"])
    assert "Ready" in lab.sampan("exec", "node2", "--", "kubectl", "get", "nodes", "--no-headers").stdout


def test_errors_say_what_to_do(lab: LabHandle) -> None:
    for arguments, words in ((("exec", "node9", "--", "true"), "it has master, node1, node2"),
                             (("kill", "node1", "master"), "it runs containerd, docker, agent"),
                             (("load", "no/such:1"), "pull or build it first"),
                             (("up", "--nodes", "2"), "take it down first"),
                             (("exec", "node1", "--", "no-such-command"), "no-such-command")):
        done = lab.sampan(*arguments, check=False)
        assert done.returncode != 0
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    done = subprocess.run([SAMPAN, "lab", "status", "--name", "nosuch"], capture_output=True, text=True, check=False,
                          timeout=60)
    assert done.returncode == 1
    assert 'there is no lab "nosuch"' in done.stderr


def test_what_the_machine_lacks_is_told_at_once_and_nothing_is_made(lab: LabHandle, tmp_path: Path) -> None:
    (tmp_path / "docker").symlink_to("/usr/bin/docker")
    done = subprocess.run([SAMPAN, "lab", "up", "--name", f"{lab.name}d"], capture_output=True, text=True, check=False,
                          timeout=60, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "this machine lacks what a lab needs:" in done.stderr
    assert "the command nsenter: install util-linux" in done.stderr
    assert "the command docker:" not in done.stderr
    assert remains(f"{lab.name}d") == []


def test_up_again_changes_nothing(lab: LabHandle) -> None:
    before = lab.status
    lab.sampan("up")
    assert lab.status == before


def test_up_starts_what_has_ended_and_waits_for_signs_of_life(lab: LabHandle) -> None:
    """The node of an agent that was killed a moment ago is Ready still: it must not be taken for one that runs."""
    lab.kill("node1", "agent")
    begun = datetime.now(UTC)
    lab.sampan("up")
    assert lab.node("node1").processes["agent"]
    renewed = lab.kubectl().json("get", "lease", "-n", "kube-node-lease", "node1")["spec"]["renewTime"]
    assert datetime.fromisoformat(renewed) > begun


def test_up_does_not_wait_for_hosts_that_are_cut_off(lab: LabHandle) -> None:
    lab.partition("node2")
    try:
        assert "node2: runs, and is cut off" in lab.sampan("up", timeout=60).stdout
        lab.partition("master")
        done = lab.sampan("up", check=False, timeout=60)
        assert done.returncode == 1
        assert "has its master cut off" in done.stderr
        assert f"sampan lab heal --name {lab.name}" in done.stderr
    finally:
        lab.heal()
    lab.until_ready()


def test_the_machine_reaches_nodes_and_nodes_reach_each_other_and_the_machine(lab: LabHandle) -> None:
    node1, node2 = lab.node("node1"), lab.node("node2")
    gateway = lab.status["gateway"]
    with serving(node1, node1.ip, b"node1") as port, listening(gateway) as machine:
        assert fetch(f"http://{node1.ip}:{port}/") == b"node1"
        curl = ("curl", "-sS", "--max-time", "20")
        assert lab.exec("node2", *curl, f"http://{node1.ip}:{port}/") == "node1"
        assert lab.exec("node2", *curl, f"telnet://{gateway}:{machine}", check=False) == "hi"
    route = lab.exec("node2", "ip", "route", "get", "203.0.113.1")
    assert f"via {gateway}" in route
    assert f"src {node2.ip}" in route
    rules = subprocess.run(["iptables", "-t", "nat", "-S", "POSTROUTING"], capture_output=True, text=True, check=True,
                           timeout=60).stdout
    assert (f"-s {lab.status['subnet']} ! -o lab-{lab.name} -m comment --comment sampan-lab-{lab.name} -j MASQUERADE"
            in rules)


def test_an_image_is_copied_to_every_node_from_one_of_them_and_from_a_file(lab: LabHandle, tmp_path: Path) -> None:
    names = (f"lab-test/one-{tmp_path.name}:1".lower(), f"lab-test/two-{tmp_path.name}:1".lower())
    nodes = lab.nodes
    for name in names:
        engine.import_image(engine_of(nodes["node2"]), name, changes=[f'LABEL name={name}'])
    assert "copied to 2 nodes" in lab.sampan("load", names[0]).stdout
    assert "every node has it" in lab.sampan("load", names[0]).stdout
    lab.docker("node2", "save", "-o", str(tmp_path / "two.tar"), names[1])
    assert "loaded into 3 nodes" in lab.sampan("load", str(tmp_path / "two.tar")).stdout
    for name in names:
        assert len({lab.docker(node, "image", "inspect", "-f", "{{.Id}}", name) for node in nodes}) == 1
        for node in nodes:
            lab.docker(node, "rmi", name)


def test_pods_run_on_the_workers(space: LabSpace) -> None:
    space.create(deployment("web", 4))
    pods = space.pods.until("four run", lambda pods: len(pods) == 4 and all(map(is_ready, pods.values())))
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == {"node1", "node2"}
    for name in pods:
        assert len(space.boxes(name)) == 1


def test_the_machine_reaches_a_service_by_every_nodes_port(lab: LabHandle, space: LabSpace) -> None:
    script = "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"
    for number, node in enumerate(("node1", "node2")):
        space.create(pod(f"web{number}", ["sh", "-c", script], labels={"app": "web"}, nodeName=node,
                         terminationGracePeriodSeconds=0))
    space.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                  "spec": {"type": "NodePort", "selector": {"app": "web"},
                           "ports": [{"port": 80, "targetPort": 8080}]}})
    space.ready("web0", "web1")
    port = json.loads(space("get", "service", "web", "-o", "json"))["spec"]["ports"][0]["nodePort"]
    for node in lab.nodes.values():
        answers: set[bytes] = set()

        def both(url: str = f"http://{node.ip}:{port}/", seen: set[bytes] = answers) -> bool:
            with contextlib.suppress(OSError):  # the rules may take a moment
                seen.add(fetch(url).strip())
            return seen == {b"web0", b"web1"}

        patience(f"both pods answer at {node.name}'s port", both, 60)


def test_a_part_that_crashes_or_is_restarted_comes_back(lab: LabHandle) -> None:
    before = lab.node("node1").processes
    lab.restart("node1", "agent")
    lab.restart("node1", "containerd", kill=True)
    lab.restart("node1", "docker", kill=True)
    patience("all have new processes", lambda: set(before.values()).isdisjoint(
        (now := lab.node("node1").processes).values()) and set(now) == set(before), 60)
    patience("Docker answers", lambda: "Server Version" in lab.docker("node1", "info", check=False), 60)
    lab.until_ready()


def test_a_part_that_is_stopped_or_killed_stays_away_until_it_is_started(lab: LabHandle) -> None:
    lab.stop("node2", "agent")
    lab.kill("node2", "docker")
    assert set(lab.node("node2").processes) == {"containerd"}
    assert "does not run" in lab.sampan("restart", "node2", "agent", check=False).stderr
    lab.start("node2", "docker")
    lab.start("node2")
    assert set(lab.node("node2").processes) == {"containerd", "docker", "agent"}
    lab.until_ready()


def test_a_second_lab_beside_it_and_nothing_is_left_of_one_whose_making_was_killed(lab: LabHandle,
                                                                                  tmp_path: Path) -> None:
    other = LabHandle(f"{lab.name}b")
    try:
        for line in ("Docker Engine answers", "API ready"):
            interrupt(other, tmp_path, line)
            interrupt_down(other, tmp_path)
            other.sampan("down", "--dir", str(tmp_path / "disks"))
            assert remains(other.name) == []
            assert not (tmp_path / "disks").exists()
        interrupt(other, tmp_path, "hosts in")
        other.sampan("up", "--nodes", "1", "--dir", str(tmp_path / "disks"))  # completes what is half done
        assert other.status["subnet"] != lab.status["subnet"]
        assert ready_nodes(other.kubectl()) == {"master"}
        assert ready_nodes(lab.kubectl()) == set(lab.nodes)
        engine.import_image(engine_of(other.node("master")))
        other.kubectl()("run", "box", f"--image={IMAGE}", "--command", "--", *SLEEP)
        other.kubectl()("wait", "--for=condition=Ready", "pod/box", "--timeout=60s", timeout=70)
        assert "is gone" in other.sampan("down").stdout
    finally:
        other.sampan("down", "--dir", str(tmp_path / "disks"))
    assert remains(other.name) == []
    assert "there is no lab" in other.sampan("down").stdout
    assert lab.kubectl()("get", "--raw", "/readyz") == "ok"


STUB = """
set -e
mount --bind {folder}/stub /etc/resolv.conf
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir /run/systemd/resolve
echo nameserver 192.0.2.77 > /run/systemd/resolve/resolv.conf
trap "{sampan} lab down --name {name} --dir {folder}/disks" EXIT
{sampan} lab up --name {name} --nodes 1 --dir {folder}/disks
{sampan} lab exec --name {name} master -- cat /etc/resolv.conf
cat /proc/$(cat /run/sampan-lab/{name}/master/docker-engine.pid)/root/etc/resolv.conf
export KUBECONFIG={folder}/disks/kubeconfig
{python} -m tests.support.lab box --name {name}
kubectl create -f {folder}/pod.json
kubectl wait --for=condition=Ready pod/box --timeout=90s
kubectl exec box -- df /memory
"""


def test_where_the_machines_resolver_is_on_loopback_hosts_ask_the_servers_behind_it(
        lab: LabHandle, tmp_path: Path) -> None:
    """As with systemd-resolved, played in a mount namespace: engines, agents and containers see the same mounts."""
    name = f"{lab.name}c"
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "pod.json").write_text(json.dumps(pod(
        "box", volumes=[{"name": "memory", "emptyDir": {"medium": "Memory"}}],
        app={"volumeMounts": [{"name": "memory", "mountPath": "/memory"}]})))
    script = STUB.format(folder=tmp_path, sampan=SAMPAN, python=sys.executable, name=name)
    done = subprocess.run(["unshare", "--mount", "--propagation", "shared", "sh", "-c", script], capture_output=True,
                          text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nameserver 192.0.2.77") == 2
    assert "tmpfs" in done.stdout.partition("pod/box condition met")[2]
    assert remains(name) == []


def interrupt(lab: LabHandle, folder: Path, line: str) -> None:
    """Begin to bring a lab of one node up, and kill the command once it has printed a line."""
    command = [SAMPAN, "lab", "up", "--name", lab.name, "--nodes", "1", "--dir", str(folder / "disks")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        seen = []
        for printed in process.stdout:
            seen.append(printed)
            if line in printed:
                break
        process.kill()
        assert line in seen[-1], seen


def interrupt_down(lab: LabHandle, folder: Path) -> None:
    """Begin to take a lab away, and kill the command when the switch is gone."""
    switch = Path(f"/run/netns/sampan-{lab.name}-switch")
    command = [SAMPAN, "lab", "down", "--name", lab.name, "--dir", str(folder / "disks")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while switch.exists():
            assert process.poll() is None or not switch.exists()
        process.kill()


def deployment(name: str, replicas: int) -> Json:
    """Pods that sleep."""
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": pod("x")["spec"]}}}


@contextlib.contextmanager
def serving(node: LabNode, ip: str, text: bytes) -> Iterator[int]:
    """A web server on a host that answers with a text."""
    script = ("import http.server, sys\n"
              "class Answer(http.server.BaseHTTPRequestHandler):\n"
              "    def do_GET(self):\n"
              "        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[2].encode())\n"
              "server = http.server.HTTPServer((sys.argv[1], 0), Answer)\n"
              "print(server.server_port, flush=True)\n"
              "server.serve_forever()\n")
    with subprocess.Popen([*node.enter, sys.executable, "-c", script, ip, text.decode()], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def listening(ip: str) -> Iterator[int]:
    """A socket of this machine that greets whoever connects first."""
    with socket.create_server((ip, 0)) as server:
        server.settimeout(60)

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"hi")

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
        thread.join(timeout=60)


def fetch(url: str) -> bytes:
    """What this machine gets from there."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content
