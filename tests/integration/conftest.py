"""One whole cluster for all tests that need one, and a namespace in it for each test."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.cluster import ClusterHandle
    from tests.support.space import Space


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterHandle]:
    """A running one-node cluster; at the end it is taken down, and must leave nothing on the node."""
    from tests.support import cluster as clusters

    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    made = clusters.cluster_up(Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp")))  # short: it holds sockets
    try:
        yield made
        made.sampan("down", "--purge")
        assert clusters.leftovers(made) == []
    finally:
        clusters.cluster_down(made)
        shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture
def space(cluster: ClusterHandle) -> Iterator[Space]:
    """A namespace of the cluster. Once it is deleted nothing of its pods may be left on the node."""
    yield from clean_space(cluster)


def clean_space(cluster: ClusterHandle) -> Iterator[Space]:
    """Make a namespace, and look behind it afterwards."""
    from tests.support.cluster import strays
    from tests.support.space import Space, patience

    made = Space(cluster, f"t-{secrets.token_hex(3)}")
    try:
        yield made
    finally:
        made.close()
    found: list[str] = []

    def clean() -> bool:
        pods = made.kubectl.json("get", "pods", "-A")["items"]
        found[:] = strays(cluster, {item["metadata"]["uid"] for item in pods})
        return not found

    try:
        patience("nothing is left that no pod owns", clean)
    except AssertionError as error:
        error.add_note("\n".join(found))
        error.add_note(cluster.log("agent")[-6000:])
        raise
