"""The master is killed, is away, comes back: pods run on, and it learns what happened meanwhile."""

from __future__ import annotations

import signal

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.space import Space, condition, is_ready, patience, restarts, state

pytestmark = [pytest.mark.docker, pytest.mark.kubectl, pytest.mark.usefixtures("others")]


def deployment(name: str, replicas: int) -> dict[str, object]:
    """A Deployment of sleeping pods."""
    from tests.support.space import pod

    template = pod("", labels={"app": name})
    template["metadata"].pop("name")
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": template["metadata"], "spec": template["spec"]}}}


def ids(space: Space) -> dict[str, str]:
    """Each pod's container."""
    return {name: state(pod)["containerID"] for name, pod in space.pods.objects.items()}


def two_of_web(space: Space) -> dict[str, str]:
    """A Deployment, rolled out; the containers of its two pods."""
    space.create(deployment("web", 2))
    space("rollout", "status", "deployment/web", "--timeout=120s")
    space.pods.until("we know of it", lambda pods: len(pods) == 2 and all(map(is_ready, pods.values())))
    return ids(space)


def test_killed_and_started_again(cluster: ClusterHandle, space: Space) -> None:
    before = two_of_web(space)
    greeted = cluster.log("agent").count("connected to the master")
    watching = space.kubectl.popen("-n", space.name, "get", "pods", "-w")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("NAME")
    cluster.kill("master")
    watching.communicate(timeout=60)  # kubectl's own watch ends with its connection
    cluster.start()
    patience("the agent is connected again", lambda: cluster.log("agent").count("connected to the master") > greeted)
    assert len(space("get", "pods", "-l", "app=web", "-o", "name").split()) == 2
    space("scale", "deployment/web", "--replicas=3")
    space.pods.until("three are ready", lambda pods: len([pod for pod in pods.values() if is_ready(pod)]) == 3)
    after = ids(space)
    assert before.items() <= after.items()
    assert all(restarts(pod) == 0 for pod in space.pods.objects.values())
    assert space.run(next(iter(before)), "echo", "hello") == "hello\n"


def test_exec_and_logs_work_as_soon_as_it_answers(cluster: ClusterHandle, space: Space) -> None:
    """Whoever comes before the agent's line is back waits for it, and is not refused."""
    space.pod("one", ["sh", "-c", "echo begun; trap 'exit 0' TERM; sleep 100000 & wait"])
    space.ready("one")
    for _ in range(3):
        cluster.crash("master")
        cluster.start()
        assert space.run("one", "echo", "hello") == "hello\n"
        assert space("logs", "one") == "begun\n"


def test_asked_to_end_and_started_again(cluster: ClusterHandle, space: Space) -> None:
    space.pod("one")
    before = state(space.ready("one")[0])
    cluster.kill("master", signal.SIGTERM)
    cluster.start()
    space.pod("two")
    space.ready("two")
    assert state(space.ready("one")[0]) == before


def test_what_happened_while_it_was_away(cluster: ClusterHandle, space: Space) -> None:
    space.pod("crashes")
    space.pod("ends", restartPolicy="Never")
    space.pod("goes")
    space.ready("crashes", "ends", "goes")
    space("delete", "pod", "goes", "--wait=false")
    cluster.crash("master")
    old = {name: space.box(name)["Id"] for name in ("crashes", "ends")}
    for one in old.values():
        cluster.docker("kill", "--signal", "TERM", one)
    patience("the agent restarts a container by itself",
             lambda: [box for box in space.boxes("crashes") if box["Id"] != old["crashes"]])
    cluster.start()
    seen = space.until("crashes", "is told to have been restarted", lambda pod: is_ready(pod) and restarts(pod) == 1)
    assert state(seen)["containerID"] == f"docker://{space.box('crashes')['Id']}"
    space.phase("ends", "Succeeded")
    space.gone("goes")
    counts = space.events.until("both starts are told", lambda events: sum(
        event.get("count", 1) for event in events.values()
        if event["reason"] == "Started" and event["involvedObject"]["name"] == "crashes") == 2)
    assert counts
    node = space.kubectl.json("get", "nodes")["items"][0]
    assert condition(node, "Ready") == "True"


def test_both_killed(cluster: ClusterHandle, space: Space) -> None:
    before = two_of_web(space)
    cluster.crash("master", "agent")
    assert all(space.boxes(name) for name in before)
    cluster.start()
    space.pods.until("all are ready", lambda pods: all(map(is_ready, pods.values())))
    space("rollout", "restart", "deployment/web")
    space("rollout", "status", "deployment/web", "--timeout=120s")
    space.gone(*before)


def test_the_agent_comes_back_first(cluster: ClusterHandle, space: Space) -> None:
    """The agent begins without a master: it has its checkpoint, and restarts what ends."""
    space.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"key": "open"}})
    space.pod("one", ["sh", "-c", "cat /keys/key; env | grep KEY; trap 'exit 0' TERM; sleep 100000 & wait"], app={
        "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}],
        "volumeMounts": [{"name": "keys", "mountPath": "/keys"}]},
        volumes=[{"name": "keys", "secret": {"secretName": "keys"}}])
    uid = space.ready("one")[0]["metadata"]["uid"]
    checkpoint = cluster.directory / "data/agent/checkpoint.json"
    patience("the pod is in the checkpoint", lambda: uid in checkpoint.read_text())
    cluster.crash("master", "agent")
    before = space.box("one")["Id"]
    cluster.docker("kill", before)
    cluster.start_agent()
    patience("another container runs", lambda: [box for box in space.boxes("one") if box["Id"] != before])
    again = space.box("one")["Id"]
    patience("it has the key", lambda: "openKEY=open" in cluster.docker("logs", again))
    cluster.start()
    seen = space.until("one", "is told to have been restarted", lambda pod: is_ready(pod) and restarts(pod) == 1)
    assert seen["metadata"]["uid"] == uid
