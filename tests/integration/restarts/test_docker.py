"""The Docker Engine goes away and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import clean_space
from tests.support import cluster as clusters
from tests.support.cluster import ClusterHandle
from tests.support.engine import start_dockerd, stop_dockerd
from tests.support.space import Space, is_ready, patience, restarts, state, terminated

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]


@pytest.fixture(scope="module")
def living() -> Iterator[ClusterHandle]:
    """A cluster whose engine leaves containers running while it is away (live-restore)."""
    made = clusters.cluster_up(Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp")), dockerd_options=["--live-restore"])
    try:
        yield made
        made.sampan("down", "--purge")
        assert clusters.leftovers(made) == []
    finally:
        clusters.cluster_down(made)
        shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture
def living_space(living: ClusterHandle) -> Iterator[Space]:
    """A namespace there."""
    yield from clean_space(living)


def pods_of(space: Space) -> None:
    """Pods with and without a network of their own, one with volumes, one that has ended."""
    space.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}})
    space.pod("one", app={"ports": [{"containerPort": 8080, "hostPort": 18081}]})
    space.pod("two", app={"volumeMounts": [{"name": "memory", "mountPath": "/memory"},
                                           {"name": "settings", "mountPath": "/settings"}]},
              volumes=[{"name": "memory", "emptyDir": {"medium": "Memory"}},
                       {"name": "settings", "configMap": {"name": "settings"}}])
    space.pod("host", hostNetwork=True)
    space.pod("done", ["true"], restartPolicy="Never")
    space.ready("one", "two", "host")
    space.phase("done", "Succeeded")
    space.run("two", "sh", "-c", "echo kept > /memory/file")


def containers(space: Space) -> dict[str, Any]:
    """What the API says of each."""
    return {name: state(pod) for name, pod in space.pods.objects.items()}


def again(space: Space) -> None:
    """Wait until all that run have been restarted and work.

    An engine that is stopped ends its containers one after the other. The agent may start one again while the
    pod's infra container still runs; that start then fails and counts too.
    """
    for name in ("one", "two", "host"):
        seen = space.until(name, "runs again", lambda pod: is_ready(pod) and restarts(pod) in (1, 2), 90)
        assert terminated(seen, last=True)["exitCode"] is not None
        assert len(space.boxes(name)) == len(space.boxes(name, "POD")) == 1
    done = space.phase("done", "Succeeded")
    assert restarts(done) == 0
    assert space.boxes("done") == []
    other = space.pods.objects["two"]["status"]["podIP"]
    space.reaches("one", other)
    space.reaches("one", clusters.NODE_IP)
    space.reaches("host", other)
    assert space.run("two", "cat", "/memory/file", "/settings/a") == "kept\n1"
    assert space.run("two", "ip", "-4", "-o", "addr", "show", "eth0").split()[3] == f"{other}/24"


def node_is(space: Space, ready: str) -> None:
    """Wait until the node is Ready, or is not."""
    space.kubectl("wait", "node", clusters.NODE, f"--for=condition=Ready={ready}", "--timeout=120s", timeout=130)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_restarted(cluster: ClusterHandle, space: Space, how: signal.Signals) -> None:
    """Docker ends its containers with itself (after SIGKILL: when it starts): all pods are rebuilt."""
    pods_of(space)
    stop_dockerd(cluster.engine, how)
    if how == signal.SIGTERM:
        node_is(space, "False")
    start_dockerd(cluster.engine)
    again(space)
    node_is(space, "True")
    space.told("SandboxChanged", "one")


@pytest.mark.usefixtures("others")
def test_restarted_while_the_agent_is_away(cluster: ClusterHandle, space: Space) -> None:
    pods_of(space)
    cluster.crash("agent")
    stop_dockerd(cluster.engine)
    start_dockerd(cluster.engine)
    cluster.start()
    again(space)


@pytest.mark.usefixtures("others")
def test_the_agent_starts_before_docker(cluster: ClusterHandle, space: Space) -> None:
    """It waits for the engine, and says so; names are answered meanwhile, and pods deleted then go."""
    space.pod("goes")
    space.pod("stays")
    space.ready("goes", "stays")
    cluster.crash("agent")
    stop_dockerd(cluster.engine)
    told = cluster.log("agent").count("does not answer")
    cluster.start_agent()
    space("delete", "pod", "goes", "--wait=false")
    patience("the agent waits", lambda: cluster.log("agent").count("does not answer") > told)
    asking = ("busybox", "nslookup", "kubernetes.default.svc.cluster.local", "10.244.0.1")
    patience("the cluster's names", lambda: cluster.run(*asking, check=False).returncode == 0)
    start_dockerd(cluster.engine)
    space.gone("goes")
    space.until("stays", "runs again", lambda pod: is_ready(pod) and restarts(pod) == 1, 90)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_restarted_with_live_restore(living: ClusterHandle, living_space: Space, how: signal.Signals) -> None:
    """Containers run on, and nobody touches them."""
    space = living_space
    pods_of(space)
    before, addresses = containers(space), {name: pod["status"]["podIP"] for name, pod in space.pods.objects.items()}
    stop_dockerd(living.engine, how)
    if how == signal.SIGTERM:
        node_is(space, "False")
    start_dockerd(living.engine)
    node_is(space, "True")
    space.pod("later")
    space.ready("later", "one", "two", "host")
    after = containers(space)
    after.pop("later")
    assert after == before
    assert {name: space.pods.objects[name]["status"]["podIP"] for name in before} == addresses
    space.reaches("one", addresses["two"])


def test_a_container_ends_while_the_engine_is_away(living: ClusterHandle, living_space: Space) -> None:
    """With live-restore a container may end without anybody seeing it; the engine tells when it is back."""
    space = living_space
    space.pod("one")
    space.pod("infra")
    space.ready("one", "infra")
    processes = [space.box("one")["State"]["Pid"], space.box("infra", "POD")["State"]["Pid"]]
    stop_dockerd(living.engine, signal.SIGKILL)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    start_dockerd(living.engine)
    for name in ("one", "infra"):
        space.until(name, "runs again", lambda pod: is_ready(pod) and restarts(pod) == 1, 90)
    space.reaches("one", space.pods.objects["infra"]["status"]["podIP"])
