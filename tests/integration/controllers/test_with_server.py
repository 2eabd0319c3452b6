"""All controllers on a real API server within this process: its defaults and rules, a kubelet that is played."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from master.apiserver.bootstrap import Bootstrap, Bootstrapper
from master.apiserver.local import LocalClient
from master.controllers.manager import ControllerManager, ControllerOptions
from master.main import ApiParts
from master.store.memory import MemoryStore
from sampan.api.errors import ApiError
from sampan.api.resources import (
    CERTIFICATESIGNINGREQUESTS,
    CONFIGMAPS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from sampan.api.times import Time
from sampan.api.types.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from sampan.api.types.core_v1 import (
    Namespace,
    Node,
    NodeCondition,
    NodeStatus,
    Pod,
    PodCondition,
    PodIP,
    Service,
    ServicePort,
    ServiceSpec,
)
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.informer import InformerFactory
from sampan.client.protocol import DeleteOptions, Patch
from sampan.loop.clock import SystemClock
from sampan.pki import ca
from sampan.pki.cluster import ClusterPki
from tests.support.controllers import deployment, meta

CLOCK = SystemClock()
REVISION = "deployment.kubernetes.io/revision"


class Cluster:
    """A master without agents."""

    def __init__(self, parts: ApiParts, store: MemoryStore, manager: ControllerManager) -> None:
        self.client: LocalClient = parts.client
        self.store = store
        self.manager = manager
        self.informers = InformerFactory(self.client, CLOCK)
        self._moved = asyncio.Event()
        for resource in (PODS, DEPLOYMENTS, REPLICASETS, NAMESPACES, NODES, ENDPOINTSLICES, ENDPOINTS, SERVICEACCOUNTS,
                         CONFIGMAPS, CERTIFICATESIGNINGREQUESTS):
            self.informers.get(resource).add_handler(lambda _, __: self._moved.set())

    async def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for a state of the cluster, looking whenever something has changed."""
        async with asyncio.timeout(seconds):
            while not true():
                self._moved.clear()
                await self._moved.wait()

    def names(self, resource: Resource[Any], namespace: str = "default") -> list[str]:
        """What is there of a kind."""
        return [item.metadata.name for item in self.informers.get(resource).all(namespace)]

    async def kubelet(self) -> None:
        """Bind, start and end pods."""
        queue: asyncio.Queue[Pod] = asyncio.Queue()
        self.informers.get(PODS).add_handler(lambda _, new: queue.put_nowait(new) if new else None)
        for address in itertools.count():
            try:
                await self._tend(await queue.get(), f"10.244.0.{address % 250 + 1}")
            except ApiError as error:
                if not (error.is_conflict or error.is_not_found):  # else the next event brings what is true now
                    raise

    async def _tend(self, pod: Pod, ip: str) -> None:
        name, namespace = pod.metadata.name, pod.metadata.namespace
        if pod.metadata.deletion_timestamp is not None:
            await self.client.delete(PODS, name, namespace, DeleteOptions(0))
        elif not pod.spec.node_name:
            await self.client.post(PODS, name, "binding", {
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"kind": "Node", "name": "n1"}}, namespace)
        elif pod.status.phase != "Running":
            ready = PodCondition(type="Ready", status="True", last_transition_time=Time.of(CLOCK.now()))
            await self.client.update(PODS, replace(pod, status=replace(
                pod.status, phase="Running", pod_ip=ip, pod_ips=[PodIP(ip=ip)],
                conditions=[*pod.status.conditions, ready])), subresource="status")


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Cluster]:
    pki = ClusterPki(directory, ["127.0.0.1"])
    pki.ensure()
    store = MemoryStore()
    async with asyncio.TaskGroup() as group:
        parts = ApiParts.build(store, CLOCK, "10.96.0.0/16")
        caches = group.create_task(parts.registry.run())
        await parts.registry.ready()
        await Bootstrapper(parts.registry, parts.writer, Bootstrap("192.0.2.1", 6443, "10.96.0.0/16")).ensure()
        manager = ControllerManager(parts.client, CLOCK, ControllerOptions(signer=pki.authority(), ca_bundle="PEM"))
        cluster = Cluster(parts, store, manager)
        others = [group.create_task(run()) for run in (cluster.informers.run, manager.run)]
        await cluster.informers.wait_synced()
        others.append(group.create_task(cluster.kubelet()))
        node = Node(metadata=ObjectMeta(name="n1"), status=NodeStatus(conditions=[
            NodeCondition(type="Ready", status="True")]))
        await cluster.client.create(NODES, node)
        try:
            yield cluster
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            caches.cancel()
    await store.close()


async def test_from_deployment_to_endpoints_and_back(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        client, informers = cluster.client, cluster.informers
        await client.create(SERVICES, Service(metadata=meta("web"), spec=ServiceSpec(
            selector={"app": "web"}, ports=[ServicePort(port=80)])))
        await client.create(DEPLOYMENTS, deployment(replicas=3))

        def rolled_out(revision: str) -> bool:
            found = informers.get(DEPLOYMENTS).get("web", "default")
            shown = [item.addresses[0] for one in informers.get(ENDPOINTSLICES).all("default")
                     if one.metadata.name != "kubernetes" for item in one.endpoints]
            ready = sorted(item.status.pod_ip or "" for item in informers.get(PODS).all("default"))
            return (found is not None and found.metadata.annotations.get(REVISION) == revision
                    and found.status.observed_generation == found.metadata.generation
                    and found.status.updated_replicas == found.status.replicas == found.status.available_replicas == 3
                    and sorted(shown) == ready and len(ready) == 3)

        await cluster.until(lambda: rolled_out("1"))
        image = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}}
        await client.patch(DEPLOYMENTS, "web", Patch("strategic", image), "default")
        await cluster.until(lambda: rolled_out("2"))
        await cluster.until(lambda: informers.get(NODES).all()[0].spec.pod_cidr == "10.244.0.0/24")
        assert informers.get(NODES).all()[0].spec.taints == []

        before = await _at_rest(cluster)
        reconciles = {name: item.reconciles for name, item in cluster.manager.counters.items()}
        await asyncio.sleep(1.0)  # what must not happen cannot be awaited
        assert cluster.store.revision == before, "a cluster at rest writes nothing"
        assert {name: item.reconciles for name, item in cluster.manager.counters.items()} == reconciles

        await client.delete(DEPLOYMENTS, "web", "default", DeleteOptions(propagation="Foreground"))
        await cluster.until(lambda: not any(cluster.names(kind) for kind in (DEPLOYMENTS, REPLICASETS, PODS)))
        await client.delete(SERVICES, "web", "default")
        await cluster.until(lambda: cluster.names(ENDPOINTS) == cluster.names(ENDPOINTSLICES) == ["kubernetes"])
        assert all(item.errors == 0 for item in cluster.manager.counters.values())


async def _at_rest(cluster: Cluster) -> int:
    """The store's revision once nothing has been written for a while: events are told behind the rest."""
    async with asyncio.timeout(60):
        quiet, before = 0, cluster.store.revision
        while quiet < 10:  # one look may come first when the machine had stopped us all
            await asyncio.sleep(0.05)
            quiet = quiet + 1 if cluster.store.revision == before else 0
            before = cluster.store.revision
        return before


async def test_a_namespace_fills_and_empties(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name="work")))
        await cluster.until(lambda: cluster.names(SERVICEACCOUNTS, "work") == ["default"]
                            and cluster.names(CONFIGMAPS, "work") == ["kube-root-ca.crt"])
        await cluster.client.create(DEPLOYMENTS, replace(deployment(replicas=2), metadata=meta("web",
                                                                                               namespace="work")))
        await cluster.until(lambda: len(cluster.names(PODS, "work")) == 2)
        await cluster.client.delete(NAMESPACES, "work")
        await cluster.until(lambda: "work" not in cluster.names(NAMESPACES, ""))
        assert cluster.names(PODS, "work") == []


async def test_a_request_becomes_a_certificate(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        request = ca.make_request(ca.new_key(), ca.Identity("jane", ("devs",)))
        made = await cluster.client.create(CERTIFICATESIGNINGREQUESTS, CertificateSigningRequest(
            metadata=ObjectMeta(name="jane"), spec=CertificateSigningRequestSpec(
                request=request, signer_name="kubernetes.io/kube-apiserver-client", usages=["client auth"])))
        body = {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "me", "message": "ok"}]}}
        await cluster.client.patch(CERTIFICATESIGNINGREQUESTS, made.metadata.name, Patch("merge", body),
                                   subresource="approval")
        signed = cluster.informers.get(CERTIFICATESIGNINGREQUESTS)
        await cluster.until(lambda: bool(signed.get("jane") and signed.get("jane").status.certificate))  # type: ignore[union-attr]
        found = signed.get("jane")
        assert found is not None
        assert ca.certificate_identity(found.status.certificate or b"") == ca.Identity("jane", ("devs",))
