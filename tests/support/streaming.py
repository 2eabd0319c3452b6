"""A whole API server with a node service and one agent whose containers are local processes, all on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.link.link import Link
from agent.link.streams import AgentStreams
from master.apiserver.app import ApiServer, server_tls
from master.apiserver.bootstrap import Bootstrap, Bootstrapper
from master.apiserver.streaming import PodStreams
from master.main import UNVERSIONED, ApiParts
from master.nodes.service import NodeService, ServerTls
from master.store.memory import MemoryStore
from sampan.api.resources import NODES, PODS
from sampan.api.types import core_v1, meta_v1
from sampan.client.informer import InformerFactory
from sampan.loop.clock import SystemClock
from sampan.pki import ca, kubeconfig
from sampan.pki.cluster import ClusterPki
from tests.support import nodeline
from tests.support.kubectl import Kubectl
from tests.support.local_engine import LocalEngine

NODE = "n1"


class Lookup:
    """The agent's pods, from its own view."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def pod(self, namespace: str, name: str, uid: str) -> core_v1.Pod | None:
        found = self._link.view.get(PODS, name, namespace)
        return found if found and uid in ("", found.metadata.uid) else None

    async def network_pid(self, uid: str) -> int:
        return 1


class Connector:
    """Ports of pods are ports of this host."""

    async def connect(self, pid: int, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return sock


class Lab:
    """What tests use."""

    def __init__(self, parts: ApiParts, engine: LocalEngine, link: Link, server: ApiServer, directory: Path,
                 pki: ClusterPki) -> None:
        self.parts, self.engine, self.link, self.server, self.directory = parts, engine, link, server, directory
        pair = pki.authority().issue(ca.Identity("admin", ("system:masters",)))
        self.kubeconfig = directory / "kubeconfig"
        self.url = f"https://127.0.0.1:{server.port}"
        self.kubeconfig.write_bytes(kubeconfig.render(self.url, pki.path("ca.crt").read_bytes(), pair.certificate,
                                                      pair.key))

    def kubectl(self, version: str) -> Kubectl:
        home = self.directory / f"home-{version}"
        home.mkdir(exist_ok=True)
        return Kubectl(version, self.kubeconfig, home)

    async def pod(self, name: str, *containers: core_v1.Container, waiting: str = "",
                  bound: bool = True) -> core_v1.Pod:
        """A pod that runs on the node, or waits for `waiting`."""
        containers = containers or (core_v1.Container(name="main", image="busybox"),)
        spec = core_v1.PodSpec(containers=list(containers), node_name=NODE if bound else None)
        client = self.parts.client
        made = await client.create(PODS, core_v1.Pod(metadata=nodeline.meta(name), spec=spec))
        if not bound:
            return made
        statuses = []
        for container in containers:
            identity = f"{name}-{container.name}"
            self.engine.known[identity] = made.metadata.uid
            state = (core_v1.ContainerState(waiting=core_v1.ContainerStateWaiting(reason=waiting)) if waiting
                     else core_v1.ContainerState(running=core_v1.ContainerStateRunning()))
            statuses.append(core_v1.ContainerStatus(
                name=container.name, image="busybox", image_id="", ready=not waiting, restart_count=0, state=state,
                container_id=None if waiting else f"docker://{identity}"))
        ready = core_v1.PodCondition(type="Ready", status="False" if waiting else "True")
        status = core_v1.PodStatus(phase="Pending" if waiting else "Running", container_statuses=statuses,
                                   conditions=[ready])
        await nodeline.until(lambda: self.link.view.get(PODS, name, "default"))
        self.link.reports.pod_status(made, status)

        def arrived() -> bool:
            seen = self.link.view.get(PODS, name, "default")
            return seen is not None and bool(seen.status.container_statuses)

        await nodeline.until(arrived)
        return made


@asynccontextmanager
async def lab(directory: Path) -> AsyncIterator[Lab]:
    """Up and connected."""
    clock = SystemClock()
    pki = ClusterPki(directory / "pki", ["127.0.0.1", "localhost"])
    pki.ensure()
    parts = ApiParts.build(MemoryStore(unversioned=UNVERSIONED), clock, "10.96.0.0/16")
    tls = ServerTls(pki.path("apiserver.crt").read_bytes(), pki.path("apiserver.key").read_bytes(),
                    pki.path("ca.crt").read_bytes())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(parts.registry.run())]
        await parts.registry.ready()
        await parts.pools.rebuild()
        await Bootstrapper(parts.registry, parts.writer, Bootstrap("127.0.0.1", 6443, "10.96.0.0/16")).ensure()
        informers = InformerFactory(parts.client, clock)
        service = NodeService(parts.client, informers, lambda: tls, "127.0.0.1:0")
        paths = [str(pki.path(name)) for name in ("apiserver.crt", "apiserver.key", "ca.crt")]
        server = ApiServer(parts.registry, parts.writer, host="127.0.0.1", port=0, tls=server_tls(*paths),
                           connect=PodStreams(service, parts.client).handlers)
        tasks += [group.create_task(run) for run in (informers.run(), service.run(), server.run())]
        await asyncio.gather(service.started.wait(), server.started.wait())
        await parts.client.create(NODES, core_v1.Node(metadata=meta_v1.ObjectMeta(name=NODE)))
        engine = LocalEngine()
        master = nodeline.Master()
        master.authority, master.port = pki.authority(), service.port
        link = master.agent(directory / "agent", NODE)
        link.serve(AgentStreams(engine, Lookup(link), Connector(), clock))
        tasks.append(group.create_task(link.run()))
        async with asyncio.timeout(60):
            await link.connected.wait()
        try:
            yield Lab(parts, engine, link, server, directory, pki)
        finally:
            for task in reversed(tasks):
                task.cancel()
