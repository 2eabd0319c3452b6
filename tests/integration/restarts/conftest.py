"""What on the node is not the cluster's, and must be as it was after every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.cluster import ClusterHandle
from tests.support.space import SLEEP

FOREIGN_IMAGE = "foreign/tool:1"


@dataclass(frozen=True)
class Foreign:
    """What others have on the node: containers, an image, a network, links, rules, a cgroup."""

    containers: str
    images: str
    networks: str
    links: str
    rules: tuple[str, ...]
    cgroup: bool


def look(cluster: ClusterHandle) -> Foreign:
    """As it is now."""
    rules = cluster.run("iptables-save").stdout.splitlines()
    return Foreign(
        containers=cluster.docker("ps", "-a", "--no-trunc", "--filter", "label=foreign", "--format",
                                  "{{.ID}} {{.State}} {{.Names}}"),
        images=cluster.docker("images", "-q", FOREIGN_IMAGE),
        networks=cluster.docker("network", "ls", "-q", "--filter", "name=foreign"),
        links=cluster.run("ip", "-br", "link", "show", "smpfriend").stdout,
        rules=tuple(line for line in rules if "FOREIGN" in line or "203.0.113." in line),
        cgroup=cgroup(cluster).is_dir())


def cgroup(cluster: ClusterHandle) -> Path:
    """A folder beside the pods' ones."""
    return Path(f"/sys/fs/cgroup/pids{cluster.engine.cgroup_parent}-pods/kubepods/besteffort/foreign")


def bring(cluster: ClusterHandle) -> Foreign:
    """Put it there."""
    engine.import_image(cluster.engine, FOREIGN_IMAGE)
    cluster.docker("run", "-d", "--name", "foreign-running", "--label", "foreign=", "--net", "host",
                   "--restart", "always", FOREIGN_IMAGE, *SLEEP)
    cluster.docker("create", "--name", "foreign-created", "--label", "foreign=", FOREIGN_IMAGE, "true")
    cluster.docker("create", "--name", "k8s_app_web_default_1234_0", "--label", "foreign=",
                   "--label", "io.kubernetes.pod.uid=1234", "--label", "io.kubernetes.pod.name=web",
                   "--label", "io.kubernetes.docker.type=container", FOREIGN_IMAGE, "true")
    cluster.docker("network", "create", "foreign")
    cluster.run("ip", "link", "add", "smpfriend", "type", "bridge")
    for rule in ("-N FOREIGN", "-A FOREIGN -s 203.0.113.7 -j ACCEPT", "-A FORWARD -j FOREIGN",
                 "-t nat -A POSTROUTING -s 203.0.113.0/24 -j RETURN"):
        cluster.run("iptables", "-w", *rule.split())
    cgroup(cluster).mkdir()
    return look(cluster)


def remove(cluster: ClusterHandle) -> None:
    """Take it away, so that what the cluster leaves can be seen."""
    names = cluster.docker("ps", "-a", "-q", "--filter", "label=foreign").split()
    cluster.docker("rm", "-f", *names)
    cluster.docker("network", "rm", "foreign")
    cluster.run("ip", "link", "delete", "smpfriend")
    cgroup(cluster).rmdir()


@pytest.fixture(scope="session")
def foreign(cluster: ClusterHandle) -> Iterator[Callable[[], Foreign]]:
    """What others have; calling it tells how that is now."""
    bring(cluster)
    yield lambda: look(cluster)
    remove(cluster)


@pytest.fixture
def others(foreign: Callable[[], Foreign]) -> Iterator[None]:
    """What is not the cluster's is as it was when the test ends."""
    before = foreign()
    assert before.containers.count("\n") == 3
    assert before.links
    assert before.cgroup
    assert len(before.rules) == 4
    yield
    assert foreign() == before
