"""All controllers in one process, over shared informers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from master.controllers.account_tokens import AccountTokenController, TokenMaker
from master.controllers.base import Controller, Counters, Deps
from master.controllers.csr import LONGEST, CsrController, Signer
from master.controllers.deployment import DeploymentController
from master.controllers.dns import DnsController, DnsOptions
from master.controllers.endpoints import EndpointsController
from master.controllers.garbage import GarbageCollector
from master.controllers.load_balancer import LoadBalancerController
from master.controllers.mirroring import MirroringController
from master.controllers.namespace import NamespaceController
from master.controllers.namespace_content import NamespaceContentController
from master.controllers.node import NodeLifecycleController, NodeRangeController
from master.controllers.node_plan import GRACE
from master.controllers.pod_cleanup import PodGarbageCollector, TaintEvictionController
from master.controllers.replicaset import REPLICA_SETS, REPLICATION_CONTROLLERS, ReplicaSetController
from master.controllers.role_aggregation import RoleAggregationController
from master.controllers.tokens import TokenCleaner
from sampan.client.events import EventRecorder
from sampan.client.informer import InformerFactory
from sampan.client.leases import LeaderElector, LeaseTimes
from sampan.client.protocol import Client
from sampan.loop.clock import Clock
from sampan.loop.queue import Watcher
from sampan.loop.tasks import supervise

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What the controllers need to know of the cluster."""

    cluster_cidr: str = "10.244.0.0/16"
    node_prefix: int = 24
    """The size of each node's pod range, as a prefix length."""
    dns: DnsOptions = field(default_factory=DnsOptions)
    ca_bundle: str = ""
    """PEM, published as kube-root-ca.crt in every namespace."""
    signer: Signer | None = None
    """Signs nodes' and users' certificates; without one nobody does."""
    certificate_lifetime: timedelta = LONGEST
    reserved_names: Collection[str] = ()
    """What no node gets a server's certificate for: the API server's names and addresses."""
    token_maker: TokenMaker | None = None
    """Signs the tokens in Secrets of ServiceAccounts; without one they stay empty."""
    node_grace: float = GRACE
    """Seconds without a sign of life after which a node is lost."""
    leader_election: bool = False
    identity: str = "sampan-master"
    """This process among several masters."""
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    queues: Callable[[str], Watcher] | None = None
    """Who counts what happens in the queue of each controller."""


class ControllerManager:
    """Makes the controllers, starts them when their informers have synced, and keeps them alive."""

    def __init__(self, client: Client, clock: Clock, options: ControllerOptions = ControllerOptions(), *,
                 informers: InformerFactory | None = None) -> None:
        """`informers` may be shared with others of the process; whoever made the factory runs it."""
        self._client = client
        self._clock = clock
        self._options = options
        self._shared = informers
        self._controllers: list[Controller[Any]] = []
        self._events = EventRecorder(client, clock, "controller-manager")

    async def run(self) -> None:
        """Work until cancelled; with leader election, only while leading."""
        if not self._options.leader_election:
            await self._work()
            return
        await LeaderElector(self._client, self._clock, name="sampan-controllers", identity=self._options.identity,
                            times=self._options.lease_times).run(self._work)

    async def _work(self) -> None:
        shared = None if self._options.leader_election else self._shared  # each term begins with fresh handlers
        informers = shared or InformerFactory(self._client, self._clock)
        deps = Deps(self._client, informers, self._clock, self._events, self._options.queues)
        self._controllers = list(self._make(deps))
        async with asyncio.TaskGroup() as group:
            group.create_task(supervise("events", self._events.run, self._clock))
            if shared is None:
                group.create_task(informers.run())
            await informers.wait_synced()
            log.info("%d controllers started", len(self._controllers))
            for controller in self._controllers:
                group.create_task(supervise(controller.name, controller.run, self._clock))

    def _make(self, deps: Deps) -> Iterator[Controller[Any]]:
        options = self._options
        yield DeploymentController(deps)
        yield ReplicaSetController(deps, REPLICA_SETS)
        yield ReplicaSetController(deps, REPLICATION_CONTROLLERS)
        yield EndpointsController(deps)
        yield MirroringController(deps)
        yield LoadBalancerController(deps)
        yield DnsController(deps, options.dns)
        yield NamespaceController(deps)
        yield NamespaceContentController(deps, options.ca_bundle)
        yield NodeLifecycleController(deps, grace=options.node_grace)
        yield NodeRangeController(deps, options.cluster_cidr, prefix=options.node_prefix)
        yield PodGarbageCollector(deps)
        yield TaintEvictionController(deps)
        yield TokenCleaner(deps)
        yield RoleAggregationController(deps)
        if options.token_maker is not None:
            yield AccountTokenController(deps, options.token_maker, options.ca_bundle)
        if options.signer is not None:
            yield CsrController(deps, options.signer, longest=options.certificate_lifetime,
                                reserved=options.reserved_names)
        yield GarbageCollector(deps)  # last: it takes along the informers that the others have

    @property
    def counters(self) -> Mapping[str, Counters]:
        """What each controller has done, for metrics."""
        return {controller.name: controller.counters for controller in self._controllers}

    @property
    def depths(self) -> Mapping[str, int]:
        """How many keys are waiting in each controller's queue."""
        return {controller.name: len(controller.queue) for controller in self._controllers}
