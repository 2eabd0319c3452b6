"""A node as users have it: systemd is PID 1, cgroup v2, Docker with the systemd driver. One machine, one story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.space import Json, Space, is_ready, patience, restarts, state
from tests.support.vm import Vm
from tests.support.vm_cluster import ADDRESS, VmCluster, one_node

pytestmark = [pytest.mark.vm, pytest.mark.kubectl, pytest.mark.timeout(600)]

SECONDS = 150.0
"""Under software emulation a container takes five seconds to start, a process one."""
LIMITED = {"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "48Mi"}}

SCTP_SERVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
server.bind(("", 8080))
server.listen()
while True:
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
    connection.close()
"""
SCTP_CLIENT = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
client.settimeout(60)
client.connect((sys.argv[1], int(sys.argv[2])))
print(client.recv(100).decode())
"""


@dataclass
class Node:
    """The machine, the cluster on it, and the namespace with the pods that live through the story."""

    cluster: VmCluster
    space: Space

    @property
    def vm(self) -> Vm:
        return self.cluster.vm

    def pods(self) -> dict[str, Json]:
        """As they are now, asked afresh: the machine may have been away."""
        return {pod["metadata"]["name"]: pod
                for pod in self.space.kubectl.json("get", "pods", "-n", self.space.name)["items"]}

    def slice(self, name: str) -> str:
        """A pod's cgroup."""
        pod = self.space.pods.objects[name]
        uid = pod["metadata"]["uid"].replace("-", "_")
        qos = pod["status"]["qosClass"].lower()
        return f"/sys/fs/cgroup/kubepods.slice/kubepods-{qos}.slice/kubepods-{qos}-pod{uid}.slice"

    def limits(self) -> dict[str, str]:
        """The limited pod's settings: of the pod, and of its container."""
        files = ("memory.max", "cpu.max", "cpu.weight", "pids.max")
        folder = self.slice("limited")
        box = self.cluster.docker("ps", "-q", "--no-trunc", "--filter", "label=io.kubernetes.pod.name=limited",
                                  "--filter", "label=io.kubernetes.container.name=app").strip()
        read = "; ".join(f"echo $(cat {where}/{file})" for where in (folder, f"{folder}/docker-{box}.scope")
                         for file in files)
        values = self.vm.run(read).out.splitlines()
        return dict(zip([f"{where} {file}" for where in ("pod", "container") for file in files], values, strict=True))

    def enter(self, name: str) -> str:
        """The command that enters a pod's network."""
        return f"nsenter --net=/proc/{self.space.box(name)['State']['Pid']}/ns/net"


@pytest.fixture(scope="module")
def node(installed: tuple[Path, Path]) -> Iterator[Node]:
    with one_node(*installed) as (cluster, space):
        yield Node(cluster, space)


def test_up_as_systemd_units(node: Node) -> None:
    assert node.vm.run("systemctl is-active sampan-master sampan-agent").out == "active\nactive\n"
    assert node.vm.run("systemctl is-enabled sampan-master sampan-agent").out == "enabled\nenabled\n"
    again = node.vm.run("sampan up --node-name vm-1").out
    assert "is running" in again
    shown = node.space.kubectl.json("get", "node", "vm-1")
    assert {entry["type"]: entry["status"] for entry in shown["status"]["conditions"]}["Ready"] == "True"
    assert {"type": "InternalIP", "address": ADDRESS} in shown["status"]["addresses"]


def test_limits_are_in_systemd_s_slices(node: Node) -> None:
    """They hold when systemd reads its configuration again, which resets what was written to the files alone."""
    node.space.pod("limited", app={"resources": LIMITED})
    node.space.pod("plain")
    node.space.ready("limited", "plain", seconds=SECONDS)
    found = node.limits()
    assert found["pod memory.max"] == found["container memory.max"] == str(48 << 20)
    assert found["pod cpu.max"] == found["container cpu.max"] == "50000 100000"
    assert found["pod cpu.weight"] == "4"
    assert node.vm.run("cat /sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/cpu.weight").out == "1\n"
    node.vm.run("systemctl daemon-reload")
    assert node.limits() == found
    node.space.reaches("plain", node.space.pods.objects["limited"]["status"]["podIP"], SECONDS)


def test_services_carry_sctp(node: Node) -> None:
    """Here, since the machine's kernel knows SCTP."""
    node.space("label", "pod", "plain", "speaks=sctp")
    node.space.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sctp"}, "spec": {
        "type": "NodePort", "selector": {"speaks": "sctp"},
        "ports": [{"protocol": "SCTP", "port": 9999, "targetPort": 8080}]}})
    for name, program in (("server", SCTP_SERVER), ("client", SCTP_CLIENT)):
        node.vm.run(f"cat > /root/sctp_{name}.py <<'END'\n{program}\nEND")
    node.vm.run(f"systemd-run --unit=sctp-server {node.enter('plain')} python3 /root/sctp_server.py")
    try:
        spec = node.space.kubectl.json("get", "service", "sctp", "-n", node.space.name)["spec"]
        ask = "python3 /root/sctp_client.py"
        assert node.cluster.until(f"{ask} {spec['clusterIP']} 9999") == "10.244.0.1\n"
        assert node.vm.run(f"{ask} {ADDRESS} {spec['ports'][0]['nodePort']}").out == "10.244.0.1\n"
        limited = node.space.pods.objects["limited"]["status"]["podIP"]
        assert node.vm.run(f"{node.enter('limited')} {ask} {spec['clusterIP']} 9999").out == f"{limited}\n"
    finally:
        node.vm.run("systemctl stop sctp-server")


def test_restarts_of_the_units_touch_no_container(node: Node) -> None:
    before, limits = {name: state(pod) for name, pod in node.pods().items()}, node.limits()
    running = node.cluster.docker("ps", "-q")
    node.vm.run("systemctl restart sampan-agent", timeout=200)
    node.vm.run("systemctl restart sampan-master", timeout=200)
    patience("the agent is connected", lambda: node.space.run("plain", "echo", "yes", check=False) == "yes\n", SECONDS)
    node.space("annotate", "pod", "plain", "seen=yes")
    assert {name: state(pod) for name, pod in node.pods().items()} == before
    assert node.cluster.docker("ps", "-q") == running
    assert node.limits() == limits


def test_a_reboot_without_the_master(node: Node) -> None:
    """The agent has its checkpoint: the pods come back by themselves, and the master learns of it later."""
    before = node.pods()
    node.vm.run("systemctl disable sampan-master")
    node.vm.reboot()
    assert node.vm.run("systemctl is-active sampan-master", check=False).out == "inactive\n"
    node.cluster.until("test $(docker ps -q --filter label=io.kubernetes.container.name=app | wc -l) = 2", SECONDS)
    address = node.cluster.docker(
        "exec", node.cluster.docker("ps", "-q", "--filter", "label=io.kubernetes.pod.name=plain",
                                    "--filter", "label=io.kubernetes.container.name=app").strip(),
        "ip", "-4", "-o", "addr", "show", "eth0")
    assert "10.244.0." in address
    assert node.limits()["pod memory.max"] == str(48 << 20)
    # Packets were forwarded before Docker came, which else sets the policy to DROP (moby#50566).
    assert node.vm.run("iptables -S FORWARD | head -n 1").out == "-P FORWARD ACCEPT\n"
    node.vm.run("systemctl enable --now sampan-master", timeout=200)
    for name in ("limited", "plain"):
        seen = node.space.until(name, "runs again", lambda pod: is_ready(pod) and restarts(pod) == 1, SECONDS)
        assert seen["metadata"]["uid"] == before[name]["metadata"]["uid"]
        assert seen["status"]["podIP"] in node.cluster.docker("exec", node.space.box(name)["Id"], "ip", "addr")


def test_a_reboot(node: Node) -> None:
    node.vm.reboot()
    for name in ("limited", "plain"):
        node.space.until(name, "runs again", lambda pod: is_ready(pod) and restarts(pod) == 2, SECONDS)
    node.space.reaches("plain", node.space.pods.objects["limited"]["status"]["podIP"], SECONDS)


def test_a_deleted_pod_leaves_no_slice(node: Node) -> None:
    folder = node.slice("plain")
    assert node.vm.run(f"test -d {folder}", check=False).code == 0
    node.space("delete", "pod", "plain", timeout=SECONDS)
    node.cluster.until(f"test ! -e {folder}")
    name = Path(folder).name
    assert node.vm.run(f"systemctl list-units --all --no-legend {name}").out == ""


def test_down_leaves_nothing(node: Node) -> None:
    node.space.pods.close()
    node.vm.run("sampan down --purge", timeout=200)
    assert node.cluster.docker("ps", "-aq") == ""
    found = node.vm.run(
        "find /sys/fs/cgroup -name 'kubepods*'; systemctl list-units --all --no-legend 'kubepods*'; "
        "ip -o link | grep -e sampan -e smp; iptables-save | grep -i sampan; "
        "ls -d /etc/sampan /var/lib/sampan /run/sampan 2>/dev/null; mount | grep sampan", check=False).out
    assert found == ""
    assert node.vm.run("systemctl is-enabled sampan-master sampan-agent", check=False).out == "disabled\ndisabled\n"
