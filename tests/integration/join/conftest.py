"""A host that has not joined yet."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.cluster import ClusterHandle
    from tests.support.join import JoiningHost


@pytest.fixture(scope="module")
def host(cluster: ClusterHandle) -> Iterator[JoiningHost]:
    """On the same cable as the cluster's node. Its Nodes are gone when it is."""
    from tests.support.join import second_host

    folder = Path(tempfile.mkdtemp(prefix="sj-", dir="/tmp"))
    try:
        with second_host(cluster, folder) as made:
            yield made
    finally:
        cluster.kubectl()("delete", "node", "n2", "n3", "--ignore-not-found")
        shutil.rmtree(folder, ignore_errors=True)
