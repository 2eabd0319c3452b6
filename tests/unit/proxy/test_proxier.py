"""What is written when: little, in the right order, and in the end what is wanted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.link.view import View
from agent.proxy import observer as figures
from agent.proxy import plan, proxier
from agent.proxy.chains import JUMPS, LAST, SERVICES, SHARED, NodeFacts, is_ours, wanted
from agent.proxy.health import HealthPort, ProxyHealth
from agent.proxy.model import ServiceKey, concerns
from agent.proxy.observer import Figures
from agent.proxy.plan import in_disorder
from agent.proxy.proxier import TRIGGER_TIME, Proxier, cleanup
from netplugin.conntrack import Flow
from netplugin.fake_tables import FakeTables
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId, Edit, Rules, target
from sampan.api.resources import ENDPOINTSLICES
from sampan.api.resources import SERVICES as SERVICE_KIND
from sampan.api.types.core_v1 import Node
from sampan.api.types.discovery_v1 import EndpointPort, EndpointSlice
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.loop.clock import FakeClock, SystemClock
from tests.support.services import NODE, delete, endpoint, port, put, service, slice_of

FACTS = NodeFacts(NODE, "192.0.2.1", "10.244.0.0/16")
FORWARD = ChainId("filter", "FORWARD")


class FakeFlows:
    """`flows` are there; what is forgotten goes."""

    def __init__(self, *flows: Flow) -> None:
        self.flows = set(flows)
        self.asked = 0
        self.broken = False

    async def forget_udp(self, stale: Callable[[Flow], bool]) -> int:
        self.asked += 1
        if self.broken:
            raise NetworkError("no")
        gone = {flow for flow in self.flows if stale(flow)}
        self.flows -= gone
        return len(gone)


class World:
    """A proxier over fakes, whose syncs are made one by one."""

    def __init__(self, tables: FakeTables | None = None, flows: FakeFlows | None = None) -> None:
        self.view = View()
        self.tables = tables or FakeTables()
        self.flows = flows or FakeFlows()
        self.figures = Figures()
        self.health = ProxyHealth(FakeClock(), "")
        self.proxier = self.new()

    def new(self, **options: Any) -> Proxier:
        """Another process with the same kernel and the same master."""
        self.proxier = Proxier(self.view, self.tables, self.flows, FACTS, SystemClock(), observer=self.figures,
                               health=self.health, **options)
        return self.proxier

    async def sync(self) -> list[Edit]:
        """What one sync writes."""
        self.proxier._subscribe()
        before = len(self.tables.edits)
        kind = figures.PARTIAL_SECONDS if self.proxier._adopted else figures.FULL_SECONDS
        await self.proxier._measured(kind)
        return self.tables.edits[before:]

    def check(self) -> None:
        """The kernel has exactly what the view wants; of shared chains the order does not matter."""
        by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
        for item in self.view.list(ENDPOINTSLICES):
            key = concerns(item)
            assert key is not None
            by_service.setdefault(key, []).append(item)
        want = wanted(self.view.list(SERVICE_KIND), by_service, FACTS)
        have = {chain: rules for chain, rules in self.tables.contents.items() if is_ours(chain)}
        assert have[SERVICES][-1] == LAST
        assert normal(have) == normal(want)
        for chain, rule in JUMPS:
            assert self.tables.contents[chain].count(rule) == 1
        assert not in_disorder(self.tables.contents[FORWARD])


def normal(chains: dict[ChainId, Rules]) -> dict[ChainId, Any]:
    return {chain: Counter(rules) if chain in SHARED else rules for chain, rules in chains.items()}


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


async def test_a_failed_write_is_followed_by_a_look_at_everything() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    world.tables.broken = NetworkError("no")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(world.proxier.run())
        world.view.confirm()
        async with asyncio.timeout(20):
            await world.proxier.synced.wait()
        world.check()
        assert world.figures.value(figures.FAILURES) == 1
        running.cancel()


async def running(world: World, until: Callable[[], bool] = lambda: True) -> None:
    """Run the proxy until it has synced and something holds."""
    task = asyncio.create_task(world.proxier.run())
    try:
        async with asyncio.timeout(20):
            await world.proxier.synced.wait()
            while not until():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_service_that_the_kernel_does_not_take_is_left_out() -> None:
    world = World()
    world.tables.unknown = "-m sctp"
    sctp = [EndpointPort(name="s", port=80, protocol="SCTP")]
    put(world.view, service("bad", "10.96.0.1", port("s", 80, "SCTP")), slice_of("bad", "10.244.0.1", ports=sctp),
        service("good", "10.96.0.2"), slice_of("good", "10.244.0.2"))
    world.view.confirm()
    await running(world)
    assert "default/good" in str(world.tables.contents)
    assert "default/bad" not in str(world.tables.contents)
    world.tables.unknown = ""
    put(world.view, slice_of("bad", "10.244.0.3", ports=sctp))
    await world.sync()
    world.check()


async def test_one_failure_leaves_nobody_out() -> None:
    """Somebody may have wiped the chain just then."""
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    await world.sync()
    world.proxier._adopted = False
    chain = target(world.tables.contents[SERVICES][0])
    world.tables.broken = NetworkError(f"line 3 failed: -A KUBE-SERVICES -j {chain}")
    world.proxier.synced.clear()
    world.tables.contents = {chain: () for chain in world.tables.contents if not chain.name.startswith("KUBE")}
    world.view.confirm()
    await running(world)
    world.check()


async def test_a_service_that_makes_no_sense_is_left_out() -> None:
    world = World()
    put(world.view, service("bad", "10.96.0.1", type="LoadBalancer", ingress=["192.0.2.1"],
                            load_balancer_source_ranges=["nonsense"]), slice_of("bad", "10.244.0.1"),
        service("good", "10.96.0.2"), slice_of("good", "10.244.0.2"))
    await world.sync()
    assert "default/good" in str(world.tables.contents)
    assert "default/bad" not in str(world.tables.contents)


@pytest.mark.parametrize("rules", ["no rules", "rules"])
async def test_without_a_master_the_checkpoint_counts_on_a_node_without_rules(rules: str) -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    if rules == "rules":
        await world.sync()
    put(world.view, slice_of("web", "10.244.0.2"))
    world.new(patience=0.01)
    world.view.restored()
    if rules == "rules":
        task = asyncio.create_task(world.proxier.run())
        await asyncio.sleep(0.1)
        assert not world.proxier.synced.is_set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert "10.244.0.2" not in str(world.tables.contents)
    else:
        await running(world)
        world.check()


async def test_damage_is_noticed_among_many_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxier, "LOOK", 0.2)
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    world.view.confirm()
    step = 0

    def healed() -> bool:
        nonlocal step
        step += 1
        put(world.view, slice_of("web", f"10.244.0.{step % 250 + 1}"))
        if step == 5:
            world.tables.contents[ChainId("nat", "PREROUTING")] = ()
        return world.figures.value(figures.HEALED) == 1

    await running(world, healed)


async def test_an_error_of_our_own_loses_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    await world.sync()
    put(world.view, slice_of("web", "10.244.0.2"))
    with monkeypatch.context() as patch:
        patch.setattr(world.tables, "apply", None)
        with pytest.raises(TypeError):
            await world.sync()
    await world.sync()
    world.check()


async def test_nothing_is_written_before_the_master_has_told_all() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(world.proxier.run())
        world.view.restored()
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.tables.edits == []
        assert world.tables.reads == 0
        world.view.confirm()
        async with asyncio.timeout(20):
            await world.proxier.synced.wait()
        running.cancel()
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


def damages(contents: dict[ChainId, Rules]) -> list[dict[ChainId, Rules]]:
    """Each chain without its last rule, without all; a jump gone; strangers' chains before ours; a chain too many."""
    result: list[dict[ChainId, Rules]] = []
    for chain, rules in contents.items():
        if rules:
            result += [{**contents, chain: rules[:-1]}, {**contents, chain: ()}]
    result.append({chain: () for chain in contents if not chain.name.startswith("KUBE")})
    docker = ChainId("filter", "DOCKER-USER")
    result.append({**contents, docker: (), FORWARD: ("-j DOCKER-USER", *contents[FORWARD])})
    result.append({**contents, ChainId("nat", "KUBE-SVC-AAAAAAAAAAAAAAAA"): ()})
    return result


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


UDP = [EndpointPort(name="dns", port=53, protocol="UDP")]


def dns(ip: str = "10.96.0.10", **spec: Any) -> Any:
    return service("dns", ip, port("dns", 53, "UDP", node_port=30053), type="NodePort", external_ips=["192.0.2.7"],
                   **spec)


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
