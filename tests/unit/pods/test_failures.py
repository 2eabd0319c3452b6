"""What goes wrong around pods, on fakes: crashes, images, volumes, the network, Docker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.engine.protocol import EngineError, EngineEvent, LogLine
from agent.pods import observe
from netplugin.protocol import NetworkError, Sandbox
from sampan.api import resources
from sampan.api.types import core_v1
from tests.support.pods import World, make_pod


async def test_a_crash_is_answered_by_restarts_that_come_later_and_later(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "app:1", "command": ["false"]}]))
        await world.settle()
        container = world.status(pod).container_statuses[0]
        assert container.restart_count == 1, "the first restart is immediate"
        assert container.state is not None
        assert container.state.waiting == core_v1.ContainerStateWaiting(
            reason="CrashLoopBackOff",
            message="back-off 10s restarting failed container=app pod=web_default(uid-web)")
        assert container.last_state is not None
        assert container.last_state.terminated is not None
        assert container.last_state.terminated.reason == "Error"
        assert world.status(pod).phase == "Running"
        assert world.reports.messages("BackOff") == [
            "Back-off restarting failed container app in pod web_default(uid-web)"]
        await world.advance(9)
        assert world.status(pod).container_statuses[0].restart_count == 1
        await world.advance(1)
        assert world.status(pod).container_statuses[0].restart_count == 2
        await world.advance(19)
        assert world.status(pod).container_statuses[0].restart_count == 2
        await world.advance(1)
        assert world.status(pod).container_statuses[0].restart_count == 3
        assert len(await world.boxes("app")) == 2, "one dead container is kept for logs --previous"


async def test_the_back_off_survives_the_agent(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "app:1", "command": ["false"]}]))
        await world.advance(15)
        assert world.status(pod).container_statuses[0].restart_count == 2
    async with world.agent():
        await world.advance(14)
        assert world.status(pod).container_statuses[0].restart_count == 2
        await world.advance(2)
        assert world.status(pod).container_statuses[0].restart_count == 3


async def test_a_container_that_cannot_be_removed_is_tried_again_and_holds_up_nobody(world: World) -> None:
    world.view.confirm()
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        [app] = await world.boxes("app")
        world.engine.held.add(app.id)
        world.delete(pod)
        await world.advance(60)
        assert world.view.get(resources.PODS, "web", "default") is None, "the object need not wait for it"
        assert [box.status for box in await world.boxes()] == ["dead"]
        for _ in range(3):  # looks at everything, then tries again as an orphan, with a back-off
            await world.advance(70)
        assert [box.status for box in await world.boxes()] == ["dead"]
        assert world.engine.calls.count(("remove", app.id)) > 1
        world.engine.held.clear()
        await world.advance(600)
        assert await world.empty()


async def test_a_dead_container_of_a_living_pod_counts_as_one_that_ended(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        [app] = await world.boxes("app")
        world.engine.held.add(app.id)
        with pytest.raises(EngineError, match="busy"):
            await world.engine.remove(app.id)  # as somebody at the command line does
        await world.advance(5)
        assert world.status(pod).container_statuses[0].restart_count == 1
        assert (await world.running("app")).id != app.id


async def test_a_dead_infra_container_takes_the_pod_with_it(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        old = await world.running("POD")
        world.engine.exit(old.id, 137)
        await world.settle()
        status = world.status(pod)
        assert status.phase == "Running"
        assert status.container_statuses[0].restart_count == 1
        assert world.reports.messages("SandboxChanged") == ["Pod sandbox changed, it will be killed and re-created."]
        assert [box.name for box in await world.boxes("POD")] == ["k8s_POD_web_default_uid-web_1"]
        assert len(world.network.attachments) == 1


async def test_docker_restarts_and_pods_come_back(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        for box in await world.boxes():
            world.engine.exit(box.id, 0)
        world.engine.disconnect()
        await world.advance(2)
        assert world.status(pod).phase == "Running"
        assert world.status(pod).container_statuses[0].restart_count == 1
        assert len(world.network.attachments) == 1


async def test_a_failing_engine_is_asked_again(world: World) -> None:
    async with world.agent():
        world.engine.fail("create", EngineError("no space left on device"))
        pod = world.create(make_pod())
        await world.settle()
        assert world.reports.messages("FailedCreatePodSandBox") == [
            'Failed to create pod sandbox: failed to create a sandbox for pod "web": no space left on device']
        assert world.status(pod).phase == "Pending"
        await world.advance(2)
        assert world.status(pod).phase == "Running"


async def test_the_network_fails_once(world: World) -> None:
    async with world.agent():
        world.network.broken = NetworkError("no free address")
        pod = world.create(make_pod())
        await world.settle()
        assert "no free address" in world.reports.messages("FailedCreatePodSandBox")[0]
        assert world.status(pod).phase == "Pending"
        await world.advance(2)
        assert world.status(pod).phase == "Running"
        assert len(await world.boxes("POD")) == 1


async def test_an_image_that_is_not_to_be_had(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "gone:1"}]))
        await world.settle()
        state = world.status(pod).container_statuses[0].state
        assert state is not None
        assert state.waiting is not None
        assert state.waiting.reason == "ErrImagePull"
        await world.advance(3)
        state = world.status(pod).container_statuses[0].state
        assert state is not None
        assert state.waiting is not None
        assert state.waiting.reason == "ImagePullBackOff"
        assert (state.waiting.message or "").startswith('Back-off pulling image "gone:1": ErrImagePull: ')
        world.engine.add_image("gone:1", remote=True, command=["pause"])
        await world.advance(10)
        assert world.status(pod).phase == "Running"
        assert world.reports.reasons() == ["Pulling", "Failed", "Failed", "BackOff", "Failed", "Pulling", "Pulled",
                                           "Created", "Started"]


async def test_never_pull(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "gone:1", "imagePullPolicy": "Never"}]))
        await world.settle()
        state = world.status(pod).container_statuses[0].state
        assert state is not None
        assert state.waiting == core_v1.ContainerStateWaiting(
            reason="ErrImageNeverPull", message='Container image "gone:1" is not present with pull policy of Never')


async def test_a_slow_pull_holds_up_only_its_container(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "app:1", "command": ["pause"]},
                                                {"name": "late", "image": "gone:1"}]))
        await world.settle()
        status = world.status(pod)
        assert status.phase == "Pending"
        assert status.container_statuses[0].ready
        assert not status.container_statuses[1].ready


async def test_a_volume_that_fails(world: World) -> None:
    world.volumes.failures["data"] = 'configmap "x" not found'
    async with world.agent():
        pod = world.create(make_pod(volumes=[{"name": "data", "configMap": {"name": "x"}}]))
        await world.settle()
        assert world.status(pod).phase == "Pending"
        assert world.reports.messages("FailedMount") == [
            'MountVolume.SetUp failed for volume "data" : configmap "x" not found']
        world.volumes.failures.clear()
        await world.advance(1)
        assert world.status(pod).phase == "Running"


async def test_a_taken_name_is_adopted_or_removed(world: World) -> None:
    """The engine failed but made the container all the same (a power cut, a timeout)."""
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        sandbox = await world.running("POD")
        spec = world.engine.specs[sandbox.id]
    world.view.delete(resources.PODS, pod)
    for box in await world.boxes():
        await world.engine.remove(box.id)
    await world.engine.create(spec)
    async with world.agent():
        world.create(make_pod())
        await world.settle()
        assert [box.name for box in await world.boxes("POD")] == ["k8s_POD_web_default_uid-web_0"]
        assert world.status(pod).phase == "Running"


async def test_an_address_that_no_sandbox_has_is_free_again_within_minutes(world: World) -> None:
    """Docker lost the sandbox, or an attachment was made in vain: nobody restarts the agent for that."""
    async with world.agent():
        world.view.confirm()
        world.create(make_pod())
        await world.settle()
        [own] = world.network.attachments
        await world.network.attach(Sandbox("f" * 64, 1, "default", "lost", "uid-lost"))
        for _ in range(10):
            await world.advance(60)
        assert list(world.network.attachments) == [own]
        assert ("detach", own) not in world.network.calls


async def test_a_strangers_container_is_left_alone(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        spec = world.engine.specs[(await world.running("POD")).id]
        world.delete(pod)
        await world.settle()
        strange = await world.engine.create(type(spec)(name=spec.name, image=spec.image))
        world.create(make_pod())
        await world.settle()
        assert world.status(pod).phase == "Running"
        assert (await world.engine.inspect(strange)).name == spec.name
        assert (await world.running("POD")).name.startswith(spec.name + "_")


async def test_an_end_that_fails_is_told_and_tried_again(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        world.engine.fail("remove", EngineError("device or resource busy"))
        world.delete(pod)
        await world.settle()
        assert world.reports.messages("FailedKillPod") == ["error killing pod: device or resource busy"]
        await world.advance(2)
        assert await world.empty()
        assert world.reports.terminated == ["uid-web"]


async def test_a_kernel_that_refuses_negative_oom_scores(world: World) -> None:
    refusal = "OCI runtime create failed: write /proc/self/oom_score_adj: permission denied"
    async with world.agent():
        world.engine.fail("start", EngineError(refusal))
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}]))
        await world.advance(1)
        assert world.status(pod).phase == "Running"
        assert all(spec.limits.oom_score_adj == 0 for spec in world.engine.specs.values())
        assert "OOMScoreAdjusted" in world.reports.reasons()


async def test_a_second_agent_finds_what_the_engine_made_after_a_timeout(world: World) -> None:
    """The engine says no and does it all the same; nothing is made twice."""
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never"))
        await world.settle()
        app = await world.running("app")
        world.engine.disconnect()
        await world.advance(61)
        assert (await world.running("app")).id == app.id
        assert world.status(pod).container_statuses[0].restart_count == 0


async def test_the_network_of_a_removed_sandbox_is_released(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        lost = await world.running("POD")
        await world.engine.remove(lost.id)
        await world.settle()
        assert world.status(pod).container_statuses[0].restart_count == 1
        assert set(world.network.attachments) == {(await world.running("POD")).id}
        await world.engine.remove((await world.running("POD")).id)
        world.delete(pod)
        await world.advance(31)
        assert await world.empty()


async def test_a_sandbox_that_lost_its_link_is_connected_again(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        before, sandbox = world.status(pod), await world.running("POD")
        world.network.calls.clear()
        world.network.lose(sandbox.id)
        await world.settle()
        assert world.network.calls == [("attach", sandbox.id)]
        assert world.status(pod) == before


async def test_a_worker_that_failed_while_it_stopped_a_container_stops_it_again(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.agent() as manager:
        world.view.confirm()
        pod = world.create(make_pod())
        await world.settle()
        app = await world.running("app")
        with monkeypatch.context() as patch:
            patch.setattr(world.engine, "stop", _for_ever)
            world.delete(pod)
            await world.settle()
            assert world.reports.messages("Killing") == ["Stopping container app"]
            patch.setattr("agent.pods.worker.next_step", _fault)
            manager._workers[pod.metadata.uid].hear(EngineEvent("oom", app.id, {}, world.clock.now()))
            await world.settle()
        await world.advance(60)
        assert await world.empty()


async def _for_ever(*_: object) -> None:
    await asyncio.Event().wait()


def _fault(*_: object) -> None:
    raise ValueError("a fault of ours")


async def test_a_log_that_never_ends_does_not_keep_a_pod_from_its_restart(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def logs(*_: object, **__: object) -> AsyncIterator[LogLine]:
        await asyncio.Event().wait()
        yield LogLine("stdout", "", b"")

    monkeypatch.setattr(world.engine, "logs", logs)
    monkeypatch.setattr(observe, "LOG_SECONDS", 0)
    async with world.agent():
        pod = world.create(make_pod(containers=[{"name": "app", "image": "app:1", "command": ["pause"],
                                                 "terminationMessagePolicy": "FallbackToLogsOnError"}]))
        await world.settle()
        world.engine.exit((await world.running("app")).id, 1)
        await world.settle()
        await world.advance(60)
        assert world.status(pod).container_statuses[0].restart_count == 1


async def test_a_clock_that_is_set_back_makes_nobody_blind(world: World) -> None:
    """What was seen by the old time must not count as news until the new time has caught up with it."""
    async with world.agent():
        world.view.confirm()
        pod = world.create(make_pod())
        failing = world.create(make_pod("failing", containers=[{"name": "app", "image": "none:1"}]))
        await world.advance(100)
        world.clock.step(-3600)
        world.engine.exit((await world.running("app")).id, 1)
        await world.advance(70)
        assert world.status(pod).container_statuses[0].restart_count == 1
        world.engine.add_image("none:1")
        tries = world.engine.calls.count(("image", "none:1"))
        await world.advance(600)
        assert world.status(failing).phase == "Running"
        assert world.engine.calls.count(("image", "none:1")) - tries < 10
        world.clock.step(-3600)
        for item in (pod, failing):
            world.delete(item)
        await world.advance(60)
        assert sorted(world.reports.terminated) == ["uid-failing", "uid-web"]
        assert await world.empty()
