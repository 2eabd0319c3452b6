"""Pods' lives on fakes: births, crashes, restarts of the agent and of Docker, deaths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.engine.protocol import Container, EngineError, EngineEvent, LogLine
from agent.pods import labels, observe
from agent.probes.protocol import ProbeResult, ProbeTarget
from netplugin.protocol import NetworkError, Sandbox
from sampan.api import resources
from sampan.api.types import core_v1, meta_v1
from tests.support.pods import NODE, World, make_pod


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.begin()
    yield made
    await made.engine.close()


async def test_a_pod_is_born(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        status = world.status(pod)
        assert status.phase == "Running"
        assert status.pod_ip == "10.244.1.2"
        assert status.container_statuses[0].ready
        assert {condition.type: condition.status for condition in status.conditions} == {
            "PodReadyToStartContainers": "True", "Initialized": "True", "Ready": "True", "ContainersReady": "True",
            "PodScheduled": "True"}
        assert world.reports.reasons() == ["Pulled", "Created", "Started"]
        assert world.reports.messages("Pulled") == ['Container image "app:1" already present on machine']
        assert world.reports.messages("Created") == ["Created container: app"]
        assert {box.name for box in await world.boxes()} == {
            "k8s_POD_web_default_uid-web_0", "k8s_app_web_default_uid-web_0"}
        app = await world.running("app")
        sandbox = await world.running("POD")
        assert world.engine.specs[app.id].network_mode == f"container:{sandbox.id}"
        assert world.engine.specs[app.id].cgroup_parent == "/kubepods/besteffort/poduid-web"
        assert status.container_statuses[0].container_id == f"docker://{app.id}"


async def test_only_root_may_look_into_pods_directories(world: World) -> None:
    async with world.agent():
        world.create(make_pod())
        await world.settle()
        assert (world.root / "pods").stat().st_mode & 0o007 == 0


async def test_a_birth_costs_few_calls(world: World) -> None:
    async with world.agent():
        world.create(make_pod("first"))
        await world.settle()
        world.engine.calls.clear()
        world.create(make_pod("second"))
        await world.settle()
        calls = [call for call, _ in world.engine.calls]
        assert sorted(calls) == ["create", "create", "inspect", "inspect", "start", "start"]


async def test_a_deleted_pod_leaves_nothing(world: World) -> None:
    async with world.agent():
        world.view.confirm()
        pod = world.create(make_pod())
        await world.settle()
        world.delete(pod)
        await world.settle()
        assert world.reports.terminated == ["uid-web"]
        assert world.reports.messages("Killing") == ["Stopping container app"]
        assert await world.empty()
        assert world.manager.pods() == []
        state = world.status(pod).container_statuses[0].state
        assert state is not None
        assert state.terminated is not None
        assert state.terminated.exit_code == 143
        assert world.status(pod).phase == "Failed"


async def test_a_pod_deleted_by_force_leaves_nothing_either(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        world.view.delete(resources.PODS, pod)
        await world.settle()
        assert await world.empty()
        assert world.reports.terminated == []


async def test_the_agent_restarts_and_nothing_else_does(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5}}]))
        await world.settle()
        before = world.status(pod)
        boxes = await world.boxes()
    await world.advance(100)
    world.reports.history.clear()
    world.engine.calls.clear()
    async with world.agent():
        await world.settle()
        assert await world.boxes() == boxes
        assert world.reports.history == [before]
        assert "start" not in [call for call, _ in world.engine.calls]


async def test_a_pod_deleted_while_the_agent_is_down_is_taken_away(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
    world.view.delete(resources.PODS, pod)
    async with world.agent():
        await world.advance(60)
        assert len(await world.boxes()) == 2, "not before the master has confirmed the view"
        world.view.confirm()
        await world.settle()
        assert len(await world.boxes()) == 2, "not without a grace period"
        await world.advance(6)
        await world.advance(6)
        assert await world.empty()
        assert world.reports.terminated == []


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


@pytest.mark.parametrize(("policy", "command", "phase"), [
    ("Never", ["true"], "Succeeded"), ("Never", ["false"], "Failed"), ("OnFailure", ["true"], "Succeeded")])
async def test_a_pod_runs_its_course(world: World, policy: str, command: list[str], phase: str) -> None:
    async with world.agent():
        pod = world.create(make_pod(restartPolicy=policy,
                                    containers=[{"name": "app", "image": "app:1", "command": command}]))
        await world.settle()
        status = world.status(pod)
        assert status.phase == phase
        assert status.pod_ip == "10.244.1.2", "the last address stays in the status"
        assert len(await world.boxes("app")) == 1, "the container stays, for its logs"
        assert not world.network.attachments
        assert not world.volumes.pods
        assert not world.cgroups.pods
        ready = next(condition for condition in status.conditions if condition.type == "Ready")
        assert (ready.status, ready.reason) == ("False", "PodCompleted" if phase == "Succeeded" else "PodFailed")
    world.engine.calls.clear()
    async with world.agent():
        await world.advance(1)
        assert "create" not in [call for call, _ in world.engine.calls], "it does not run again"


async def test_init_containers_come_first_and_in_order(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(
            initContainers=[{"name": "one", "image": "app:1", "command": ["sleep", "1"]},
                            {"name": "two", "image": "app:1", "command": ["true"]}]))
        await world.settle()
        status = world.status(pod)
        assert status.phase == "Pending"
        waiting = status.container_statuses[0].state
        assert waiting is not None
        assert waiting.waiting is not None
        assert waiting.waiting.reason == "PodInitializing"
        initialized = next(condition for condition in status.conditions if condition.type == "Initialized")
        assert initialized.message == "containers with incomplete status: [one two]"
        assert await world.boxes("two") == []
        world.engine.exit((await world.running("one")).id)
        await world.settle()
        assert world.status(pod).phase == "Running"
        starts = world.reports.messages("Started")
        assert starts == ["Started container one", "Started container two", "Started container app"]


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


async def test_a_missing_config_map_is_waited_for(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "a"}}}]}]))
        await world.settle()
        state = world.status(pod).container_statuses[0].state
        assert state is not None
        assert state.waiting == core_v1.ContainerStateWaiting(reason="CreateContainerConfigError",
                                                              message='configmap "conf" not found')
        world.view.put(resources.CONFIGMAPS, core_v1.ConfigMap(
            metadata=meta_v1.ObjectMeta(name="conf", namespace="default"), data={"a": "1"}))
        await world.settle()
        assert world.status(pod).phase == "Running"
        assert world.engine.specs[(await world.running("app")).id].env["A"] == "1"


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


async def test_a_changed_image_replaces_the_container(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        world.view.put(resources.PODS, make_pod(containers=[{"name": "app", "image": "app:2", "command": ["pause"]}]))
        await world.settle()
        assert (await world.running("app")).image == "app:2"
        assert world.status(pod).container_statuses[0].restart_count == 1
        assert world.reports.messages("Killing") == ["Container app definition changed, will be restarted"]


async def test_the_active_deadline(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(activeDeadlineSeconds=30))
        await world.advance(29)
        assert world.status(pod).phase == "Running"
        await world.advance(2)
        status = world.status(pod)
        assert (status.phase, status.reason) == ("Failed", "DeadlineExceeded")
        assert not [box for box in await world.boxes() if box.running]


async def test_a_sidecar_starts_before_and_stops_after(world: World) -> None:
    async with world.agent():
        pod = world.create(make_pod(restartPolicy="Never", initContainers=[
            {"name": "side", "image": "app:1", "command": ["pause"], "restartPolicy": "Always"}]))
        await world.settle()
        assert world.reports.messages("Started") == ["Started container side", "Started container app"]
        assert world.status(pod).init_container_statuses[0].ready
        world.engine.exit((await world.running("app")).id)
        await world.settle()
        assert world.status(pod).phase == "Succeeded"
        assert world.reports.messages("Killing") == ["Stopping container side"]


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


def test_labels_of_a_newer_agent_are_refused() -> None:
    with pytest.raises(labels.UnknownLabels, match="version 7"):
        labels.check_version({labels.LABELS_VERSION: "7", labels.NODE: NODE})


async def test_an_idle_agent_sleeps(world: World) -> None:
    async with world.agent():
        for number in range(5):
            world.create(make_pod(f"p{number}"))
        await world.settle()
        await world.settle()
        assert world.clock.sleepers <= 1, "nothing but the relist is due"


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


async def test_ready_is_said_again_where_the_master_took_it_back(world: World) -> None:
    """As it does for the pods of a node that was silent."""
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        before = world.status(pod)
        world.reports.history.clear()
        known = world.view.get(resources.PODS, "web", "default")
        assert known is not None
        doubted = [replace(entry, status="False") if entry.type == "Ready" else entry
                   for entry in known.status.conditions]
        world.view.put(resources.PODS, replace(known, status=replace(known.status, conditions=doubted)))
        await world.settle()
        assert world.reports.history == [before]


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


async def test_a_container_that_was_reported_before_it_ran_is_ready(world: World) -> None:
    """The agent was killed between the start and the report of it; without a probe nobody else would say so."""
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
    known = world.view.get(resources.PODS, "web", "default")
    assert known is not None
    early = [replace(known.status.container_statuses[0], ready=False, started=False)]
    world.view.objects[resources.PODS.key]["default", "web"] = replace(
        known, status=replace(known.status, container_statuses=early))
    async with world.agent():
        assert world.status(pod).container_statuses[0].ready


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


async def test_a_pod_that_the_checkpoint_missed_keeps_its_containers(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    look = world.engine.list

    async def slowly(wanted: Mapping[str, str]) -> Sequence[Container]:
        await world.clock.sleep(0.1)
        return await look(wanted)

    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        for _ in range(2):
            world.engine.exit((await world.running("app")).id, 1)
            await world.advance(30)
        before = await world.running("app")
    known = world.view.objects[resources.PODS.key].pop(("default", "web"))
    monkeypatch.setattr(world.engine, "list", slowly)
    async with world.agent():
        await world.advance(0.1)
        world.view.put(resources.PODS, known)
        world.view.confirm()
        await world.settle()
        await world.advance(1)
        monkeypatch.undo()
        assert (await world.running("app")).id == before.id
        assert len([box for box in await world.boxes("POD") if box.running]) == 1
        assert world.status(pod).container_statuses[0].restart_count == 2
