"""What a node's proxy says of its own health; sockets are tested in tests/integration/proxy."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agent.proxy.health import HealthPort, ProxyHealth
from agent.proxy.model import ServiceKey
from agent.server.http import Request
from netplugin.tables import Edit
from sampan.loop.clock import FakeClock
from tests.support.proxier import World
from tests.support.services import put, service, slice_of


async def told(health: ProxyHealth, path: str = "/healthz") -> tuple[int, dict[str, Any]]:
    response = await health._proxy(Request("GET", path))
    return response.status, json.loads(response.body)


async def test_a_service_that_goes_while_its_port_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    health = ProxyHealth(FakeClock(), "")
    health.serve([HealthPort(32100, ServiceKey("default", "lb"), 1)])

    async def taken(*_: object) -> None:
        health.serve([])
        raise OSError("address already in use")

    monkeypatch.setattr(asyncio, "start_server", taken)
    assert await health._follow()
    assert not await health._follow()


async def test_changes_that_wait_too_long_make_the_proxy_unwell() -> None:
    clock, world = FakeClock(), World()
    world.health = ProxyHealth(clock, "")
    world.new()
    put(world.view, service("web", "10.96.0.1"))
    await world.sync()
    await clock.advance(600)
    assert world.health.healthy
    put(world.view, slice_of("web", "10.244.0.1"))
    await clock.advance(59)
    assert world.health.healthy
    await clock.advance(2)
    assert not world.health.healthy
    await world.sync()
    assert world.health.healthy


async def test_changes_that_never_end_leave_the_proxy_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is written soon, but while one is written the next one comes."""
    clock, world = FakeClock(), World()
    world.health = ProxyHealth(clock, "")
    world.new()
    put(world.view, service("web", "10.96.0.1"))
    apply, count = world.tables.apply, 0

    async def slow(edit: Edit) -> None:
        nonlocal count
        count += 1
        await clock.advance(1)
        put(world.view, slice_of("web", f"10.244.0.{count}"))
        await apply(edit)

    monkeypatch.setattr(world.tables, "apply", slow)
    for _ in range(70):
        await world.sync()
    assert world.health.healthy
    await clock.advance(61)
    assert not world.health.healthy


async def test_what_is_well_is_up_to_date() -> None:
    """Upstream: the time is that of the last sync only while changes have waited for too long."""
    clock = FakeClock()
    eligible = True
    health = ProxyHealth(clock, "", eligible=lambda: eligible)
    health.synced()
    synced = clock.now().isoformat()
    await clock.advance(300)
    status, body = await told(health)
    assert status == 200
    assert body == {"lastUpdated": clock.now().isoformat(), "currentTime": clock.now().isoformat(),
                    "nodeEligible": True}
    health.queued()
    await clock.advance(61)
    for path in ("/healthz", "/livez"):
        status, body = await told(health, path)
        assert (status, body["lastUpdated"]) == (503, synced)
        assert ("nodeEligible" in body) == (path == "/healthz")
    health.synced()
    eligible = False
    assert (await told(health))[0] == 503
    assert (await told(health, "/livez"))[0] == 200
