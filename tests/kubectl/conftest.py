"""The real kubectl against a whole real cluster: one for the session, and a namespace for each test.

SAMPAN_TEST_CLUSTER=/tmp/c runs the tests on a cluster that `python -m tests.support.cluster up --dir /tmp/c` made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.cluster import ClusterHandle, cluster_down, cluster_up
from tests.support.kubectl import VERSIONS, Kubectl

SHELF = Path(__file__).parent / "shelf.yaml"


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterHandle]:
    """A cluster of one node."""
    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    running = os.environ.get("SAMPAN_TEST_CLUSTER")
    if running:
        directory = Path(running)
        yield ClusterHandle(directory, engine.load_handle(directory / "engine"))
        return
    made = cluster_up(Path(tempfile.mkdtemp(prefix="sk-", dir="/tmp")))  # short: it holds sockets
    try:
        yield made
    finally:
        cluster_down(made)
        shutil.rmtree(made.directory, ignore_errors=True)


class Namespaces:
    """Makes namespaces, several at a time since that is quicker, and deletes them without waiting."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._ready: list[str] = []
        self._deleting: list[subprocess.Popen[bytes]] = []

    def take(self) -> str:
        """A fresh one."""
        if not self._ready:
            self._ready = [f"t-{os.urandom(4).hex()}" for _ in range(12)]
            items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in self._ready]
            self._kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        return self._ready.pop()

    def give_back(self, *names: str) -> None:
        """Delete, in the background."""
        command = self._kubectl.command("delete", "namespace", "--wait=false", *names)
        self._deleting.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                               env=self._kubectl.env))

    def close(self) -> None:
        """Delete those that nobody took, and wait for the commands (not for the namespaces)."""
        if self._ready:
            self.give_back(*self._ready)
        for process in self._deleting:
            process.wait(30)


@pytest.fixture(scope="session")
def namespaces(cluster: ClusterHandle) -> Iterator[Namespaces]:
    """Where namespaces come from."""
    made = Namespaces(cluster.kubectl())
    yield made
    made.close()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each version of kubectl that Sampan promises to work with."""
    return str(request.param)


@pytest.fixture
def kubectl(version: str, cluster: ClusterHandle, namespaces: Namespaces) -> Iterator[Kubectl]:
    """kubectl, in a namespace of the test's own."""
    namespace = namespaces.take()
    yield cluster.kubectl(version).within(namespace)
    namespaces.give_back(namespace)


@pytest.fixture(scope="session")
def shelf(cluster: ClusterHandle, namespaces: Namespaces) -> Iterator[str]:
    """A namespace with one object of each kind, for tests that only look, and run commands."""
    namespace = namespaces.take()
    kubectl = cluster.kubectl().within(namespace)
    kubectl("create", "-f", str(SHELF))
    kubectl("wait", "pod/web", "--for=condition=Ready", "--timeout=120s")
    kubectl("wait", "deployment/shop", "--for=condition=Available", "--timeout=120s")
    yield namespace
    namespaces.give_back(namespace)


@pytest.fixture
def reader(version: str, cluster: ClusterHandle, shelf: str) -> Kubectl:
    """kubectl, in the namespace `shelf` that all such tests share."""
    return cluster.kubectl(version).within(shelf)
