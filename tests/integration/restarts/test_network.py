"""What others delete of the pods' network comes back."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.cluster import NODE, NODE_IP, ClusterHandle, links
from tests.support.space import Space, box, is_ready, patience, restarts

pytestmark = [pytest.mark.docker, pytest.mark.net, pytest.mark.kubectl, pytest.mark.usefixtures("others")]

PORT = 18090


@pytest.fixture
def pair(space: Space) -> Iterator[tuple[str, str]]:
    """Two pods: "one" is reached on the node's port PORT; returns their addresses. They must not be restarted."""
    serve = "while :; do echo hello | nc -l -p 8080; done & trap 'exit 0' TERM; wait"
    space.pod("one", containers=[box("app", ["sh", "-c", serve], ports=[{"containerPort": 8080, "hostPort": PORT}])])
    space.pod("two")
    one, two = (seen["status"]["podIP"] for seen in space.ready("one", "two"))
    works(space, one, two)
    yield one, two
    works(space, one, two)
    assert all(restarts(seen) == 0 for seen in space.ready("one", "two"))


def works(space: Space, one: str, two: str) -> None:
    """Pods reach each other and the node; the node reaches them, and the one behind its port."""
    space.reaches("one", two)
    space.reaches("two", one)
    space.reaches("two", NODE_IP)
    patience("the host's port answers", lambda: "hello" in space.cluster.run(
        "sh", "-c", f"busybox nc -w 2 {NODE_IP} {PORT} </dev/null", check=False).stdout)


def rules(cluster: ClusterHandle) -> list[str]:
    """Ours, in order."""
    return [line for line in cluster.run("iptables-save").stdout.splitlines() if re.search("SAMPAN", line)]


DNS_SERVER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
    taken.bind(("0.0.0.0", 53))
    print("up", flush=True)
    input()
"""


def test_a_dns_server_of_the_host_that_takes_every_address_is_told(cluster: ClusterHandle, space: Space) -> None:
    space.pod("one")
    space.ready("one")
    answers = cluster.log("agent").count("cluster DNS answers")
    cluster.crash("agent")
    with subprocess.Popen([*cluster.enter, sys.executable, "-c", DNS_SERVER], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "up\n"
            cluster.start()
            patience("the Node tells", lambda: re.search(
                r"Warning +FailedToStartClusterDNS .*cannot listen on 10\.244\.0\.1:53: Address already in use",
                space.kubectl("describe", "node", NODE)))
        finally:
            other.kill()
    patience("names are answered again", lambda: cluster.log("agent").count("cluster DNS answers") > answers)
    assert "10.96.0.1" in space.run("one", "nslookup", "kubernetes.default.svc.cluster.local")


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("damage", [
    "ip link delete sampan0",
    "ip link set sampan0 down",
    "ip addr flush dev sampan0",
    # What follows is found at the next look at the whole, within half a minute.
    "iptables -w -F SAMPAN-FORWARD; iptables -w -t nat -F SAMPAN-HOSTPORTS; sysctl -w net.ipv4.ip_forward=0",
    ("iptables -w -D FORWARD -m comment --comment sampan -j SAMPAN-FORWARD; iptables -w -t nat -D PREROUTING "
     "-m addrtype --dst-type LOCAL -m comment --comment sampan -j SAMPAN-HOSTPORTS"),
    "iptables-save | grep -v SAMPAN | iptables-restore",
    "for link in $(ip -o link | grep -o 'smp[0-9a-f]\\{12\\}'); do ip link delete $link; done",
])
def test_damage_is_repaired(cluster: ClusterHandle, damage: str) -> None:
    before = rules(cluster)
    cluster.run("sh", "-c", damage)
    patience("the rules are as before", lambda: sorted(rules(cluster)) == sorted(before))
    patience("the bridge is as before", lambda: all(word in cluster.run(
        "ip", "addr", "show", "sampan0", check=False).stdout for word in (",UP", "10.244.0.1/24")))
    patience("packets are forwarded",
             lambda: cluster.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "1\n")


def test_a_pods_link_is_deleted(cluster: ClusterHandle, space: Space) -> None:
    """A veth pair cannot be put back unseen by the pod, but the pod must get a network again."""
    space.pod("one")
    space.pod("two")
    space.ready("one", "two")
    cluster.run("ip", "link", "delete", f"smp{space.box('one', 'POD')['Id'][:12]}")
    patience("the link is back", lambda: any(f"smp{infra['Id'][:12]}" in links(cluster)
                                             for infra in space.boxes("one", "POD")))
    seen = space.until("one", "works again", is_ready)
    space.reaches("two", seen["status"]["podIP"])
    space.reaches("one", NODE_IP)
