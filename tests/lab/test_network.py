"""Pods of three nodes and their network: VXLAN between hosts, what happens to it, and how it comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.lab import LabHandle, LabNode, LabSpace
from tests.support.space import patience, state
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

FLANNEL = "flannel.alpha.coreos.com/"
TOLERATE = [{"operator": "Exists"}]
SCRIPT = r"""
trap 'exit 0' TERM
mkdir -p /tmp/w/cgi-bin
printf '#!/bin/sh\necho "Content-Type: text/plain"; echo; echo "$REMOTE_ADDR"\n' > /tmp/w/cgi-bin/who
chmod +x /tmp/w/cgi-bin/who
busybox httpd -f -p 0.0.0.0:8080 -h /tmp/w & wait
"""
SERVE = ["sh", "-c", SCRIPT]
"""Answers every request for /cgi-bin/who with the address from which it came."""
LARGEST = 1450 - 28
"""Bytes of data in an ICMP packet that fills what VXLAN leaves of Ethernet's 1500."""


@pytest.fixture
def pods(lab: LabHandle, space: LabSpace) -> dict[str, str]:
    """A pod on each node, serving; its IP by the node's name."""
    serves = {"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}
    for node in lab.nodes:
        space.pod(f"on-{node}", SERVE, nodeName=node, tolerations=TOLERATE, app=serves)
    ready = space.ready(*(f"on-{node}" for node in lab.nodes), seconds=90)
    return {seen["spec"]["nodeName"]: seen["status"]["podIP"] for seen in ready}


def who_asks(space: LabSpace, source: str, address: str, port: int = 8080) -> str:
    """The address as which the server sees a pod that asks it; "" without an answer."""
    ask = (f"echo -e 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r' | busybox timeout 10 busybox nc -w 5 {address} {port}"
           " | busybox tail -n 1")
    return space.run(source, "sh", "-c", ask, check=False).strip()


def node_object(lab: LabHandle, name: str) -> Json:
    found: Json = lab.kubectl().json("get", "node", name)
    return found


def reaches_all(space: LabSpace, pods: dict[str, str]) -> None:
    for node in pods:
        for address in pods.values():
            space.reaches(f"on-{node}", address, 60)


def test_pods_of_three_nodes_speak_to_each_other_under_their_own_addresses(
        lab: LabHandle, space: LabSpace, pods: dict[str, str]) -> None:
    subnets = {name: node_object(lab, name)["spec"]["podCIDR"] for name in lab.nodes}
    assert len(set(subnets.values())) == 3
    for node, address in pods.items():
        assert address.rpartition(".")[0] == subnets[node].rpartition(".")[0]
    reaches_all(space, pods)
    for source, own in pods.items():
        for target, address in pods.items():
            assert who_asks(space, f"on-{source}", address) == own, f"{source} asks {target}"
    for source in pods:
        for address in pods.values():
            sent = space.run(f"on-{source}", "ping", "-c", "1", "-W", "5", "-s", str(LARGEST), address)
            assert "1 packets received" in sent


def test_nodes_reach_pods_and_pods_reach_nodes(lab: LabHandle, space: LabSpace, pods: dict[str, str]) -> None:
    for node in lab.nodes.values():
        for target, address in pods.items():
            seen = lab.exec(node.name, "curl", "-sf", "--max-time", "10", f"http://{address}:8080/cgi-bin/who").strip()
            own = node_object(lab, node.name)["spec"]["podCIDR"].rpartition(".")[0]
            assert seen == f"{own}.{1 if target == node.name else 0}"
            space.reaches(f"on-{target}", node.ip)
            # Bound to the node's own address, as a Service's connections from the node are.
            lab.exec(node.name, "curl", "-sf", "--max-time", "10", "--interface", node.ip,
                     f"http://{address}:8080/cgi-bin/who")


def test_nodes_say_how_they_are_reached(lab: LabHandle) -> None:
    for node in lab.nodes.values():
        said = node_object(lab, node.name)["metadata"]["annotations"]
        link = json.loads(lab.exec(node.name, "ip", "-j", "-d", "link", "show", "sampan.1"))[0]
        assert said[f"{FLANNEL}backend-type"] == "vxlan"
        assert json.loads(said[f"{FLANNEL}backend-data"]) == {"VNI": 1, "VtepMAC": link["address"]}
        assert said[f"{FLANNEL}public-ip"] == node.ip
        assert said[f"{FLANNEL}kube-subnet-manager"] == "true"
        assert (link["mtu"], link["linkinfo"]["info_data"]["port"]) == (1450, 8472)


def test_annotations_that_are_taken_away_come_back(lab: LabHandle) -> None:
    lab.kubectl()("annotate", "node", "node1", f"{FLANNEL}public-ip-")
    patience("the annotation", lambda: (
        f"{FLANNEL}public-ip" in node_object(lab, "node1")["metadata"]["annotations"]), 60)


@pytest.mark.parametrize("damage", [
    "ip link del sampan.1",
    "ip link del sampan0",
    "ip route flush proto 83",
    "ip neigh flush dev sampan.1 nud permanent",
    "iptables -t nat -F",
    "iptables -F",
])
def test_what_is_taken_away_by_hand_comes_back(lab: LabHandle, space: LabSpace, pods: dict[str, str],
                                               damage: str) -> None:
    lab.exec("node1", "iptables", "-P", "FORWARD", "DROP")
    before = routes(lab, "node1")
    lab.exec("node1", *damage.split())
    patience("the routes", lambda: routes(lab, "node1") == before)
    patience("pods reach each other", lambda: who_asks(space, "on-node1", pods["node2"]) == pods["node1"])
    patience("and back", lambda: who_asks(space, "on-node2", pods["node1"]) == pods["node2"])
    patience("and the world sees the node", lambda: (
        who_asks(space, "on-node1", "127.0.0.1") == "127.0.0.1"
        and "MASQUERADE" in lab.exec("node1", "iptables-save", "-t", "nat")), 60)


def routes(lab: LabHandle, node: str) -> list[str]:
    """Those to other nodes' pods, with what they need."""
    return sorted([*lab.exec(node, "ip", "route", "show", "proto", "83").splitlines(),
                   *lab.exec(node, "ip", "neigh", "show", "dev", "sampan.1", "nud", "permanent", check=False)
                   .splitlines(),
                   *lab.exec(node, "bridge", "fdb", "show", "dev", "sampan.1", check=False).splitlines()])


@pytest.fixture
def second_address(lab: LabHandle) -> Iterator[str]:
    """Another address of node2, in the same network."""
    node = lab.node("node2")
    address = f"{node.ip.rpartition('.')[0]}.212"
    lab.exec("node2", "ip", "addr", "add", f"{address}/24", "dev", "eth0")
    try:
        yield address
    finally:
        lab.exec("node2", "ip", "addr", "del", f"{address}/24", "dev", "eth0", check=False)
        lab.kubectl()("annotate", "node", "node2", f"{FLANNEL}public-ip-overwrite-")
        patience("the old address", lambda: node_behind(lab, "node2") == node.ip)


def node_behind(lab: LabHandle, name: str) -> str:
    """The address by which node1 reaches another node's VXLAN device."""
    mac = json.loads(node_object(lab, name)["metadata"]["annotations"][f"{FLANNEL}backend-data"])["VtepMAC"]
    entries = lab.exec("node1", "bridge", "fdb", "show", "dev", "sampan.1").splitlines()
    return next((line.split()[2] for line in entries if line.startswith(mac)), "")


def test_a_node_s_other_address_is_followed(lab: LabHandle, space: LabSpace, pods: dict[str, str],
                                            second_address: str) -> None:
    lab.kubectl()("annotate", "node", "node2", f"{FLANNEL}public-ip-overwrite={second_address}")
    patience("node1 follows", lambda: node_behind(lab, "node2") == second_address)
    assert who_asks(space, "on-node1", pods["node2"]) == pods["node1"]
    assert who_asks(space, "on-node2", pods["node1"]) == pods["node2"]


def test_host_ports_answer_on_their_node_from_everywhere(lab: LabHandle, space: LabSpace, pods: dict[str, str]) -> None:
    ports = [{"containerPort": 8080, "hostPort": 18080}]
    serves = {"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}
    space.pod("host-port", SERVE, nodeName="node1", app={"ports": ports, **serves})
    space.ready("host-port")
    host: LabNode = lab.node("node1")
    url = f"http://{host.ip}:18080/cgi-bin/who"
    for source in pods:
        assert who_asks(space, f"on-{source}", host.ip, 18080)
    for node in lab.nodes:
        seen = lab.exec(node, "curl", "-sf", "--max-time", "10", url).strip()
        assert seen == lab.node(node).ip or node == "node1"
    lab.exec("node1", "curl", "-sf", "--max-time", "10", "http://127.0.0.1:18080/cgi-bin/who")
    lab.exec("node1", "iptables", "-t", "nat", "-F", "SAMPAN-HOSTPORTS")
    patience("the port's rule", lambda: "18080" in lab.exec("node1", "iptables-save", "-t", "nat"))


def test_a_node_that_was_switched_off_and_on_is_found_again(lab: LabHandle, space: LabSpace,
                                                            pods: dict[str, str]) -> None:
    before = node_object(lab, "node2")["metadata"]["annotations"][f"{FLANNEL}backend-data"]
    first = state(space.ready("on-node2")[0])["containerID"]
    lab.kill("node2")
    lab.start("node2")
    seen = space.until("on-node2", "runs again", lambda pod: (
        state(pod).get("containerID", first) != first and state(pod)["ready"]), 120)
    again = seen["status"]["podIP"]
    assert node_object(lab, "node2")["metadata"]["annotations"][f"{FLANNEL}backend-data"] == before
    patience("node1 reaches it", lambda: who_asks(space, "on-node1", again) == pods["node1"], 90)
    patience("and it node1", lambda: who_asks(space, "on-node2", pods["node1"]) == again, 90)
