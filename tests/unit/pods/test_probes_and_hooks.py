"""What probes and hooks do to pods, on fakes."""

from __future__ import annotations

import pytest

from agent.probes.protocol import ProbeResult, ProbeTarget
from netplugin.protocol import NetworkError
from sampan.api.types import core_v1
from tests.support.pods import World, make_pod


async def test_readiness(world: World) -> None:
    world.prober.results["app"] = ProbeResult("failure", "dial tcp 10.244.1.2:80: connect: connection refused")
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5}}]))
        await world.settle()
        status = world.status(pod)
        assert not status.container_statuses[0].ready
        ready = next(condition for condition in status.conditions if condition.type == "Ready")
        assert (ready.reason, ready.message) == ("ContainersNotReady", "containers with unready status: [app]")
        assert world.reports.messages("Unhealthy") == [
            "Readiness probe failed: dial tcp 10.244.1.2:80: connect: connection refused"]
        world.prober.results.clear()
        await world.advance(5)
        assert world.status(pod).container_statuses[0].ready


async def test_a_restarted_agent_probes_the_pod_s_address_from_the_start(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have to wait for the network; the node's address would answer for another."""
    asked: list[str] = []
    probe = world.prober.probe

    async def seen(target: ProbeTarget, what: core_v1.Probe) -> ProbeResult:
        asked.append(target.pod_ip)
        return await probe(target, what)

    monkeypatch.setattr(world.prober, "probe", seen)
    async with world.agent():
        world.create(make_pod(containers=[{"name": "app", "image": "app:1", "command": ["pause"],
                                           "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5}}]))
        await world.settle()
    world.network.broken = NetworkError("the node has no pod CIDR yet")
    asked.clear()
    async with world.agent():
        await world.advance(60)
    assert set(asked) == {"10.244.1.2"}


async def test_liveness(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 5, "failureThreshold": 2}}]))
        await world.settle()
        first = await world.running("app")
        world.prober.results["app"] = ProbeResult("failure", "no")
        await world.advance(5)
        assert (await world.running("app")).id == first.id
        await world.advance(5)
        world.prober.results.clear()
        await world.settle()
        assert (await world.running("app")).id != first.id
        assert world.reports.messages("Killing") == ["Container app failed liveness probe, will be restarted"]
        assert world.status(pod).container_statuses[0].restart_count == 1


async def test_a_startup_probe_holds_back_the_others(world: World) -> None:
    world.prober.results["app"] = ProbeResult("failure", "not yet")
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "startupProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 30},
             "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1}}]))
        await world.advance(5)
        container = world.status(pod).container_statuses[0]
        assert (container.started, container.ready, container.restart_count) == (False, False, 0)
        world.prober.results.clear()
        await world.advance(2)
        container = world.status(pod).container_statuses[0]
        assert (container.started, container.ready, container.restart_count) == (True, True, 0)


async def test_post_start_that_fails_ends_the_container(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never", containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "lifecycle": {"postStart": {"exec": {"command": ["false"]}}}}]))
        await world.settle()
        assert world.reports.messages("FailedPostStartHook") == ["PostStartHook failed"]
        assert world.status(pod).phase == "Failed"


async def test_pre_stop_runs_before_the_end(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}]))
        await world.settle()
        world.delete(pod)
        await world.advance(4)
        assert (await world.running("app")).running
        await world.advance(2)
        assert world.reports.terminated == ["uid-web"]


async def test_less_grace_cuts_a_pre_stop_short(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "lifecycle": {"preStop": {"sleep": {"seconds": 25}}}}]))
        await world.settle()
        world.delete(pod)
        await world.advance(2)
        world.delete(pod, grace=1)
        await world.advance(2)
        assert world.reports.terminated == ["uid-web"]
