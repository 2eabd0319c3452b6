"""Pods' lives on fakes: births, restarts of the agent, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from agent.engine.protocol import Container
from agent.link.protocol import ClusterView
from agent.pods import labels
from sampan.api import resources
from sampan.api.types import core_v1, meta_v1
from tests.support.pods import NODE, World, make_pod


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


async def test_a_change_during_a_refresh_is_written_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    going, seen = asyncio.Event(), []

    def change(value: str) -> None:
        world.view.put(resources.CONFIGMAPS, core_v1.ConfigMap(
            metadata=meta_v1.ObjectMeta(name="conf", namespace="default"), data={"a": value}))

    async def refresh(_pod: core_v1.Pod, view: ClusterView) -> None:
        config = view.get(resources.CONFIGMAPS, "conf", "default")
        assert config
        seen.append(config.data["a"])
        await going.wait()

    monkeypatch.setattr(world.volumes, "refresh", refresh)
    change("1")
    async with world.agent():
        world.create(make_pod(volumes=[{"name": "v", "configMap": {"name": "conf"}}]))
        await world.settle()
        for value in ("2", "3"):
            change(value)
            await world.settle()
        assert seen == ["2"]
        going.set()
        await world.settle()
        assert seen == ["2", "3"]
