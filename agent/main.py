"""sampan-agent: puts the rooms of the agent together and runs them until it is told to stop. Containers run on."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent import config as settings
from agent.cgroups.node import NodeCgroups
from agent.cgroups.protocol import CgroupError, PodLimits
from agent.cgroups.tree import Hierarchies, find_hierarchies
from agent.dns.service import DnsService
from agent.engine.docker import DockerEngine
from agent.engine.infra import REFERENCE, ensure_infra_image
from agent.engine.protocol import Engine, EngineError, EngineInfo
from agent.images.folder import ImageFolder
from agent.images.puller import ImagePuller
from agent.link.checkpoint import Checkpoint, CheckpointTooNew
from agent.link.dial import NamespaceConnector
from agent.link.files import NodeFiles
from agent.link.link import Link
from agent.link.protocol import JoinError
from agent.link.streams import AgentStreams
from agent.network.choice import ManagedNetwork, make_network
from agent.network.peers import announce
from agent.network.setup import NetworkSetup
from agent.node.address import AddressChanged, AddressWatch, interface_of, interfaces
from agent.node.events import NodeEvents
from agent.node.facts import FactsError, health, host_facts, node_address
from agent.node.heartbeat import Heartbeat
from agent.node.status import KUBELET_VERSION, NodeSettings, allocatable
from agent.pods import labels
from agent.pods.dns import ClusterDns
from agent.pods.environment import NodeFacts
from agent.pods.events import PodEvents
from agent.pods.files import PodFiles
from agent.pods.manager import PodManager
from agent.pods.resources import shares
from agent.pods.rooms import OomFloor, Rooms
from agent.probes.prober import HostHttpHook, HostProber
from agent.proxy import services as proxy
from agent.proxy.chains import NodeFacts as ProxyNode
from agent.server.node import NodeParts, NodePort
from agent.stats.engine import MeasuredEngine
from agent.stats.metrics import AgentMetrics
from agent.stats.probes import MeasuredProber
from agent.stats.services import ProxyMetrics, dns
from agent.volumes.host import HostVolumes
from agent.volumes.mounts import HostMounter
from agent.volumes.tokens import PodTokens
from netplugin import netns
from netplugin.protocol import NetworkError
from sampan import __version__, mounts
from sampan.api.resources import NODES
from sampan.loop import logs, process
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock, SystemClock
from sampan.loop.kept import KeptSockets
from sampan.loop.notify import Notifier
from sampan.loop.settings import ConfigError
from sampan.loop.tasks import supervise

log = logging.getLogger(__name__)

NETWORK_PATIENCE = 10.0
"""Seconds that pods' workers wait at start for the network, so that running pods are not looked at without it."""
CGROUP_TRIES = 10
CAP_SYS_RESOURCE = 24
SNAP = "/var/snap/"


class StartError(Exception):
    """The agent cannot start on this host; the message says why and what to do."""


EXPECTED = (StartError, AddressChanged, JoinError, FactsError, CheckpointTooNew, labels.UnknownLabels, EngineError,
            NetworkError, CgroupError)


@dataclass(frozen=True, slots=True)
class _Base:
    """What there is before the engine answers."""

    address: str
    news: asyncio.Event
    metrics: AgentMetrics
    engine: MeasuredEngine
    network: ManagedNetwork
    volumes: HostVolumes
    link: Link
    setup: NetworkSetup
    events: PodEvents
    dns: ClusterDns


class Agent:
    """One process: a node."""

    def __init__(self, config: settings.Config, clock: Clock, notifier: Notifier) -> None:
        self._config = config
        self._clock = clock
        self._notifier = notifier

    async def run(self) -> None:
        """Run until cancelled.

        The line to the master, the network, Services and names need no engine: while Docker is down at a start,
        containers that outlived it (live-restore) and other nodes' pods go on finding one another.
        """
        config, clock = self._config, self._clock
        address, news = node_address(config.node_ip, config.node_interface), asyncio.Event()
        metrics = AgentMetrics(config.node_name, KUBELET_VERSION)
        engine = MeasuredEngine(DockerEngine(config.docker_host), metrics, clock)
        network, volumes = make_network(config, clock, address), make_volumes(config, clock)
        link = Link(config.node_name, config.node_server, NodeFiles(config.certificates), clock,
                    checkpoint=Checkpoint(config.root_dir, config.node_name))
        setup = NetworkSetup(config.node_name, link.view, network, clock, news)
        services = proxy.Services(link.view, ProxyNode(config.node_name, address, config.pod_cidr), clock,
                                  config.proxy_healthz_address, observer=ProxyMetrics(metrics.registry))
        events = PodEvents(link.reports, config.node_name, clock)
        link.warn = warn = partial(NodeEvents(link.reports, config.node_name, clock).emit, "Warning")
        resolvers = ClusterDns(link.view, str(config.resolv_conf), events)
        names = DnsService(config.node_name, link.view, resolvers.node, KeptSockets(self._notifier), clock,
                           warn=warn)
        metrics.sample(lambda: dns(names.counters))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(link.run())
                group.create_task(make_watch(config, address, clock).run())
                for name, run in (("pod network", network.run), ("network setup", setup.run),
                                  ("Services", services.run), ("cluster DNS", names.run)):
                    group.create_task(supervise(name, run, clock))
                group.create_task(self._notifier.keep_alive(clock))
                await self._run_pods(group, _Base(address, news, metrics, engine, network, volumes, link, setup, events,
                                                  resolvers))
        finally:
            self._notifier.stopping()
            volumes.close()
            await services.close()
            await network.close()
            await engine.close()

    async def _run_pods(self, group: asyncio.TaskGroup, base: _Base) -> None:
        """Begin what needs the engine, once it answers."""
        config, clock, link = self._config, self._clock, base.link
        info, facts = await self._engine_info(base.engine), host_facts()
        cgroups = make_cgroups(config, info)
        await cgroups.setup(PodLimits(cpu_shares=shares(facts.cpus * 1000)))
        prober = MeasuredProber(HostProber(base.engine))
        about = NodeSettings(config.node_name, base.address, config.max_pods, config.port)
        node = NodeFacts(about.name, about.address, allocatable(about, facts, health(Path(info.root_dir))))
        rooms = self._rooms(base, cgroups, node, facts.memory, prober)
        base.volumes.serve(PodTokens(link.authority, clock.now), rooms.node)
        manager = PodManager(rooms)
        port = NodePort(NodeParts(
            config.node_name, base.address, config.port, facts, link, NodeFiles(config.certificates), manager, prober,
            base.metrics, hierarchies(), (str(config.root_dir), info.root_dir), clock, configz(config, info)))
        streams = AgentStreams(base.engine, manager, NamespaceConnector(netns.open_socket), clock,
                               own=port.paths.handle)
        heartbeat = Heartbeat(about, facts, health, base.engine, link.view, link.reports, clock,
                              problems=(base.setup.problem,), news=base.news,
                              annotations=lambda: announce(base.network.announcement()))
        for name, run in (("heartbeat", partial(self._beat, heartbeat, link, base.setup)),
                          ("volumes", partial(base.volumes.keep_fresh, manager.pods, link.view, clock)),
                          ("images", ImageFolder(config.images, base.engine, clock).run),
                          *((("node port", port.run),) if config.port else ())):
            group.create_task(supervise(name, run, clock))
        group.create_task(self._pods(manager, link, base.setup))
        group.create_task(self._answer(link, manager, streams))
        self._notifier.ready()
        log.info("node %s is up", config.node_name)

    def _rooms(self, base: _Base, cgroups: NodeCgroups, node: NodeFacts, memory: int, prober: MeasuredProber) -> Rooms:
        config, clock, link, engine = self._config, self._clock, base.link, base.engine

        async def infra_image(missing: bool) -> str:
            return await ensure_infra_image(engine, config.infra_image) if missing else config.infra_image or REFERENCE

        return Rooms(
            node=node, engine=engine, network=base.network, volumes=base.volumes, cgroups=cgroups, prober=prober,
            metrics=base.metrics, http_hook=HostHttpHook(), images=ImagePuller(engine, link.view, clock),
            view=link.view, reports=link.reports, events=base.events, files=PodFiles(config.root_dir / "pods"),
            clock=clock, infra_image=infra_image, memory_capacity=memory, dns=base.dns,
            pod_pids_limit=config.pod_pids_limit, oom_floor=OomFloor(-1000 if may_lower_oom_scores() else 0))

    async def _engine_info(self, engine: Engine) -> EngineInfo:
        """What the engine is, once it answers: an engine that is down is waited for."""
        failures = 0
        while True:
            try:
                info = await engine.info()
            except EngineError as error:
                failures += 1
                log.warning("Docker at %s does not answer: %s", self._config.docker_host, error)
                self._notifier.status("waiting for Docker")
                await self._clock.sleep(Backoff(initial=0.5, maximum=10.0).delay(failures))
                continue
            if info.root_dir.startswith(SNAP):
                raise StartError("Docker is a snap here: it cannot mount pods' volumes. Remove it (snap remove docker) "
                                 "and install Docker from the distribution or from Docker's own repository")
            return info

    async def _pods(self, manager: PodManager, link: Link, setup: NetworkSetup) -> None:
        """The workers begin once there is a view, and a network if it comes soon."""
        await link.view.loaded()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NETWORK_PATIENCE):
                await setup.ready.wait()
        await manager.run()

    async def _answer(self, link: Link, manager: PodManager, streams: AgentStreams) -> None:
        """Before the pods are known, every exec would be told that there is no such container."""
        await manager.begun.wait()
        link.serve(streams)

    async def _beat(self, heartbeat: Heartbeat, link: Link, setup: NetworkSetup) -> None:
        """A node that is known says nothing of itself before it has its network again.

        Said to be not ready for a moment, all of its pods would lose their traffic because their agent was restarted.
        """
        await link.view.loaded()
        if link.view.get(NODES, self._config.node_name):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NETWORK_PATIENCE):
                    await setup.ready.wait()
        await heartbeat.run()


def make_watch(config: settings.Config, address: str, clock: Clock) -> AddressWatch:
    """What follows the node's address. One that was given alone is not followed: it is what it has to be."""
    interface = config.node_interface or ("" if config.node_ip else interface_of(address, interfaces()))
    return AddressWatch(address, interface, clock)


def make_volumes(config: settings.Config, clock: Clock) -> HostVolumes:
    """The volumes, under the root directory."""
    return HostVolumes(config.root_dir, HostMounter(), clock.now)


def hierarchies() -> Hierarchies:
    """Where this host has its cgroups."""
    return find_hierarchies(mounts.read())


def configz(config: settings.Config, info: EngineInfo) -> dict[str, str | int]:
    """The settings that the node's port shows, under the names of upstream's KubeletConfiguration."""
    return {"port": config.port, "maxPods": config.max_pods, "podPidsLimit": config.pod_pids_limit,
            "cgroupDriver": info.cgroup_driver, "resolvConf": str(config.resolv_conf)}


def make_cgroups(config: settings.Config, info: EngineInfo) -> NodeCgroups:
    """Pods' cgroups, by the engine's driver."""
    return NodeCgroups(info.cgroup_driver, root=config.cgroup_root or "/")


def may_lower_oom_scores(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this host lets its root set negative OOM scores (it takes CAP_SYS_RESOURCE)."""
    for line in status.read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value.strip(), 16) >> CAP_SYS_RESOURCE & 1)
    return True


async def cleanup(config: settings.Config, *, force: bool = False) -> None:
    """Take away all that the agent made on this host: containers, network, volumes, cgroups.

    EngineError without Docker, and nothing is done; with `force` all but containers and cgroups is.
    """
    clock, lost = SystemClock(), None
    engine = DockerEngine(config.docker_host)
    network, volumes = make_network(config, clock), make_volumes(config, clock)
    try:
        try:
            found = await engine.list(labels.owned_by(config.node_name))
            await asyncio.gather(*(engine.remove(box.id) for box in found))
        except EngineError as error:
            if not force:
                raise
            lost = error
        await proxy.cleanup()
        await network.teardown()
        pods = PodFiles(config.root_dir / "pods")
        for uid in {*await volumes.known(), *pods.known()}:
            pods.remove(uid)
            await volumes.teardown(uid)
        if lost:
            raise lost
        cgroups = make_cgroups(config, await engine.info())
        for uid in await cgroups.live():
            await _once_empty(clock, partial(cgroups.remove, uid))
        await cgroups.teardown()
    finally:
        volumes.close()
        await network.close()
        await engine.close()


async def _once_empty(clock: Clock, work: Callable[[], Awaitable[None]]) -> None:
    """Remove a cgroup. Processes may be in it for a moment after Docker has told that their container is gone."""
    for failures in range(1, CGROUP_TRIES):
        try:
            return await work()
        except CgroupError:
            await clock.sleep(Backoff(initial=0.1, maximum=2.0).delay(failures))
    return await work()


@contextlib.contextmanager
def only_agent(run_dir: Path) -> Iterator[None]:
    """Hold the lock that keeps a second agent from the same directories; StartError where another has it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "agent.lock"
    path.touch(mode=0o600)  # whoever may read it could hold it, and keep the agent from starting
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(f"another sampan-agent runs with the run directory {run_dir}") from error
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    flags = settings.parser().parse_args(arguments)
    if flags.version:
        print(f"sampan-agent {__version__} (Kubernetes v1.32)")
        return 0
    try:
        config = settings.resolve(vars(flags), os.environ)
    except ConfigError as error:
        print(f"sampan-agent: {error}", file=sys.stderr)
        return 2
    if flags.command == "join":
        logging.basicConfig(format="%(message)s", level="WARNING")  # `sampan join` shows the lines to a person
    else:
        logs.setup(config.log_level)
    files = NodeFiles(config.certificates)
    joining = flags.command == "run" and not files.present()

    async def command() -> None:
        with only_agent(config.run_dir):
            if flags.command == "cleanup":
                await cleanup(config, force=flags.force)
            elif joining or flags.command == "join":
                from agent.joining import join_cluster  # noqa: PLC0415 - see below

                await join_cluster(config, files, SystemClock())
            else:
                await Agent(config, SystemClock(), Notifier()).run()

    code = process.run(command, EXPECTED)
    if joining and files.present():
        # Start anew: what joining needs (an HTTP client, certificates) are 25 MB that would stay for ever.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
    return code


if __name__ == "__main__":
    sys.exit(main())
