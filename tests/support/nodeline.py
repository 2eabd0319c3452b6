"""A node service and agents on loopback, with real TLS, over a client in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from agent.link.checkpoint import Checkpoint
from agent.link.files import NodeFiles
from agent.link.link import Link
from agent.link.streams import AgentStreams
from master.nodes.service import NodeService, ServerTls
from sampan.api.resources import Object, Resource
from sampan.api.types import core_v1, meta_v1
from sampan.client.fake import FakeClient
from sampan.client.informer import InformerFactory
from sampan.loop.backoff import Backoff
from sampan.loop.clock import SystemClock
from sampan.pki import ca

FAST = Backoff(initial=0.02, maximum=0.2)


class Signer:
    """Signs what nodes ask for, as the master's own signer does."""

    def __init__(self, authority: ca.Authority) -> None:
        self.authority = authority

    async def sign_node(self, request: bytes, node: str) -> bytes:
        assert ca.request_identity(request).user == f"system:node:{node}"
        return self.authority.sign(request, ("client auth",), ca.YEAR)

    async def sign_serving(self, request: bytes, node: core_v1.Node, peer: str) -> bytes:
        assert peer == "127.0.0.1"
        assert ca.request_identity(request).user == f"system:node:{node.metadata.name}"
        return self.authority.sign(request, ("server auth",), ca.YEAR)


class Master:
    """A node service over a FakeClient; `client` is the cluster."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.client = FakeClient(self.clock)
        self.client.put(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="kube-system")))
        self.client.put(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="kube-node-lease")))
        self.client.put(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="default")))
        _, self.authority = ca.Authority.create("test-ca")
        self.port = 0
        self.service: NodeService
        self.running: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """On the same port as before, if there was a before; else on one that the kernel chooses."""
        informers = InformerFactory(self.client, self.clock)
        pair = self.authority.issue(ca.Identity("sampan-master"), names=["127.0.0.1", "localhost"],
                                    usages=("server auth",))
        tls = ServerTls(pair.certificate, pair.key, self.authority.certificate)
        self.service = NodeService(self.client, informers, lambda: tls, self.address, Signer(self.authority))

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(informers.run())
                group.create_task(self.service.run())

        self.running = asyncio.create_task(run())
        async with asyncio.timeout(60):
            await self.service.started.wait()
        self.port = self.service.port

    async def stop(self) -> None:
        if self.running:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
            self.running = None

    def identity(self, directory: Path, node: str, *, groups: tuple[str, ...] = ("system:nodes",),
                 lifetime: timedelta = ca.YEAR) -> NodeFiles:
        """What joining would have left on the node's disk."""
        files = NodeFiles(directory)
        pair = self.authority.issue(ca.Identity(f"system:node:{node}", groups), lifetime=lifetime)
        files.store(pair, self.authority.certificate)
        return files

    def agent(self, directory: Path, node: str, *, streams: AgentStreams | None = None,
              files: NodeFiles | None = None) -> Link:
        return Link(node, [self.address], files or self.identity(directory / "pki", node), self.clock,
                    checkpoint=Checkpoint(directory, node), streams=streams, backoff=FAST)


@asynccontextmanager
async def master() -> AsyncIterator[Master]:
    """A running one."""
    made = Master()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def running(link: Link) -> AsyncIterator[Link]:
    """The agent's link, at work."""
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def seen(link: Link, resource: Resource[Object], name: str, namespace: str = "default") -> bool:
    return link.view.get(resource, name, namespace) is not None


def meta(name: str, namespace: str = "default", **fields: object) -> meta_v1.ObjectMeta:
    return meta_v1.ObjectMeta(name=name, namespace=namespace, **fields)  # type: ignore[arg-type]


def pod(name: str, node: str, *, config: str = "", secret: str = "") -> core_v1.Pod:
    """A pod bound to a node, with a ConfigMap and a Secret if named."""
    env = []
    if config:
        source = core_v1.EnvFromSource(config_map_ref=core_v1.ConfigMapEnvSource(name=config))
        env.append(source)
    if secret:
        env.append(core_v1.EnvFromSource(secret_ref=core_v1.SecretEnvSource(name=secret)))
    container = core_v1.Container(name="main", image="busybox", env_from=env)
    return core_v1.Pod(metadata=meta(name), spec=core_v1.PodSpec(containers=[container], node_name=node))


def node(name: str, cidr: str = "") -> core_v1.Node:
    return core_v1.Node(metadata=meta_v1.ObjectMeta(name=name), spec=core_v1.NodeSpec(pod_cidr=cidr or None))
