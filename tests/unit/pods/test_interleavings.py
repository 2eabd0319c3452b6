"""Two tasks that come across each other: what one of them knew, or was told, before the other one did something."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from agent.engine.protocol import Container, ContainerSpec, EngineUnavailable, Image
from agent.pods import labels, steps
from agent.pods.worker import PodWorker
from sampan.api import resources
from tests.support.pods import World, make_pod


class SlowList:
    """Holds the engine's next answer to `list` from `hold` until `release`."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self._list = world.engine.list
        self._released = asyncio.Event()
        self._released.set()
        self.taken = asyncio.Event()
        monkeypatch.setattr(world.engine, "list", self)

    async def __call__(self, wanted: Mapping[str, str] | None = None) -> Sequence[Container]:
        found = await self._list(wanted)
        if not self._released.is_set():
            self.taken.set()
            await self._released.wait()
        return found

    def hold(self) -> None:
        self.taken.clear()
        self._released.clear()

    def release(self) -> None:
        self._released.set()


@pytest.mark.parametrize("name", ["POD", "app"])
async def test_a_list_that_was_asked_for_while_a_container_was_made(
        world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The list does not have the container, and comes while it is started: it is there all the same."""
    made, started = asyncio.Event(), asyncio.Event()
    create, start = world.engine.create, world.engine.start

    async def slow_create(spec: ContainerSpec) -> str:
        if spec.labels[labels.CONTAINER_NAME] == name:
            await made.wait()
        return await create(spec)

    async def slow_start(container_id: str) -> None:
        if world.engine.specs[container_id].labels[labels.CONTAINER_NAME] == name:
            await started.wait()
        await start(container_id)

    monkeypatch.setattr(world.engine, "create", slow_create)
    monkeypatch.setattr(world.engine, "start", slow_start)
    slow_list = SlowList(world, monkeypatch)
    async with world.agent():
        pod = world.create(make_pod(containers=[
            {"name": "app", "image": "app:1", "command": ["pause"],
             "lifecycle": {"postStart": {"httpGet": {"port": 80}}}}]))
        await world.settle()
        slow_list.hold()
        await world.advance(70)
        assert slow_list.taken.is_set()
        made.set()
        await world.advance(1)
        slow_list.release()
        await world.settle()
        started.set()
        await world.settle()
        assert world.status(pod).container_statuses[0].ready
        assert world.hooks.asked == ["app"]
        assert len(await world.boxes()) == 2
        assert {"SandboxChanged", "Killing"}.isdisjoint(world.reports.reasons())


async def test_an_image_that_changes_while_another_is_pulled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pulled and checked was the old one: the new one is pulled and checked as well."""
    pulled, pull = asyncio.Event(), world.engine.pull

    async def slow(reference: str, auth: Mapping[str, str] | None = None) -> Image:
        await pulled.wait()
        return await pull(reference, auth)

    monkeypatch.setattr(world.engine, "pull", slow)
    world.engine.add_image("old:1", user="1000", remote=True)
    world.engine.add_image("new:1", user="root")
    container = {"name": "app", "image": "old:1", "command": ["pause"], "securityContext": {"runAsNonRoot": True}}
    async with world.agent():
        pod = world.create(make_pod(containers=[container]))
        await world.settle()
        world.view.put(resources.PODS, make_pod(containers=[{**container, "image": "new:1"}]))
        pulled.set()
        await world.settle()
        assert await world.boxes("app") == []
        state = world.status(pod).container_statuses[0].state
        assert state
        assert state.waiting
        assert state.waiting.reason == "CreateContainerConfigError"


async def test_an_image_that_changes_as_its_container_is_about_to_be_made(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the decision and its step: the step finds another image than the one that was pulled and checked."""
    container = {"name": "app", "image": "old:1", "command": ["pause"], "securityContext": {"runAsNonRoot": True}}
    launch = PodWorker._launch

    def launch_and_change(worker: PodWorker, step: steps.Action) -> None:
        launch(worker, step)
        if isinstance(step, steps.CreateContainer):
            world.view.put(resources.PODS, make_pod(containers=[{**container, "image": "new:1"}]))

    monkeypatch.setattr(PodWorker, "_launch", launch_and_change)
    world.engine.add_image("old:1", user="1000")
    world.engine.add_image("new:1", user="root")
    async with world.agent():
        pod = world.create(make_pod(containers=[container]))
        await world.settle()
        assert await world.boxes("app") == []
        state = world.status(pod).container_statuses[0].state
        assert state
        assert state.waiting
        assert state.waiting.reason == "CreateContainerConfigError"


async def test_a_mended_image_is_pulled_at_once(world: World) -> None:
    """The wait was for the image that could not be pulled."""
    container = {"name": "app", "image": "missing:1", "command": ["pause"]}
    async with world.agent():
        world.create(make_pod(containers=[container]))
        await world.settle()
        await world.advance(600)
        world.view.put(resources.PODS, make_pod(containers=[{**container, "image": "app:1"}]))
        await world.settle()
        assert await world.running("app")


async def test_a_list_that_is_older_than_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose making was not answered is looked for again: it goes before its pod is said to be gone."""
    create, slow_list = world.engine.create, SlowList(world, monkeypatch)

    async def unanswered(spec: ContainerSpec) -> str:
        if spec.labels[labels.CONTAINER_NAME] == "POD":
            return await create(spec)
        if spec.labels[labels.CONTAINER_NAME] == "b":
            await slow_list.taken.wait()
            await create(spec)
        raise EngineUnavailable("the connection broke")

    monkeypatch.setattr(world.engine, "create", unanswered)
    async with world.agent():
        slow_list.hold()
        pod = world.create(make_pod(containers=[{"name": name, "image": "app:1", "command": ["pause"]}
                                                for name in "ab"]))
        await world.settle()
        assert slow_list.taken.is_set()
        world.delete(pod)
        slow_list.release()
        await world.settle()
        assert world.reports.terminated == ["uid-web"]
        assert await world.boxes() == []


async def test_a_list_that_is_older_than_a_removal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that it has and that have gone since do not come back."""
    torn_down, teardown, slow_list = asyncio.Event(), world.volumes.teardown, SlowList(world, monkeypatch)

    async def slow(uid: str) -> None:
        await torn_down.wait()
        await teardown(uid)

    monkeypatch.setattr(world.volumes, "teardown", slow)
    async with world.agent():
        pod = world.create(make_pod())
        await world.settle()
        slow_list.hold()
        await world.advance(70)
        assert slow_list.taken.is_set()
        world.delete(pod)
        await world.settle()
        await world.advance(1)
        said = world.status(pod)
        assert said.container_statuses[0].state
        assert said.container_statuses[0].state.terminated
        world.reports.history.clear()
        slow_list.release()
        await world.settle()
        assert world.reports.history == []
        assert world.reports.reasons().count("Killing") == 1
        torn_down.set()
        await world.settle()
        assert world.reports.terminated == ["uid-web"]
        assert await world.empty()


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
async def test_a_pod_that_is_over_before_its_master_knows(world: World, policy: str) -> None:
    """Its containers may go before its status comes back: it does not run again."""
    async with world.agent():
        pod = world.create(make_pod(restartPolicy=policy, containers=[
            {"name": "app", "image": "app:1", "command": ["true"]}]))
        await world.settle()
        assert world.status(pod).phase == "Succeeded"
        for box in await world.boxes("app"):
            await world.engine.remove(box.id)
        world.engine.calls.clear()
        world.view.put(resources.PODS, replace(pod, metadata=replace(pod.metadata, labels={"new": "label"})))
        await world.settle()
        assert "create" not in [call for call, _ in world.engine.calls]
        assert world.status(pod).phase == "Succeeded"
