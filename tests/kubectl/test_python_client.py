"""The official Python client, in processes of its own on the node."""

from __future__ import annotations

import sys

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.kubectl import Kubectl, one_version
from tests.support.python_client import SCRIPTS

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IN_A_POD = ("executing", "logs", "forwarding")


def run(cluster: ClusterHandle, namespace: str, name: str) -> None:
    module = "tests.support.python_client"
    cluster.run(sys.executable, "-m", module, str(cluster.kubeconfig), namespace, name, timeout=60)


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - set(IN_A_POD)))
@one_version
def test_objects(kubectl: Kubectl, cluster: ClusterHandle, name: str) -> None:
    run(cluster, kubectl.namespace, name)


@pytest.mark.parametrize("name", IN_A_POD)
def test_streams(cluster: ClusterHandle, shelf: str, name: str) -> None:
    run(cluster, shelf, name)
