"""What is written when: little, in the right order, and in the end what is wanted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.proxy import observer as figures
from agent.proxy import plan
from agent.proxy.chains import SERVICES
from agent.proxy.health import HealthPort
from agent.proxy.model import ServiceKey
from agent.proxy.proxier import TRIGGER_TIME, cleanup
from netplugin.fake_tables import FakeTables
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId
from sampan.api.types.core_v1 import Node
from sampan.api.types.discovery_v1 import EndpointPort
from sampan.api.types.meta_v1 import ObjectMeta
from tests.support.proxier import FORWARD, UDP, World, damages, dns
from tests.support.services import NODE, delete, endpoint, port, put, service, slice_of


async def test_an_endpoint_s_change_touches_its_service_only() -> None:
    world = World()
    for number in range(20):
        put(world.view, service(f"s{number}", f"10.96.0.{number}"), slice_of(f"s{number}", f"10.244.0.{number}"))
    await world.sync()
    put(world.view, slice_of("s7", "10.244.9.9", "10.244.9.10"))
    (edit,) = await world.sync()
    assert sorted(chain.name[:8] for chain in edit.write) == ["KUBE-SEP", "KUBE-SEP", "KUBE-SVC"]
    assert [chain.name[:8] for chain in edit.remove] == ["KUBE-SEP"]
    assert not edit.insert
    assert not edit.delete
    world.check()


async def test_what_says_the_same_writes_nothing() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1", "10.244.0.2"))
    await world.sync()
    put(world.view, slice_of("web", "10.244.0.2", "10.244.0.1"), service("web", "10.96.0.1", labels={"a": "b"}))
    assert await world.sync() == []
    world.check()


async def test_a_new_service_adds_one_rule_to_the_shared_chain() -> None:
    world = World()
    for number in range(20):
        put(world.view, service(f"s{number}", f"10.96.0.{number}"), slice_of(f"s{number}", f"10.244.0.{number}"))
    await world.sync()
    put(world.view, service("new", "10.96.1.1"), slice_of("new", "10.244.1.1"))
    (edit,) = await world.sync()
    assert SERVICES not in edit.write
    assert [chain for chain, _ in edit.insert] == [SERVICES]
    delete(world.view, service("new", "10.96.1.1"))
    (edit,) = await world.sync()
    assert [chain for chain, _ in edit.delete] == [SERVICES]
    assert len(edit.remove) == 2
    world.check()


async def test_a_restart_adopts_what_is_there() -> None:
    world = World()
    for number in range(150):
        put(world.view, service(f"s{number}", f"10.96.0.{number}"), slice_of(f"s{number}", f"10.244.0.{number}"))
    await world.sync()
    world.new()
    assert await world.sync() == []
    put(world.view, slice_of("s3", "10.244.3.3"))
    delete(world.view, service("s4", "10.96.0.4"))
    world.new()
    (edit,) = await world.sync()
    assert SERVICES in edit.write
    assert len(edit.write) == 3  # and one Service's two chains
    world.check()


async def test_a_large_sync_goes_in_batches_of_unreferenced_chains_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "REMOVALS", 100)
    world = World()
    for number in range(500):
        put(world.view, service(f"s{number}", f"10.96.{number // 250}.{number % 250}"),
            slice_of(f"s{number}", *[f"10.244.{number % 250}.{host}" for host in range(3)]))
    edits = await world.sync()
    assert len(edits) > 3
    assert all(SERVICES not in edit.write and not edit.insert for edit in edits[:-1])
    assert SERVICES in edits[-1].write
    world.check()
    for number in range(500):
        delete(world.view, service(f"s{number}", ""), slice_of(f"s{number}"))
    edits = await world.sync()
    assert not edits[0].remove
    assert all(edit.remove and not edit.write for edit in edits[1:])
    assert len(edits) == 1 + 2000 // 100
    world.check()


@pytest.mark.parametrize("restarted", [False, True])
async def test_many_chains_go_in_an_order_in_which_they_can(monkeypatch: pytest.MonkeyPatch, *,
                                                            restarted: bool) -> None:
    """A chain to which another one leads cannot go, and some go in a batch before others."""
    monkeypatch.setattr(plan, "REMOVALS", 7)
    world = World()
    balancer: dict[str, Any] = {"type": "LoadBalancer", "ingress": ["192.0.2.1"], "external_traffic_policy": "Local",
                                "load_balancer_source_ranges": ["10.0.0.0/8"]}
    for number in range(20):
        put(world.view, service(f"s{number}", f"10.96.0.{number}", **balancer),
            slice_of(f"s{number}", endpoint(f"10.244.0.{number}", node=NODE), f"10.244.1.{number}"))
    await world.sync()
    for number in range(20):
        delete(world.view, service(f"s{number}", ""), slice_of(f"s{number}"))
    if restarted:
        world.new()
    await world.sync()
    world.check()


async def test_damage_is_seen_and_mended() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1", "10.244.0.2"))
    await world.sync()
    assert not await world.proxier._disturbed()
    for damage in damages(world.tables.contents):
        world.tables.contents = damage
        assert await world.proxier._disturbed()
        world.proxier._adopted = False
        await world.sync()
        world.check()
        assert not await world.proxier._disturbed()


async def test_what_others_do_elsewhere_is_no_damage() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    await world.sync()
    world.tables.contents[ChainId("nat", "DOCKER")] = ("-j RETURN",)
    world.tables.contents[ChainId("nat", "PREROUTING")] += ("-j DOCKER",)
    world.tables.contents[FORWARD] += ("-j DOCKER-USER",)
    assert not await world.proxier._disturbed()


async def test_the_node_s_zone_counts() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"),
        slice_of("web", endpoint("10.244.0.1", zones=["a"]), endpoint("10.244.0.2", zones=["b"])))
    await world.sync()
    assert "10.244.0.2" in str(world.tables.contents)
    put(world.view, Node(metadata=ObjectMeta(name=NODE, labels={"topology.kubernetes.io/zone": "a"})))
    assert not world.proxier._adopted
    await world.sync()
    assert "10.244.0.2" not in str(world.tables.contents)


async def test_health_ports_and_figures() -> None:
    world = World()
    put(world.view, service("lb", "10.96.0.1", type="LoadBalancer", external_traffic_policy="Local",
                            health_check_node_port=32000, ingress=["192.0.2.1"]))
    await world.sync()
    assert world.health._wanted == {32000: HealthPort(32000, ServiceKey("default", "lb"), 0)}
    put(world.view, slice_of("lb", endpoint("10.244.0.1", node=NODE), endpoint("10.244.0.2", node="node-2"),
                             annotations={TRIGGER_TIME: "2020-01-01T00:00:00.123Z"}))
    await world.sync()
    assert world.health._wanted[32000].endpoints == 1
    assert world.figures.seen[figures.PROGRAMMING_SECONDS][0] == 1
    put(world.view, slice_of("lb", endpoint("10.244.0.2", node="node-2"),
                             annotations={TRIGGER_TIME: "2020-01-01T00:00:00.123Z"}))
    await world.sync()
    assert world.figures.seen[figures.PROGRAMMING_SECONDS][0] == 1  # the same change again
    assert world.figures.seen[figures.FULL_SECONDS][0] == 1
    assert world.figures.seen[figures.PARTIAL_SECONDS][0] == 2


async def test_cleanup_leaves_what_is_not_ours() -> None:
    docker = ChainId("nat", "DOCKER")
    world = World(FakeTables({docker: ("-j RETURN",)}))
    world.tables.contents[FORWARD] = ("-j ACCEPT",)
    before = dict(world.tables.contents)
    put(world.view, dns(), slice_of("dns", "10.244.0.1", ports=UDP), service("none", "10.96.0.77"))
    await world.sync()
    await cleanup(world.tables)
    assert world.tables.contents == before
    await cleanup(world.tables)


SERVICE_NAMES = [f"s{number}" for number in range(2)]
hosts = st.integers(1, 6)
members = st.lists(st.builds(
    lambda host, node, ready, ending: endpoint(f"10.244.0.{host}", node=node, ready=ready, serving=True,
                                               terminating=ending),
    hosts, st.sampled_from([NODE, "node-2"]), st.booleans(), st.booleans()), max_size=4)
policies = st.sampled_from(["Cluster", "Local"])
services = st.builds(
    lambda name, kind, inner, outer, affinity, external, ranges, second: service(
        name, f"10.96.0.{name[1:]}", *[port("http", 80, node_port=30000 + int(name[1:]) if kind != "ClusterIP" else 0),
                                       port("dns", 53, "UDP")][:second],
        type=kind, internal_traffic_policy=inner, external_traffic_policy=outer, affinity=affinity,
        external_ips=["198.51.100.1"] if external else [], ingress=["192.0.2.5"] if kind == "LoadBalancer" else [],
        load_balancer_source_ranges=["192.0.2.0/24"] if ranges else [], health_check_node_port=32000 + int(name[1:])),
    st.sampled_from(SERVICE_NAMES), st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), policies, policies,
    st.sampled_from([0, 60]), st.booleans(), st.booleans(), st.integers(1, 2))
slices = st.builds(
    lambda name, found, suffix: slice_of(name, *found, suffix=suffix, ports=[
        EndpointPort(name="http", port=8080, protocol="TCP"), EndpointPort(name="dns", port=53, protocol="UDP")]),
    st.sampled_from(SERVICE_NAMES), members, st.sampled_from("ab"))
changes = st.tuples(st.sampled_from([put, put, put, delete]), st.one_of(services, slices))
events = st.sampled_from(["", "", "", "restart", "damage", "failure"])
rounds = st.tuples(st.lists(changes, min_size=1, max_size=5), events, st.integers(0, 1000))


@settings(max_examples=60, deadline=None)
@given(st.lists(rounds, min_size=4, max_size=8), st.sampled_from([1, 20, plan.LINES]))
def test_whatever_happens_the_kernel_gets_what_is_wanted(todo: list[tuple[list[Any], str, int]], lines: int) -> None:
    """Changes written one after another are the same as all written at once."""

    async def run() -> None:
        world = World()
        await world.sync()
        for changed, event, choice in todo:
            if event == "damage":
                world.tables.contents = random.Random(choice).choice(damages(world.tables.contents))
                world.proxier._adopted = not await world.proxier._disturbed()
            for change, argument in changed:
                change(world.view, argument)
            if event == "restart":
                world.new()
            if event == "failure":
                world.tables.broken = NetworkError("no")
                try:
                    await world.sync()
                except NetworkError:
                    world.proxier._adopted = False
                world.tables.broken = None
            await world.sync()
            world.check()
            assert not await world.proxier._disturbed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan.Changes.edits, "__defaults__", (lines,))
        asyncio.run(run())
