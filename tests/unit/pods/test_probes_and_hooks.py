"""What probes and hooks do to pods, on fakes."""

from __future__ import annotations

import asyncio

import pytest

from agent.engine.protocol import Container
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


async def test_readiness_is_asked_until_the_end(world: World) -> None:
    """A pod that is being deleted may stop serving before it ends; whether it is alive is of no interest any more."""
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1}
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"], "livenessProbe": probe, "readinessProbe": probe,
             "lifecycle": {"preStop": {"sleep": {"seconds": 20}}}}]))
        await world.settle()
        world.prober.runs.clear()
        world.delete(pod)
        await world.settle()
        assert world.prober.runs == [], "most containers are gone in the next moment"
        await world.advance(2)
        assert world.status(pod).container_statuses[0].ready
        world.prober.results["app"] = ProbeResult("failure", "draining")
        await world.advance(2)
        status = world.status(pod)
        assert status.container_statuses[0].state
        assert status.container_statuses[0].state.running
        assert not status.container_statuses[0].ready
        assert world.reports.messages("Killing") == ["Stopping container app"]
        assert set(world.reports.messages("Unhealthy")) == {"Readiness probe failed: draining"}
        world.prober.results.clear()
        await world.advance(2)
        assert world.status(pod).container_statuses[0].ready
        await world.advance(20)
        assert world.reports.terminated == ["uid-web"]
        world.prober.runs.clear()
        await world.advance(10)
        assert world.prober.runs == []


async def test_a_pod_that_ends_before_it_has_started_is_never_ready(world: World) -> None:
    world.prober.results["app"] = ProbeResult("failure", "not yet")
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 1}
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"], "readinessProbe": probe,
             "startupProbe": {**probe, "failureThreshold": 60}, "lifecycle": {"preStop": {"sleep": {"seconds": 20}}}}]))
        await world.settle()
        world.delete(pod)
        await world.settle()
        world.prober.results.clear()
        world.prober.runs.clear()
        await world.advance(10)
        assert world.prober.runs == []
        assert not world.status(pod).container_statuses[0].ready


async def test_a_container_that_is_first_seen_running_in_a_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of all containers may overtake the look that follows a start: what probes have said by then holds, and
    a postStart hook holds them up from the start."""
    looked, inspect = asyncio.Event(), world.engine.inspect

    async def slow(container_id: str) -> Container:
        box = await inspect(container_id)
        if box.running and box.labels["io.kubernetes.container.name"] != "POD":
            await looked.wait()
        return box

    monkeypatch.setattr(world.engine, "inspect", slow)
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 1}
    async with world.agent():
        plain = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"], "readinessProbe": probe}]))
        hooked = world.create(make_pod("hooked", containers=[
            {"name": "hook", "image": "app:1", "command": ["pause"], "readinessProbe": probe,
             "lifecycle": {"postStart": {"sleep": {"seconds": 300}}}}]))
        await world.settle()
        await world.advance(120)
        assert world.status(plain).container_statuses[0].ready
        assert not world.status(hooked).container_statuses[0].ready
        looked.set()
        await world.settle()
        await world.advance(10)
        assert world.status(plain).container_statuses[0].ready
        assert not world.status(hooked).container_statuses[0].ready
        assert set(world.prober.runs) == {"app"}
        await world.advance(300)
        assert world.status(hooked).container_statuses[0].ready


async def test_a_period_is_from_one_beginning_to_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a container that does not answer in time is found out only after twice the time."""
    runs: list[float] = []

    async def slow(*_asked: object) -> ProbeResult:
        runs.append(world.clock.monotonic())
        await world.clock.sleep(4)
        return ProbeResult("success", "redirected")

    monkeypatch.setattr(world.prober, "probe", slow)
    async with world.agent():
        world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5, "timeoutSeconds": 5}}]))
        await world.settle()
        for _ in range(16):
            await world.advance(1)
    assert [run - runs[0] for run in runs] == [0, 5, 10, 15]
    assert set(world.reports.messages("ProbeWarning")) == {"Liveness probe warning: redirected"}


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


async def test_a_container_that_its_probe_ends_is_restarted_whatever_its_exit_code(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many programs answer SIGTERM with 0; the pod has not succeeded by that."""
    async def stop(container_id: str, _grace: float) -> None:
        world.prober.results.clear()
        world.engine.exit(container_id, 0)

    monkeypatch.setattr(world.engine, "stop", stop)
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="OnFailure", containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 5, "failureThreshold": 1}}]))
        await world.settle()
        for restarts in (1, 2):
            world.prober.results["app"] = ProbeResult("failure", "no")
            await world.advance(25)
            assert world.status(pod).container_statuses[0].restart_count == restarts
        assert {status.phase for status in world.reports.history} == {"Pending", "Running"}
        world.engine.exit((await world.running("app")).id, 0)
        await world.settle()
        assert world.status(pod).phase == "Succeeded"


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
             "lifecycle": {"postStart": {"exec": {"command": ["false"]}},
                           "preStop": {"httpGet": {"port": 80}}}}]))
        await world.settle()
        assert world.reports.messages("FailedPostStartHook") == ["PostStartHook failed"]
        assert world.hooks.asked == ["app"], "whatever ends a container, its preStop runs before"
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
