"""Pods come and go while the agent is killed again and again: at the end everything fits."""

from __future__ import annotations

import random
import threading
import time

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.space import Space, is_ready, pod

pytestmark = [pytest.mark.docker, pytest.mark.kubectl, pytest.mark.usefixtures("others")]

PODS = 40
KILLS = 8


def some_pod(number: int, rng: random.Random) -> dict[str, object]:
    """A pod of one of several kinds, so that a kill meets all steps."""
    volumes = {} if number % 4 else {
        "app": {"volumeMounts": [{"name": "memory", "mountPath": "/memory"}]},
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}]}
    if number % 5 == 0:
        volumes.setdefault("app", {})["ports"] = [  # type: ignore[index]
            {"containerPort": 80, "hostPort": 19000 + number}]
    return pod(f"p{number}", terminationGracePeriodSeconds=rng.choice([0, 1, 3]), **volumes)


def test_pods_come_and_go_while_the_agent_is_killed(cluster: ClusterHandle, space: Space) -> None:
    rng = random.Random(7)
    over = threading.Event()

    def kill() -> None:
        """Each kill comes at a random moment after the agent was back."""
        for _ in range(KILLS):
            if over.wait(rng.uniform(0.3, 2.5)):
                return
            cluster.crash("agent")
            connected = cluster.log("agent").count("connected to the master")
            cluster.start_agent()
            while cluster.log("agent").count("connected to the master") == connected and not over.wait(0.05):
                pass

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for batch in range(0, PODS, 8):
            space.create(*(some_pod(number, rng) for number in range(batch, batch + 8)))
            going = [f"p{number}" for number in range(batch, batch + 8) if number % 8 in (1, 2, 4, 5, 7)]
            time.sleep(rng.uniform(0.2, 2))  # the moment of the deletion is what is varied here
            space("delete", "pod", "--wait=false", *going)
        killer.join(timeout=120)
    finally:
        over.set()
        killer.join()
    staying = {f"p{number}" for number in range(PODS) if number % 8 in (0, 3, 6)}
    space.pods.until("only those that stay are there", lambda pods: set(pods) == staying, 120)
    space.pods.until("all are ready", lambda pods: all(map(is_ready, pods.values())), 120)
    for name in sorted(staying):
        assert space.box(name)["State"]["Running"]
        assert space.box(name, "POD")["State"]["Running"]
    addresses = [seen["status"]["podIP"] for seen in space.pods.objects.values()]
    assert len(set(addresses)) == len(staying), "two pods have one address"
    first, *others = sorted(staying)
    for name in others[:3]:
        space.reaches(first, space.pods.objects[name]["status"]["podIP"])
