"""The proxy as it runs: when it begins, what it does after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent.proxy import observer as figures
from agent.proxy import proxier
from agent.proxy.chains import SERVICES
from netplugin.fake_tables import FakeTables
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId, Edit, Rules, target
from sampan.api.types.discovery_v1 import EndpointPort
from tests.support.proxier import World
from tests.support.services import port, put, service, slice_of


async def test_a_failed_write_is_followed_by_a_look_at_everything() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    world.tables.broken = NetworkError("no")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(world.proxier.run())
        world.view.confirm()
        async with asyncio.timeout(60):
            await world.proxier.synced.wait()
        world.check()
        assert world.figures.value(figures.FAILURES) == 1
        running.cancel()


async def running(world: World, until: Callable[[], bool] = lambda: True) -> None:
    """Run the proxy until it has synced and something holds."""
    task = asyncio.create_task(world.proxier.run())
    try:
        async with asyncio.timeout(60):
            await world.proxier.synced.wait()
            while not until():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("backs", [[], ["10.244.0.1"]])
async def test_a_service_that_the_kernel_does_not_take_is_left_out(backs: list[str]) -> None:
    world = World()
    world.tables.unknown = "-m sctp"
    sctp = [EndpointPort(name="s", port=80, protocol="SCTP")]
    put(world.view, service("good", "10.96.0.2"), slice_of("good", "10.244.0.2"),
        service("bad", "10.96.0.1", port("s", 80, "SCTP")), slice_of("bad", *backs, ports=sctp))
    world.view.confirm()
    await running(world)
    assert "default/good" in str(world.tables.contents)
    assert "default/bad" not in str(world.tables.contents)
    world.tables.unknown = ""
    put(world.view, slice_of("bad", "10.244.0.3", ports=sctp))
    await world.sync()
    world.check()


async def test_a_service_that_changes_while_it_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes out the port that the kernel does not know, while its old rules fail for the second time."""
    world = World()
    world.tables.unknown = "-m sctp"
    put(world.view, service("bad", "10.96.0.1", port("s", 80, "SCTP")),
        slice_of("bad", "10.244.0.1", ports=[EndpointPort(name="s", port=80, protocol="SCTP")]))
    world.view.confirm()
    apply, tries = world.tables.apply, 0

    async def changed_meanwhile(edit: Edit) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            put(world.view, service("bad", "10.96.0.1"), slice_of("bad", "10.244.0.1"))
        await apply(edit)

    monkeypatch.setattr(world.tables, "apply", changed_meanwhile)
    await running(world)
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


async def test_rules_that_somebody_wipes_come_back_without_a_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the agent was restarted without it, at first could not see whether there are any, then found them."""
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    await world.sync()
    read_one, looks = world.tables.read_one, 0

    async def wiped_at_the_third_look(chain: ChainId) -> Rules | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise NetworkError("another program has iptables' lock")
        if looks == 3:
            world.tables.contents = FakeTables().contents
        return await read_one(chain)

    monkeypatch.setattr(world.tables, "read_one", wiped_at_the_third_look)
    world.new(patience=0.01)
    world.view.restored()
    await running(world)
    assert looks >= 3
    world.check()


async def test_without_news_and_damage_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxier, "LOOK", 0.01)
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    world.view.confirm()
    touched, looks = world.tables.touched, 0

    async def counted() -> bool:
        nonlocal looks
        looks += 1
        return await touched()

    monkeypatch.setattr(world.tables, "touched", counted)
    await running(world, lambda: looks >= 3)
    assert world.figures.value(figures.HEALED) == 0
    assert figures.PARTIAL_SECONDS not in world.figures.seen
    assert len(world.tables.edits) == 1


async def test_a_change_is_written_as_it_comes() -> None:
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    world.view.confirm()
    changed = False

    def written() -> bool:
        nonlocal changed
        if not changed:
            put(world.view, slice_of("web", "10.244.0.2"))
        changed = True
        return "10.244.0.2" in str(world.tables.contents)

    await running(world, written)
    assert world.figures.seen[figures.FULL_SECONDS][0] == 1
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


@pytest.mark.parametrize("when", ["after it was read", "after it was written"])
async def test_damage_is_noticed_that_is_done_while_all_is_looked_at(when: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that is loaded just while the agent starts, say."""
    monkeypatch.setattr(proxier, "LOOK", 0.01)
    world = World()
    put(world.view, service("web", "10.96.0.1"), slice_of("web", "10.244.0.1"))
    await world.sync()
    put(world.view, slice_of("web", "10.244.0.2"))
    world.view.confirm()
    apply, wiped = world.tables.apply, False

    async def wiped_meanwhile(edit: Edit) -> None:
        nonlocal wiped
        if when == "after it was written":
            await apply(edit)
        if not wiped:
            world.tables.contents[ChainId("nat", "PREROUTING")] = ()
        wiped = True
        if when == "after it was read":
            await apply(edit)

    monkeypatch.setattr(world.tables, "apply", wiped_meanwhile)
    world.new()
    await running(world, lambda: world.figures.value(figures.HEALED) == 1 and world.proxier._adopted)
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
        async with asyncio.timeout(60):
            await world.proxier.synced.wait()
        running.cancel()
    world.check()
