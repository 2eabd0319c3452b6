"""The agent is killed, is away, comes back: containers live on, and what was missed is made up for."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from agent.pods import labels
from tests.support.cluster import NODE, ClusterHandle, strays
from tests.support.space import Space, box, condition, is_ready, patience, restarts, state, terminated, waiting

pytestmark = [pytest.mark.docker, pytest.mark.kubectl, pytest.mark.usefixtures("others")]

SLOW_END = ["sh", "-c", "trap 'echo asked; sleep 4; echo ended; exit 0' TERM; sleep 100000 & wait"]
"""Takes four seconds to end."""


def lives(space: Space) -> dict[str, Any]:
    """Every container as users see it, by pod: ids, restart counts, start times, states; and the pods' addresses."""
    pods = space.kubectl.json("get", "pods", "-n", space.name)["items"]
    return {pod["metadata"]["name"]: (pod["status"]["podIP"], pod["status"]["startTime"], pod["status"]["phase"], [
        (status["name"], status["containerID"], status["restartCount"], status["ready"], status["state"])
        for key in ("initContainerStatuses", "containerStatuses") for status in pod["status"].get(key, ())])
        for pod in pods}


def engine_side(space: Space) -> list[tuple[str, int, str]]:
    """All containers of the namespace as the engine has them: id, process, start."""
    found = space.cluster.docker("ps", "-aq", "--no-trunc", "--filter",
                                 f"label=io.kubernetes.pod.namespace={space.name}").split()
    return sorted((one, *space.cluster.docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", one).split())
                  for one in found)  # type: ignore[misc]


def several(space: Space) -> tuple[str, ...]:
    """Pods of all sorts, up and settled: those that run, one that has ended, one that failed, one that backs off."""
    space.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}})
    space.pod("plain")
    space.pod("rich", app={
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}},
        "ports": [{"containerPort": 8080, "hostPort": 18080}],
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "memory", "mountPath": "/memory"},
                         {"name": "settings", "mountPath": "/settings"}]},
        initContainers=[box("init", ["true"])],
        volumes=[{"name": "scratch", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                 {"name": "settings", "configMap": {"name": "settings"}}])
    space.pod("done", ["true"], restartPolicy="Never")
    space.pod("failed", ["sh", "-c", "exit 3"], restartPolicy="Never")
    space.pod("host", hostNetwork=True)
    space.phase("done", "Succeeded")
    space.phase("failed", "Failed")
    space.ready("plain", "rich", "host")
    patience("what has ended has no sandbox any more", lambda: not space.boxes("done", "") + space.boxes("failed", ""))
    return "plain", "rich", "done", "failed", "host"


def test_exec_and_logs_wait_for_an_agent_that_is_restarted(cluster: ClusterHandle, space: Space) -> None:
    space.pod("one", ["sh", "-c", "echo begun; trap 'exit 0' TERM; sleep 100000 & wait"])
    space.ready("one")
    told = f'node "{NODE}" is disconnected'
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        before = cluster.log("master").count(told)
        cluster.kill("agent", how)
        patience("the master has noticed", lambda: cluster.log("master").count(told) > before)  # noqa: B023 - at once
        assert space.run("one", "echo", "hello") == "hello\n"
        assert space("logs", "one") == "begun\n"


def agent_again(cluster: ClusterHandle, kill: Any) -> None:
    """Have the agent end, and wait until another one is connected."""
    before = cluster.log("agent").count("connected to the master")
    kill()
    patience("the agent is back", lambda: cluster.log("agent").count("connected to the master") > before)


def test_killed_and_started_again(cluster: ClusterHandle, space: Space) -> None:
    names = several(space)
    before, boxes = lives(space), engine_side(space)
    assert set(before) == set(names)
    agent_again(cluster, lambda: cluster.kill("agent"))
    space.pod("later")  # when this one runs, the agent has looked at all others
    space.ready("later", "plain", "rich", "host")
    space("delete", "pod", "later")
    assert lives(space) == before
    assert engine_side(space) == boxes
    for name in ("plain", "rich", "host"):
        seen = [item for _, item in space.pods.history if item["metadata"]["name"] == name]
        begun = next(index for index, item in enumerate(seen) if is_ready(item))
        assert [item["status"] for item in seen[begun:] if not is_ready(item)] == [], f"{name} was not ready in between"
    space.reaches("plain", before["rich"][0])


def test_asked_to_end_and_started_again(cluster: ClusterHandle, space: Space) -> None:
    space.pod("one")
    space.ready("one")
    before, boxes = lives(space), engine_side(space)
    agent_again(cluster, lambda: cluster.kill("agent", signal.SIGTERM))
    space.pod("later")
    space.ready("later", "one")
    assert lives(space)["one"] == before["one"]
    assert set(boxes) <= set(engine_side(space))


def test_a_back_off_goes_on_where_it_was(cluster: ClusterHandle, space: Space) -> None:
    space.pod("crashing", ["false"])
    seen = space.until("crashing", "backs off after its second end",
                       lambda pod: waiting(pod) == "CrashLoopBackOff" and restarts(pod) == 1)
    ended = terminated(seen, last=True)["finishedAt"]
    agent_again(cluster, lambda: cluster.kill("agent"))
    seen = space.until("crashing", "was started again", lambda pod: restarts(pod) == 2)
    third = space.boxes("crashing", every=True)[0]
    delay = _seconds(third["State"]["StartedAt"]) - _seconds(ended)
    assert delay > 9.5, f"the back-off is 10 s then, not {delay:.1f} s"
    assert third["Config"]["Labels"][labels.BACKOFF] == "20", "counted on: the next one takes longer"


def test_down_while_pods_come_and_go(cluster: ClusterHandle, space: Space) -> None:
    space.pod("leaves")
    space.pod("forced")
    space.pod("stays")
    left = space.ready("leaves", "forced", "stays")
    cluster.crash("agent")
    space("delete", "pod", "leaves", "--wait=false")
    space("delete", "pod", "forced", "--force", "--grace-period=0")
    space.gone("forced")
    space.pod("comes")
    space.pod("never", ["sh", "-c", "echo should not run"])
    space("delete", "pod", "never", "--force", "--grace-period=0")
    space.until("leaves", "is asked to go", lambda pod: pod["metadata"]["deletionTimestamp"])
    assert len(space.boxes("leaves")) == 1
    cluster.start()
    space.gone("leaves")
    comes = space.ready("comes")[0]
    assert restarts(comes) == 0
    assert space.boxes("never", "", every=True) == []
    uids = {pod["metadata"]["uid"] for pod in (*space.ready("stays"), comes)}
    patience("the forced pod's containers are taken away", lambda: not [
        stray for stray in strays(cluster, uids) if left[1]["metadata"]["uid"] in stray or "forced" in stray])
    assert state(space.ready("stays")[0])["containerID"] == state(left[2])["containerID"]


def test_restarted_while_a_pod_ends(cluster: ClusterHandle, space: Space) -> None:
    space.pod("slow", SLOW_END, terminationGracePeriodSeconds=60)
    space.ready("slow")
    one = space.box("slow")["Id"]
    began = time.monotonic()
    space("delete", "pod", "slow", "--wait=false")
    patience("the container is asked", lambda: "asked" in cluster.docker("logs", one, check=False))
    agent_again(cluster, lambda: cluster.kill("agent"))
    space.gone("slow")
    assert time.monotonic() - began < 55, "the pod did not go when its container had ended"
    last = [item for _, item in space.pods.history if item["metadata"]["name"] == "slow"][-1]
    assert terminated(last)["exitCode"] == 0, "the container was killed before its time"


def test_a_container_ends_while_the_agent_is_away(cluster: ClusterHandle, space: Space) -> None:
    space.pod("always")
    space.pod("never", restartPolicy="Never")
    space.ready("always", "never")
    cluster.crash("agent")
    for name in ("always", "never"):
        cluster.docker("kill", space.box(name)["Id"])
    cluster.start()
    seen = space.until("always", "runs again", lambda pod: is_ready(pod) and restarts(pod) == 1)
    assert terminated(seen, last=True)["exitCode"] == 137
    seen = space.phase("never", "Failed")
    assert terminated(seen)["exitCode"] == 137
    assert restarts(seen) == 0


def test_the_node_is_deleted(cluster: ClusterHandle, space: Space) -> None:
    """Its pods go, on the node too; the host becomes a node again with a new token only."""
    space.pod("one")
    uid = space.ready("one")[0]["metadata"]["uid"]
    told = "has been deleted from the cluster"
    before = cluster.log("agent").count(told)
    space.kubectl("delete", "node", NODE)
    space.gone("one")
    patience("the agent is refused", lambda: cluster.log("agent").count(told) > before)
    cluster.crash("agent")
    (cluster.directory / "data/agent/pki/node.pem").unlink()
    cluster.start()
    node = space.kubectl.json("get", "node", NODE)
    assert condition(node, "Ready") == "True"
    patience("the pod's containers are taken away",
             lambda: not [stray for stray in strays(cluster, set()) if uid in stray or "_one_" in stray])
    space.pod("two")
    space.ready("two")


def _seconds(stamp: str) -> float:
    """Seconds of a day, from an RFC 3339 stamp."""
    hours, minutes, seconds = stamp.split("T")[1].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
