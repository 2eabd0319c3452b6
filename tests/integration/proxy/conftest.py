"""A node with pods and a neighbour, in network namespaces of the test's own, and a proxy whose master is the test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from netplugin.host import HostTables, allow_local_node_ports
from netplugin.network import NodeNetwork
from netplugin.protocol import Sandbox
from tests.support.netns import ip, private_network, process_with_network, run
from tests.support.proxy import NEIGHBOUR_IP, NODE_IP, Node, Pod, serving


@pytest.fixture(autouse=True)
def neighbour() -> Iterator[int]:
    """The test's own network, and a host beside it, which routes Services' and pods' addresses to the node."""
    with private_network(), process_with_network() as pid:
        ip(f"link add up0 type veth peer name eth0 netns {pid}")
        ip(f"addr add {NODE_IP}/24 dev up0")
        ip("link set up0 up")
        ip(f"addr add {NEIGHBOUR_IP}/24 dev eth0", pid)
        ip("link set lo up", pid)
        ip("link set eth0 up", pid)
        ip(f"route add default via {NODE_IP}", pid)
        ip("link add out0 type veth peer name out1")  # where nobody answers
        ip("addr add 198.18.0.1/24 dev out0")
        ip("link set out0 up")
        ip("link set out1 up")
        ip("route add default via 198.18.0.2")
        yield pid


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[NodeNetwork]:
    made = NodeNetwork(tmp_path / "ipam", cluster_cidr="10.244.0.0/16")
    await made.setup("10.244.1.0/24")
    yield made
    await made.close()


@pytest.fixture
async def node(network: NodeNetwork) -> AsyncIterator[Node]:
    """A proxy that runs, whose master has told nothing yet but that this is all."""
    run(["iptables", "-P", "FORWARD", "DROP"])  # as Docker does
    allow_local_node_ports()
    tables = HostTables()
    made = Node(tables, network)
    made.start()
    made.view.confirm()
    await made.synced()
    yield made
    await made.stop()
    await tables.close()


@pytest.fixture
async def pods(network: NodeNetwork) -> AsyncIterator[list[Pod]]:
    """Three pods with servers on 8080: TCP, UDP, and SCTP where the kernel has it."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number in range(3):
            pid = stack.enter_context(process_with_network())
            attached = await network.attach(Sandbox(f"{number:012x}" + "ab" * 26, pid, "default", f"p{number}",
                                                    f"u{number}"))
            await stack.enter_async_context(serving(pid, attached.ip))
            made.append(Pod(pid, attached.ip))
        yield made


