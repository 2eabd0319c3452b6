"""Pods of different nodes: network namespaces as hosts, joined by a switch; real VXLAN, real iptables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import hosts
from tests.support.netns import process_with_network, reaches

pytestmark = pytest.mark.net


@pytest.fixture
def pids() -> Iterator[list[int]]:
    with process_with_network() as one, process_with_network() as two, process_with_network() as three:
        yield [one, two, three]


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
async def test_pods_of_three_nodes_reach_each_other(tmp_path: Path, pids: list[int], backend: str) -> None:
    async with hosts(3, tmp_path, backend=backend) as nodes:
        addresses = [await node.pod(1, pid) for node, pid in zip(nodes, pids, strict=True)]
        assert addresses == ["10.42.1.2", "10.42.2.2", "10.42.3.2"]
        for pid in pids:
            for address in addresses:
                assert reaches(pid, address)
        for node in nodes:
            for address in addresses:
                assert await node.reaches(address)
            await node.call("heal")
