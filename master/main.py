"""sampan-master: puts the parts of the master together and runs them until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from master import config as settings
from master.apiserver import keys
from master.apiserver.accounts.signing import SigningKey
from master.apiserver.app import ApiServer, server_tls
from master.apiserver.auth import Authenticator, StaticTokens
from master.apiserver.authorization.reconcile import DefaultRoles
from master.apiserver.bootstrap import Bootstrap, Bootstrapper
from master.apiserver.connect import ConnectHandlers
from master.apiserver.events import EventExpiry
from master.apiserver.kinds.allocator import DEFAULT_NODE_PORTS, ClusterIPs, NodePorts
from master.apiserver.kinds.table import printers, strategies
from master.apiserver.local import LocalClient
from master.apiserver.metrics import Metrics
from master.apiserver.pools import PoolRepair
from master.apiserver.registry import Registry
from master.apiserver.schema import SchemaRegistry, load_definitions
from master.apiserver.security import Security
from master.apiserver.write import Writer
from master.components import load_components
from master.renewal import Renewal
from master.store.compactor import Compactor
from master.store.encrypted import EncryptedStore
from master.store.protocol import Store, StoreError
from master.store.sqlite import SqliteStore
from master.store.stats import HasStats
from sampan import __version__
from sampan.api.resources import EVENTS, LEASES, SECRETS
from sampan.client.events import EventRecorder
from sampan.loop import logs, process
from sampan.loop.clock import Clock, SystemClock
from sampan.loop.notify import Notifier
from sampan.loop.settings import ConfigError
from sampan.loop.tasks import supervise
from sampan.pki.ca import CertificateError
from sampan.pki.cluster import ClusterPki

if TYPE_CHECKING:
    from master.nodes.authority import NodeAuthority

log = logging.getLogger(__name__)

Run = Callable[[], Awaitable[None]]

EXPECTED = (StoreError, CertificateError, OSError)
"""What can be wrong with a host rather than with the program: told in one line."""

UNVERSIONED = tuple(keys.prefix(resource) for resource in (EVENTS, LEASES))
"""What the store keeps no history of: written often, and of no interest once past."""


@dataclass(slots=True)
class ApiParts:
    """The API server and what stands around it in this process."""

    registry: Registry
    writer: Writer
    client: LocalClient
    pools: PoolRepair
    security: Security
    runs: dict[str, Run] = field(default_factory=dict)

    @classmethod
    def build(cls, store: Store, clock: Clock, service_cidr: str,
              node_port_range: tuple[int, int] = DEFAULT_NODE_PORTS, *, key: SigningKey | None = None,
              authenticators: Iterable[Authenticator] = ()) -> ApiParts:
        """Everything over one store; `key` signs the tokens of ServiceAccounts."""
        cluster_ips, node_ports = ClusterIPs(service_cidr), NodePorts(node_port_range)
        definitions = load_definitions()
        registry = Registry(store, clock, SchemaRegistry(definitions), strategies=strategies(cluster_ips, node_ports),
                            printers=printers(definitions))
        security = Security(registry, key=key, authenticators=authenticators)
        writer = Writer(registry, security.plugins())
        client = LocalClient(registry, writer)
        events = EventRecorder(client, clock, "kube-apiserver")
        pools = PoolRepair(registry, cluster_ips, node_ports, events)
        return cls(registry, writer, client, pools, security, {
            "event-expiry": EventExpiry(registry).run, "compaction": Compactor(store, clock).run,
            "apiserver-events": events.run, "pool-repair": pools.run})

    def node_authority(self) -> NodeAuthority | None:
        """Answers what agents ask about their port's callers and for their pods; None without tokens."""
        from master.nodes.authority import NodeAuthority  # noqa: PLC0415 - brings protobuf along

        tokens = self.security.tokens
        if tokens is None:
            return None
        return NodeAuthority(self.registry, self.security.authentication, self.security.access, tokens)


class Master:
    """One process: its components, in the order in which they need each other."""

    def __init__(self, config: settings.Config, clock: Clock, notifier: Notifier) -> None:
        self._config = config
        self._clock = clock
        self._notifier = notifier
        self.server: ApiServer | None = None
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled; everything is closed in reverse order."""
        try:
            if "apiserver" in self._config.components:
                await self._run_with_server()
            else:
                await self._run_remote()
        finally:
            self._notifier.stopping()

    async def _run_with_server(self) -> None:
        config = self._config
        pki = ClusterPki(config.pki_dir, config.server_names(), self._clock.now)
        if pki.ensure():
            log.info("certificates written to %s", config.pki_dir)
        async with open_store(config) as (store, counted), asyncio.TaskGroup() as group:
            parts = ApiParts.build(store, self._clock, config.service_cidr, config.service_node_port_range,
                                   key=SigningKey.ensure(config.pki_dir), authenticators=static_tokens(config))
            caches = group.create_task(parts.registry.run(), name="caches")
            await parts.registry.ready()
            await parts.pools.rebuild()
            plan = Bootstrap(config.advertise_address, config.secure_port, config.service_cidr,
                             config.for_nodes())
            bootstrapper = Bootstrapper(parts.registry, parts.writer, plan)
            await bootstrapper.ensure()
            roles = DefaultRoles(parts.registry, parts.writer)
            complete = await roles.ensure()
            components = load_components(config, parts.client, self._clock, pki, parts.node_authority())
            metrics = Metrics()
            metrics.watch_store(counted)
            metrics.watch_components(components.measures, components.state)
            tls = server_tls(*pair(pki), str(pki.path("ca.crt")))
            renewal = Renewal(pki, self._clock, lambda: tls.load_cert_chain(*pair(pki)))
            metrics.certificates(renewal.expiries)
            server = self._server(parts, pki, tls, components.connect, metrics)
            running = [group.create_task(supervise(name, run, self._clock), name=name) for name, run in (
                ("bootstrap", bootstrapper.run), ("certificates", renewal.run), *parts.runs.items(),
                *components.runs.items())]
            running.append(group.create_task(self._notifier.keep_alive(self._clock)))
            if not complete:
                running.append(group.create_task(roles.run(), name="default-roles"))
            serving = group.create_task(server.run(), name="apiserver")
            await server.started.wait()
            self.server = server
            self._tell_ready()
            try:
                await serving
            finally:
                # The server has answered its last request; what works through the caches ends before they do.
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                caches.cancel()

    def _server(self, parts: ApiParts, pki: ClusterPki, tls: ssl.SSLContext, connect: ConnectHandlers,
                metrics: Metrics) -> ApiServer:
        config = self._config
        return ApiServer(parts.registry, parts.writer, tls=tls, ca_certificate=pki.path("ca.crt").read_bytes(),
                         host=config.bind_address, port=config.secure_port, advertise=config.advertise_address,
                         security=parts.security, connect=connect, metrics=metrics)

    async def _run_remote(self) -> None:
        """Scheduler and controllers alone, against an API server elsewhere."""
        from sampan.client import kubeconfig  # noqa: PLC0415 - only this form of running needs it
        from sampan.client.http import HttpClient  # noqa: PLC0415

        assert self._config.kubeconfig is not None
        async with HttpClient(kubeconfig.load(self._config.kubeconfig)) as client, asyncio.TaskGroup() as group:
            components = load_components(self._config, client, self._clock, None)
            for name, run in components.runs.items():
                group.create_task(supervise(name, run, self._clock), name=name)
            group.create_task(self._notifier.keep_alive(self._clock))
            self._tell_ready()

    def _tell_ready(self) -> None:
        gc.freeze()  # what is there now stays: collections need not look at it
        self.ready.set()
        self._notifier.ready()
        log.info("ready: %s", ", ".join(self._config.components))


def static_tokens(config: settings.Config) -> list[Authenticator]:
    """The file of fixed tokens, if there is one."""
    return [StaticTokens.load(config.token_auth_file)] if config.token_auth_file else []


def pair(pki: ClusterPki) -> tuple[str, str]:
    """The files of the server's certificate and key."""
    return str(pki.path("apiserver.crt")), str(pki.path("apiserver.key"))


@asynccontextmanager
async def open_store(config: settings.Config) -> AsyncIterator[tuple[Store, HasStats]]:
    """The embedded database, with Secrets encrypted, and what counts its writes."""
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    inner = await SqliteStore.open(config.data_dir / "state.db", unversioned=UNVERSIONED)
    try:
        store = await EncryptedStore.open(inner, config.data_dir / "encryption.key", (keys.prefix(SECRETS),))
        yield store, inner
    finally:
        await inner.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    flags = settings.SETTINGS.parser().parse_args(arguments)
    if flags.version:
        print(f"sampan-master {__version__} (Kubernetes v1.32)")
        return 0
    try:
        config = settings.resolve(vars(flags), os.environ)
    except ConfigError as error:
        print(f"sampan-master: {error}", file=sys.stderr)
        return 2
    logs.setup(config.log_level)
    return process.run(Master(config, SystemClock(), Notifier()).run, EXPECTED)


if __name__ == "__main__":
    sys.exit(main())
