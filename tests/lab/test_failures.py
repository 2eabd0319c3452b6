"""Hosts fail as hosts do: the power goes, a cable is cut, agents crash in the middle of their work."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.lab import LabHandle, LabSpace, boxes_on, ready_nodes
from tests.support.space import box, is_ready, patience, pod
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

LOST_SECONDS = 120
"""A silent node counts as lost after 40 s; the rest is for a busy machine."""
PODS = 200
BATCH = 25
KILLS = 12


@pytest.fixture(autouse=True)
def whole(lab: LabHandle) -> Iterator[None]:
    """Whatever a test has done to the lab is undone."""
    lab.until_ready()
    yield
    lab.heal()
    for name in lab.nodes:
        lab.start(name)
    lab.until_ready()


def web(replicas: int, **spec: object) -> Json:
    """A Deployment of pods that leave a lost node after two seconds."""
    labels = {"app": "web"}
    patience_of_two = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
                       for key in ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")]
    template = pod("x", tolerations=patience_of_two, terminationGracePeriodSeconds=1, **spec)["spec"]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": template}}}


def on(node: str) -> Callable[[Json], bool]:
    """Whether a pod is bound to a node."""
    return lambda seen: bool(seen["spec"].get("nodeName") == node)


def until_lost(lab: LabHandle, node: str) -> None:
    """Wait until the master has noticed."""
    kubectl = lab.kubectl()
    kubectl("wait", "--for=condition=Ready=Unknown", f"node/{node}", f"--timeout={LOST_SECONDS}s",
            timeout=LOST_SECONDS + 10)


def test_the_pods_of_a_host_without_power_are_replaced_and_it_cleans_up_when_it_is_back(
        lab: LabHandle, space: LabSpace) -> None:
    memory = {"app": {"volumeMounts": [{"name": "memory", "mountPath": "/memory"}]},
              "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}]}
    space.create(web(4, **memory))
    before = space.pods.until("four are ready", lambda pods: len(pods) == 4 and all(map(is_ready, pods.values())))
    lost = {name for name, seen in before.items() if on("node2")(seen)}
    assert 0 < len(lost) < 4
    lab.kill("node2")
    until_lost(lab, "node2")

    def replaced(pods: dict[str, Json]) -> bool:
        ready = [name for name, seen in pods.items() if is_ready(seen)]
        return len(ready) == 4 and all(on("node1")(pods[name]) for name in ready)

    space.pods.until("four are ready on the other host", replaced)
    assert lost <= set(space.pods.objects)  # nobody has said yet that they have ended
    assert all("deletionTimestamp" in space.pods.objects[name]["metadata"] for name in lost)
    stayed = {name: seen["metadata"]["uid"] for name, seen in before.items() if name not in lost}
    lab.start("node2")
    lab.until_ready("node2")
    space.pods.until("the lost ones are gone", lambda pods: not lost & set(pods))
    for name in lost:
        patience(f"{name} has left node2", lambda name=name: not boxes_on(  # type: ignore[misc]
            lab, "node2", space.name, name, "", every=True))
    for name, uid in stayed.items():
        assert space.pods.objects[name]["metadata"]["uid"] == uid
        assert space.pods.objects[name]["status"]["containerStatuses"][0]["restartCount"] == 0
    space("scale", "deployment/web", "--replicas=6")
    space.pods.until("the host takes pods again", lambda pods: sum(
        is_ready(seen) for seen in pods.values() if on("node2")(seen)) >= 1)


def test_a_host_that_is_cut_off_keeps_its_pods_and_follows_once_the_cable_is_mended(
        lab: LabHandle, space: LabSpace) -> None:
    stay = [{"operator": "Exists", "effect": "NoExecute"}]
    crash = ["sh", "-c", "trap 'exit 0' TERM; echo begun >> /keep/marks; sleep 1000 & wait"]
    disk = {"volumes": [{"name": "keep", "emptyDir": {}}]}
    mounted = {"volumeMounts": [{"name": "keep", "mountPath": "/keep"}]}
    for name in ("stays", "goes", "crashes"):
        space.create(pod(name, nodeName="node1", tolerations=stay, containers=[box("app", crash, **mounted)], **disk))
    space.ready("stays", "goes", "crashes")
    before = {name: space.box(name)["Id"] for name in ("stays", "goes", "crashes")}
    lab.partition("node1")
    try:
        space("delete", "pod", "goes", "--wait=false")
        space.pod("comes", nodeName="node1", tolerations=stay)
        lab.docker("node1", "kill", before["crashes"])
        until_lost(lab, "node1")
        space.until("stays", "is not ready in the master's eyes", lambda seen: not is_ready(seen))
        assert set(ready_nodes(lab.kubectl())) == {"master", "node2"}
        for name in ("stays", "goes"):
            assert space.box(name)["Id"] == before[name]
            assert space.box(name)["State"]["Running"]
        # Its agent goes on without the master, also if it is started anew, and restarts what has crashed.
        lab.restart("node1", "agent", kill=True)
        patience("the crashed container runs again", lambda: (found := space.boxes("crashes"))
                 and found[0]["Id"] != before["crashes"])
        assert space.pods.objects["goes"]["metadata"]["deletionTimestamp"]
    finally:
        lab.heal()
    lab.until_ready("node1")
    space.gone("goes")
    space.ready("comes", "stays", "crashes")
    assert space.box("stays")["Id"] == before["stays"]
    assert space.pods.objects["stays"]["status"]["containerStatuses"][0]["restartCount"] == 0
    space.until("crashes", "has told of the restart", lambda seen: seen["status"]["containerStatuses"][0][
        "restartCount"] == 1)
    assert space.run("crashes", "cat", "/keep/marks").split() == ["begun", "begun"]


def test_the_masters_host_loses_its_power_and_nothing_of_the_cluster(lab: LabHandle, space: LabSpace) -> None:
    space.create(web(3))
    before = space.pods.until("three are ready", lambda pods: len(pods) == 3 and all(map(is_ready, pods.values())))
    boxes = {name: space.box(name)["Id"] for name in before}
    space("create", "configmap", "written-last", "--from-literal=a=b")
    lab.kill("master")
    assert lab.kubectl().run("get", "nodes", "--request-timeout=2s").code != 0
    lab.docker("node1", "ps")
    lab.start("master")
    assert space("get", "configmap", "written-last", "-o", "jsonpath={.data.a}") == "b"
    lab.until_ready()
    space("scale", "deployment/web", "--replicas=4")
    after = space.pods.until("a fourth is ready", lambda pods: len(pods) == 4 and all(map(is_ready, pods.values())))
    for name, seen in before.items():
        assert after[name]["metadata"]["uid"] == seen["metadata"]["uid"]
        assert space.box(name)["Id"] == boxes[name]


def some_pod(number: int, rng: random.Random) -> Json:
    """A pod of one of several kinds, for any host, so that kills meet all steps."""
    extra: dict[str, object] = {"tolerations": [{"operator": "Exists"}]}
    app: dict[str, object] = {}
    if number % 4 == 0:
        app["volumeMounts"] = [{"name": "memory", "mountPath": "/memory"}]
        extra["volumes"] = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    if number % 5 == 0:
        app["ports"] = [{"containerPort": 80, "hostPort": 19000 + number}]
    return pod(f"p{number}", terminationGracePeriodSeconds=rng.choice([0, 1, 3]), app=app, **extra)


@pytest.mark.timeout(600)  # of the machine's work, not of ours: four hundred containers on three engines
def test_two_hundred_pods_come_and_go_on_all_hosts_while_agents_are_killed(lab: LabHandle, space: LabSpace) -> None:
    """That no address, veth, rule, container, cgroup, mount or directory is left, `space` sees to at the end."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # shown where the test fails
    rng, moments = random.Random(seed), random.Random(seed + 1)
    over = threading.Event()
    killed: list[str] = []

    def kill() -> None:
        names = sorted(lab.nodes)
        while not over.wait(moments.uniform(0.5, 4)):
            killed.append(moments.choice(names))
            lab.restart(killed[-1], "agent", kill=True)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for first in range(0, PODS, BATCH):
            numbers = range(first, first + BATCH)
            space.create(*(some_pod(number, rng) for number in numbers))
            going = [f"p{number}" for number in numbers if number % BATCH not in (0, 12)]
            early, late = going[:8], going[8:]
            time.sleep(rng.uniform(0, 1))  # the moment of the deletion is what is varied here
            space("delete", "pod", "--wait=false", *early)
            space.pods.until("some of them run", lambda pods, late=late: sum(  # type: ignore[misc]
                is_ready(pods[name]) for name in late) >= len(late) // 2, 120)
            space("delete", "pod", "--wait=false", *late)
        patience("enough agents were killed, those of all hosts",
                 lambda: len(killed) >= KILLS and set(killed) == set(lab.hosts), 120)
    finally:
        over.set()
        killer.join()
    staying = {f"p{number}" for number in range(PODS) if number % BATCH in (0, 12)}
    space.pods.until("only those that stay are there", lambda pods: set(pods) == staying, 120)
    pods = space.pods.until("all are ready", lambda pods: all(map(is_ready, pods.values())), 120)
    addresses = [seen["status"]["podIP"] for seen in pods.values()]
    assert len(set(addresses)) == len(staying), "two pods have one address"
    for name in sorted(staying):
        assert len(space.boxes(name)) == 1
        assert len(space.boxes(name, "POD")) == 1
    first_pod, *others = sorted(staying)
    for name in others:
        space.reaches(first_pod, pods[name]["status"]["podIP"])
