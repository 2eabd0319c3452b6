"""The parts that run beside the API server: made here, started by main. Each is imported only if it is wanted."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric

from master.config import Config
from master.metrics import state
from master.metrics.nodes import NodeMetrics
from master.metrics.queues import QueueMetrics
from master.metrics.scheduler import SchedulerMetrics
from sampan.api.resources import DEPLOYMENTS, NODES, PODS
from sampan.api.types import core_v1
from sampan.client.events import EventRecorder
from sampan.client.informer import InformerFactory
from sampan.client.protocol import Client
from sampan.loop.clock import Clock
from sampan.pki import ca
from sampan.pki.cluster import ClusterPki

if TYPE_CHECKING:
    from master.nodes.authority import NodeAuthority
    from master.nodes.service import NodeService, ServerTls

Run = Callable[[], Awaitable[None]]
Measure = Callable[[], Iterable[Metric]]

NODE_CERTIFICATE_LIFETIME = timedelta(days=365)
_SERVING_USAGES = ("digital signature", "server auth")


@dataclass(slots=True)
class Components:
    """What runs beside the API server, and the streams that it hands over."""

    runs: dict[str, Run] = field(default_factory=dict)
    connect: dict[tuple[str, str], Any] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    """What the components tell of themselves, for /metrics."""
    state: Callable[[], Callable[[], bytes]] = lambda: bytes
    """Takes the cluster's objects as they are now; what it returns writes /metrics/state of them, in a thread."""


def load_components(config: Config, client: Client, clock: Clock, pki: ClusterPki | None,
                    authority: NodeAuthority | None = None) -> Components:
    """Make the components that the configuration names, over shared informers.

    Without the cluster's keys (a process that works against an API server elsewhere) nothing is signed here.
    """
    informers = InformerFactory(client, clock)
    result = Components({"informers": informers.run})
    if "scheduler" in config.components:
        _add_scheduler(result, client, informers, clock)
    if "controllers" in config.components:
        _add_controllers(result, config, client, informers, clock, pki)
    if "nodes" in config.components and pki is not None:
        _add_nodes(result, config, client, informers, pki, authority)
    _add_state(result, config, informers)
    return result


def _add_state(result: Components, config: Config, informers: InformerFactory) -> None:
    """From the informers that the components have anyway: objects that nobody watches here are left out."""
    nodes, pods = informers.get(NODES), informers.get(PODS)
    deployments = informers.get(DEPLOYMENTS).all if "controllers" in config.components else None
    result.state = lambda: partial(state.collect, nodes.all(), pods.all(), deployments() if deployments else ())


def _add_scheduler(result: Components, client: Client, informers: InformerFactory, clock: Clock) -> None:
    from master.scheduler.scheduler import NAME, Scheduler  # noqa: PLC0415 - brings numpy along

    recorder = EventRecorder(client, clock, NAME)
    metrics = SchedulerMetrics(clock.monotonic)
    result.measures.append(metrics.collect)
    result.runs["scheduler-events"] = recorder.run
    result.runs["scheduler"] = Scheduler(client, informers, clock, recorder, metrics=metrics).run


def _add_controllers(result: Components, config: Config, client: Client, informers: InformerFactory, clock: Clock,
                     pki: ClusterPki | None) -> None:
    from master.apiserver.accounts.signing import SigningKey  # noqa: PLC0415 - only with the cluster's keys
    from master.controllers.dns import DnsOptions  # noqa: PLC0415 - only if wanted
    from master.controllers.manager import ControllerManager, ControllerOptions  # noqa: PLC0415 - only if wanted

    dns = DnsOptions(config.cluster_dns, config.cluster_domain)
    queues = QueueMetrics(clock.monotonic)
    result.measures.append(queues.collect)
    options = ControllerOptions(dns=dns, cluster_cidr=config.pod_cidr, node_prefix=config.node_cidr_mask_size,
                                ca_bundle=pki.path("ca.crt").read_text() if pki else "",
                                signer=pki.authority() if pki else None, reserved_names=config.own_names(),
                                token_maker=SigningKey.ensure(config.pki_dir) if pki else None, queues=queues.watch)
    result.runs["controllers"] = ControllerManager(client, clock, options, informers=informers).run


def _add_nodes(result: Components, config: Config, client: Client, informers: InformerFactory,
               pki: ClusterPki, authority: NodeAuthority | None) -> None:
    from master.apiserver.streaming import PodStreams  # noqa: PLC0415 - only if wanted
    from master.nodes.service import NodeService, ServerTls  # noqa: PLC0415 - brings gRPC along

    def tls() -> ServerTls:
        return ServerTls(*(pki.path(name).read_bytes() for name in ("apiserver.crt", "apiserver.key", "ca.crt")))

    metrics = NodeMetrics()
    result.measures.append(metrics.collect)
    service: NodeService = NodeService(client, informers, tls, f"{config.bind_address}:{config.node_port_grpc}",
                                       NodeSigner(pki, config.own_names()), metrics, authority)
    result.runs["nodes"] = service.run
    result.connect.update(PodStreams(service, client).handlers)


class NodeSigner:
    """Signs for a node that shows its certificate: the next one, and that of its own port."""

    def __init__(self, pki: ClusterPki, reserved: Collection[str] = ()) -> None:
        """`reserved` are the API server's names and addresses: only a node on the same host has some of them, too."""
        self._pki = pki
        self._reserved = reserved

    async def sign_node(self, request: bytes, node: str) -> bytes:
        """The certificate for the node's new key; ApiError 403 where the request names somebody else."""
        from sampan.api.errors import bad_request, forbidden_request  # noqa: PLC0415 - rarely called

        try:
            identity = ca.request_identity(request)
            if identity != ca.Identity(f"system:node:{node}", ("system:nodes",)):
                raise forbidden_request("certificates.k8s.io", "certificatesigningrequests", node,
                                        f"node {node} may only renew its own certificate")
            return self._pki.authority().sign(request, ("client auth",), NODE_CERTIFICATE_LIFETIME)
        except ca.CertificateError as error:
            raise bad_request(str(error)) from error

    async def sign_serving(self, request: bytes, node: core_v1.Node, peer: str) -> bytes:
        """The certificate of the node's port, by the rules of the signer kubernetes.io/kubelet-serving; ApiError 403
        where the request names somebody else.

        A node says by itself what its addresses are. `peer`, the one that it asks from, it cannot choose.
        """
        from master.controllers import csr_plan  # noqa: PLC0415 - rarely called
        from sampan.api.errors import bad_request, forbidden_request  # noqa: PLC0415

        name = node.metadata.name
        try:
            wish = csr_plan.read(request)
            why = csr_plan.complaint(csr_plan.NODE_SERVING, _SERVING_USAGES, wish)
            strange = csr_plan.strange_names(wish, node)
            if not why and strange:
                why = f"node {name} has no name or address {', '.join(strange)}"
            taken = csr_plan.reserved_names(wish, self._reserved)
            if not why and taken and not is_own_address(peer):
                why = f"node {name} is not on the API server's host, whose name or address {', '.join(taken)} is"
            if not why and wish.identity.user != csr_plan.NODE_PREFIX + name:
                why = f"node {name} may only ask for its own certificate"
            if why:
                raise forbidden_request("certificates.k8s.io", "certificatesigningrequests", name, why)
            return self._pki.authority().sign(request, _SERVING_USAGES, NODE_CERTIFICATE_LIFETIME)
        except ca.CertificateError as error:
            raise bad_request(str(error)) from error


def is_own_address(address: str) -> bool:
    """Whether an IP address is one of this host's: only to those can a socket be bound."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return address != ""
