"""What the master makes of nodes: taints and evictions, addresses, collected pods, load balancers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from tests.support.lab import LabHandle, LabSpace
from tests.support.space import condition, is_ready, patience, pod
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

NOT_READY = "node.kubernetes.io/not-ready"
TRACE = "example.com/trouble"


@pytest.fixture(autouse=True)
def whole(lab: LabHandle) -> Iterator[None]:
    """Whatever a test has done to the lab is undone."""
    lab.until_ready()
    yield
    for name in lab.nodes:
        lab.start(name)
    lab.kubectl().run("taint", "nodes", "--all", f"{TRACE}-")
    lab.until_ready()


def tolerating(key: str, seconds: int | None = None) -> list[Json]:
    return [{"key": key, "operator": "Exists", "effect": "NoExecute",
             **({} if seconds is None else {"tolerationSeconds": seconds})}]


def taints(lab: LabHandle, node: str) -> set[tuple[str, str]]:
    return {(taint["key"], taint["effect"])
            for taint in lab.kubectl().json("get", "node", node)["spec"].get("taints", ())}


def node_events(lab: LabHandle, node: str) -> set[tuple[str, str]]:
    """Reason and component of what was told of a node."""
    found = lab.kubectl().json("get", "events", "-n", "default", "--field-selector",
                               f"involvedObject.kind=Node,involvedObject.name={node}")
    return {(event["reason"], event["source"]["component"]) for event in found["items"]}


def test_a_taint_evicts_whom_it_should(lab: LabHandle, space: LabSpace) -> None:
    space.pod("brittle", nodeName="node1")
    space.pod("patient", nodeName="node1", tolerations=tolerating(TRACE, 5))
    space.pod("relieved", nodeName="node1", tolerations=tolerating(TRACE, 600))
    space.pod("tough", nodeName="node1", tolerations=tolerating(TRACE))
    space.pod("elsewhere", nodeName="node2")
    names = ("brittle", "patient", "relieved", "tough", "elsewhere")
    for seen in space.ready(*names):
        added = {item["key"]: item["tolerationSeconds"] for item in seen["spec"]["tolerations"]
                 if item["key"] != TRACE}
        assert added == {NOT_READY: 300, "node.kubernetes.io/unreachable": 300}
    lab.kubectl()("taint", "node", "node1", f"{TRACE}:NoExecute")
    target = space.pods.until("brittle is told to go", lambda pods: "brittle" not in pods or condition(
        pods["brittle"], "DisruptionTarget"))
    if "brittle" in target:
        reasons = {item["type"]: item.get("reason") for item in target["brittle"]["status"]["conditions"]}
        assert reasons["DisruptionTarget"] == "DeletionByTaintManager"
    space.gone("brittle", "patient")
    space.told("TaintManagerEviction", "brittle", f"Marking for deletion Pod {space.name}/brittle")
    lab.kubectl()("taint", "node", "node1", f"{TRACE}:NoExecute-")
    space.told("TaintManagerEviction", "relieved", f"Cancelling deletion of Pod {space.name}/relieved")
    assert set(space.pods.objects) == {"relieved", "tough", "elsewhere"}
    assert all(is_ready(seen) for seen in space.pods.objects.values())


def test_a_node_whose_engine_is_down_loses_its_pods_and_its_share_of_the_load(lab: LabHandle,
                                                                              space: LabSpace) -> None:
    labels = {"app": "web"}
    space.pod("leaves", nodeName="node2", labels=labels, tolerations=tolerating(NOT_READY, 2))
    space.pod("stays", nodeName="node2", labels=labels, tolerations=tolerating(NOT_READY))
    space.pod("well", nodeName="node1", labels=labels)
    for port, name, policy in ((8080, "everywhere", "Cluster"), (8081, "local", "Local"), (8080, "late", "Cluster")):
        space.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": labels, "ports": [{"port": port}]}})
    space.ready("leaves", "stays", "well")
    ips = {name: node.ip for name, node in lab.nodes.items()}

    def addresses(service: str) -> set[str]:
        balancer = json.loads(space("get", "service", service, "-o", "json"))["status"]["loadBalancer"]
        return {item["ip"] for item in balancer.get("ingress", ())}

    del ips["master"]  # as kubeadm has it, a control plane's node is labelled to carry nobody's load
    patience("every node carries", lambda: addresses("everywhere") == set(ips.values()))
    assert not addresses("late"), "its port is taken"
    patience("nodes with endpoints carry", lambda: addresses("local") == {ips["node1"], ips["node2"]})
    lab.stop("node2", "docker")
    patience("tainted", lambda: taints(lab, "node2") == {(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")})
    space.until("stays", "is not ready in the master's eyes", lambda seen: condition(seen, "Ready") == "False")
    space.pods.until("the other is told to go", lambda pods: "leaves" not in pods
                     or "deletionTimestamp" in pods["leaves"]["metadata"], 60)
    patience("only ready nodes carry", lambda: addresses("everywhere") == {ips["node1"]})
    patience("only nodes with ready endpoints carry", lambda: addresses("local") == {ips["node1"]})
    lab.start("node2", "docker")
    patience("the taints go", lambda: not taints(lab, "node2"))
    space.gone("leaves")
    space.ready("stays")
    patience("it carries again", lambda: addresses("local") == {ips["node1"], ips["node2"]})
    wanted = {("Starting", "kubelet"), ("NodeHasSufficientMemory", "kubelet"), ("NodeNotReady", "kubelet"),
              ("NodeReady", "kubelet"), ("RegisteredNode", "node-controller")}
    patience("all of it is told", lambda: wanted <= node_events(lab, "node2"))


def test_a_node_that_is_deleted_gives_back_its_range_and_takes_its_pods_along(lab: LabHandle, space: LabSpace) -> None:
    kubectl, name = lab.kubectl(), f"ghost-{secrets.token_hex(3)}"
    manifest = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    def made() -> str:
        kubectl("create", "-f", "-", stdin=manifest)
        patience("it has a range", lambda: kubectl.json("get", "node", name)["spec"].get("podCIDR"))
        return str(kubectl.json("get", "node", name)["spec"]["podCIDR"])

    ranges = {item["metadata"]["name"]: item["spec"]["podCIDR"] for item in kubectl.json("get", "nodes")["items"]}
    assert len(set(ranges.values())) == len(ranges) >= 3
    try:
        given = made()
        assert given not in ranges.values()
        assert (NOT_READY, "NoSchedule") in taints(lab, name)
        space.create(pod("orphan", nodeName=name))
        kubectl("delete", "node", name)
        assert made() == given, "a range that is free again is given to the next"
    finally:
        kubectl.run("delete", "node", name)
    space.gone("orphan", seconds=120)
    patience("its end is told", lambda: ("RemovingNode", "node-controller") in node_events(lab, name))
