"""Containers die, are killed, are removed behind the agent's back."""

from __future__ import annotations

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.space import SLEEP, Space, box, condition, is_ready, restarts, state, terminated, waiting

pytestmark = [pytest.mark.docker, pytest.mark.kubectl, pytest.mark.usefixtures("others")]


def two_containers(space: Space, name: str) -> dict[str, object]:
    """A pod of two containers and an init container, running."""
    space.pod(name, containers=[box("app"), box("side")], initContainers=[box("init", ["sh", "-c", "echo begin"])])
    return space.ready(name)[0]


@pytest.mark.parametrize("how", ["kill", "stop -t 0", "rm -f"])
def test_the_infra_container_goes(space: Space, how: str) -> None:
    """The whole pod is built anew in a new sandbox: other address, init containers again."""
    before = two_containers(space, "one")
    space.cluster.docker(*how.split(), space.box("one", "POD")["Id"])
    after = space.until("one", "is built anew", lambda pod: is_ready(pod) and restarts(pod) == 1)
    assert restarts(after, "side") == 1
    assert after["status"]["podIP"] != before["status"]["podIP"]  # type: ignore[index]
    assert state(after, "init")["containerID"] != state(before, "init")["containerID"]  # type: ignore[arg-type]
    assert terminated(after, "init")["exitCode"] == 0
    if how != "rm -f":  # as upstream: of a sandbox that is not there at all nothing is told
        space.told("SandboxChanged", "one", "Pod sandbox changed, it will be killed and re-created.")
        assert space.box("one", "POD")["Name"].endswith("_1")
    assert len(space.boxes("one", "")) == 3, "infra, app and side"
    space.reaches("one", "10.244.0.1")
    assert after["status"]["podIP"] in space.run("one", "cat", "/etc/hosts")


@pytest.mark.parametrize(("how", "code"), [("kill", 137), ("stop -t 5", 0), ("rm -f", None)])
def test_an_app_container_goes(space: Space, how: str, code: int | None) -> None:
    """It alone is started again, whoever ended it."""
    before = two_containers(space, "one")
    space.cluster.docker(*how.split(), space.box("one")["Id"])
    after = space.until("one", "is started again", lambda pod: is_ready(pod) and restarts(pod) == 1)
    assert state(after, "side") == state(before, "side")  # type: ignore[arg-type]
    assert after["status"]["podIP"] == before["status"]["podIP"]  # type: ignore[index]
    if code is not None:
        assert terminated(after, last=True)["exitCode"] == code


def test_a_crash_loop(space: Space) -> None:
    """The first restart is at once, then the back-off begins."""
    space.pod("one", ["sh", "-c", "echo failing; exit 3"])
    seen = space.until("one", "backs off", lambda pod: waiting(pod) == "CrashLoopBackOff" and restarts(pod) >= 1)
    assert "back-off 10s restarting failed container=app pod=one_" in state(seen)["state"]["waiting"]["message"]
    assert terminated(seen, last=True)["exitCode"] == 3
    assert terminated(seen, last=True)["reason"] == "Error"
    assert seen["status"]["phase"] == "Running"
    assert condition(seen, "Ready") == "False"
    space.told("BackOff", "one", "Back-off restarting failed container app in pod one_")
    assert space("logs", "one", "--previous") == "failing\n"


def test_a_finished_pods_containers_are_removed(space: Space) -> None:
    """What ended well stays so when its containers are cleaned away."""
    space.pod("done", ["true"], restartPolicy="Never")
    before = space.phase("done", "Succeeded")
    space.cluster.docker("rm", "-f", *(found["Id"] for found in space.boxes("done", "", every=True)))
    space.pod("later")
    space.ready("later")
    after = space.phase("done", "Succeeded")
    assert terminated(after)["finishedAt"] == terminated(before)["finishedAt"]
    assert space.boxes("done", "", every=True) == []


@pytest.mark.parametrize("whose", ["stranger", "ours"])
def test_a_name_is_taken(cluster: ClusterHandle, space: Space, whose: str) -> None:
    """A container that has the name that the next one is to get does not stop it; a stranger's is left alone."""
    uid = space.ready(space.pod("one"))[0]["metadata"]["uid"]
    name = f"k8s_app_one_{space.name}_{uid}_1"
    labels = ["--label", f"io.kubernetes.pod.uid={uid}", "--label", "sampan.node=node-1", "--label",
              "io.kubernetes.docker.type=container", "--label", "io.kubernetes.container.name=other"]
    left = cluster.docker("create", "--name", name, *(labels if whose == "ours" else []), "sampan-test/box:1",
                          *SLEEP).strip()
    cluster.docker("kill", space.box("one")["Id"])
    space.until("one", "is started again", lambda pod: is_ready(pod) and restarts(pod) == 1)
    there = left in cluster.docker("ps", "-aq", "--no-trunc")
    if whose == "stranger":
        assert there
        assert space.box("one")["Name"].startswith(f"/{name}_")
        cluster.docker("rm", left)


def test_many_crash_at_once(space: Space) -> None:
    names = [space.pod(f"p{number}") for number in range(6)]
    space.ready(*names)
    space.cluster.docker("kill", *(space.box(name)["Id"] for name in names))
    for name in names:
        space.until(name, "is started again", lambda pod: is_ready(pod) and restarts(pod) == 1)
