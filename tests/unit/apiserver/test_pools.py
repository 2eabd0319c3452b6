"""ClusterIPs and node ports after a restart, and whose write nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib

from master.apiserver.pools import INTERVAL
from master.main import UNVERSIONED, ApiParts
from master.store.memory import MemoryStore
from sampan.api.resources import EVENTS, NAMESPACES, SERVICES
from sampan.api.types.core_v1 import Namespace, Service, ServicePort, ServiceSpec
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.loop.clock import FakeClock


def service(name: str, address: str = "") -> Service:
    return Service(metadata=ObjectMeta(name=name, namespace="default"),
                   spec=ServiceSpec(cluster_ip=address or None, ports=[ServicePort(port=80)]))


async def test_two_services_with_one_address_are_told_of() -> None:
    clock = FakeClock()
    store = MemoryStore(unversioned=UNVERSIONED)
    async with asyncio.TaskGroup() as group:
        for last in (False, True):  # the second server knows nothing of what the first has given out
            parts = ApiParts.build(store, clock, "10.96.0.0/16")
            tasks = [group.create_task(run()) for run in (parts.registry.run, parts.runs["pool-repair"],
                                                          parts.runs["apiserver-events"])]
            await parts.registry.ready()
            if not last:
                await parts.client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="default")))
            await parts.client.create(SERVICES, service(f"s-{last}".lower(), "10.96.0.10"))
            if last:
                await clock.advance(INTERVAL + 1)
                found = []
                async with asyncio.timeout(60):
                    while not found:
                        await clock.settle(20)
                        found = (await parts.client.list(EVENTS)).items
                assert [(item.reason, item.involved_object.name, item.source and item.source.component)
                        for item in found if item.reason == "ClusterIPAlreadyAllocated"] == [
                            ("ClusterIPAlreadyAllocated", "s-true", "ipallocator-repair-controller")]
            for task in tasks:
                task.cancel()


async def test_a_write_goes_on_without_its_caller() -> None:
    parts = ApiParts.build(MemoryStore(unversioned=UNVERSIONED), FakeClock(), "10.96.0.0/30")  # two addresses
    async with asyncio.TaskGroup() as group:
        caches = group.create_task(parts.registry.run())
        await parts.registry.ready()
        await parts.client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="default")))
        for steps in range(20):
            task = group.create_task(parts.client.create(SERVICES, service("web")))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            async with asyncio.timeout(60):
                while not (found := (await parts.client.list(SERVICES)).items) and steps:
                    await asyncio.sleep(0)
            if found:
                await parts.client.delete(SERVICES, "web", "default")
        caches.cancel()
