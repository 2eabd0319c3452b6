"""Which of the kernel's UDP flows the proxy has forgotten."""

from __future__ import annotations

import asyncio

import pytest

from agent.proxy import observer as figures
from agent.proxy import proxier
from netplugin.conntrack import Flow
from netplugin.protocol import NetworkError
from tests.support.proxier import UDP, FakeFlows, World, dns
from tests.support.services import delete, endpoint, port, put, service, slice_of


async def test_udp_flows_to_endpoints_that_are_gone_are_forgotten() -> None:
    kept = {Flow("10.96.0.10", 53, "10.244.0.2"), Flow("10.96.0.11", 53, "10.244.0.1"),
            Flow("10.96.0.10", 54, "10.244.0.1"), Flow("192.0.2.1", 30053, "10.244.0.2")}
    gone = {Flow("10.96.0.10", 53, "10.244.0.1"), Flow("192.0.2.7", 53, "10.244.0.1"),
            Flow("192.0.2.1", 30053, "10.244.0.1")}
    flows = FakeFlows(*kept, *gone)
    world = World(flows=flows)
    put(world.view, dns(), slice_of("dns", "10.244.0.1", "10.244.0.2", ports=UDP))
    await world.sync()
    assert flows.flows == kept | gone
    put(world.view, slice_of("dns", "10.244.0.2", ports=UDP))
    await world.sync()
    assert flows.flows == kept
    assert world.figures.value(figures.FORGOTTEN) == 3


@pytest.mark.parametrize("node_port", [0, 30053])
async def test_udp_flows_of_a_service_with_node_ports_or_without(node_port: int) -> None:
    flow = Flow("10.96.0.10", 53, "10.244.0.1")
    world = World(flows=FakeFlows(flow))
    put(world.view, service("dns", "10.96.0.10", port("dns", 53, "UDP", node_port=node_port)),
        slice_of("dns", "10.244.0.2", ports=UDP))
    await world.sync()
    assert world.flows.flows == set()


@pytest.mark.parametrize("how", ["first", "last", "deleted", "restarted", "moved"])
async def test_udp_flows_when_a_service_comes_or_goes(how: str) -> None:
    """0 → N: what was not led anywhere is led now; N → 0, and all the ways to it."""
    flow = Flow("10.96.0.10", 53, "10.96.0.10" if how == "first" else "10.244.0.1")
    world = World(flows=FakeFlows(flow))
    members = [] if how == "first" else ["10.244.0.1"]
    put(world.view, dns(), slice_of("dns", *members, ports=UDP))
    await world.sync()
    if how == "first":
        world.flows.flows.add(flow)
        put(world.view, slice_of("dns", "10.244.0.1", ports=UDP))
    elif how == "last":
        put(world.view, slice_of("dns", endpoint("10.244.0.1", ready=False), ports=UDP))
    elif how == "deleted":
        delete(world.view, dns())
    elif how == "moved":
        put(world.view, dns("10.96.0.99"))
    else:
        put(world.view, slice_of("dns", "10.244.0.2", ports=UDP))
        world.new()
    await world.sync()
    assert world.flows.flows == set()


async def test_udp_flows_to_ending_endpoints_stay() -> None:
    flow = Flow("10.96.0.10", 53, "10.244.0.1")
    world = World(flows=FakeFlows(flow))
    put(world.view, dns(), slice_of("dns", "10.244.0.1", "10.244.0.2", ports=UDP))
    await world.sync()
    ending = endpoint("10.244.0.1", ready=False, serving=True, terminating=True)
    put(world.view, slice_of("dns", ending, "10.244.0.2", ports=UDP))
    await world.sync()
    assert world.flows.flows == {flow}


async def test_tcp_never_looks_at_flows_and_a_failure_there_is_no_failure_here() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    await world.sync()
    put(world.view, slice_of("web", "10.244.0.2"))
    await world.sync()
    assert world.flows.asked == 0
    world.flows.broken = True
    put(world.view, dns())
    await world.sync()
    assert world.flows.asked == 1
    world.check()


async def test_udp_flows_that_could_not_be_forgotten_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their clients keep them for as long as they send, and nothing else need ever change."""
    monkeypatch.setattr(proxier, "LOOK", 0.01)
    monkeypatch.setattr(proxier, "FORGET", 0.02)
    flow = Flow("10.96.0.10", 53, "10.244.0.1")
    world = World(flows=FakeFlows(flow))
    put(world.view, dns(), slice_of("dns", "10.244.0.2", ports=UDP))
    world.flows.broken = True
    await world.sync()
    assert world.flows.flows == {flow}
    world.flows.broken = False
    async with asyncio.timeout(60):
        while world.flows.flows:
            await world.proxier._turn()
    asked = world.flows.asked
    for _ in range(5):
        await world.proxier._turn()
    assert world.flows.asked == asked


async def test_udp_flows_of_a_service_that_went_while_rules_failed_are_forgotten() -> None:
    flow = Flow("10.96.0.10", 53, "10.244.0.1")
    world = World(flows=FakeFlows(flow))
    put(world.view, dns(), slice_of("dns", "10.244.0.1", ports=UDP), service("other", "10.96.0.1"))
    await world.sync()
    delete(world.view, dns())
    world.tables.broken = NetworkError("busy")
    with pytest.raises(NetworkError):
        await world.sync()
    await world.sync()
    assert world.flows.flows == set()
    world.check()
