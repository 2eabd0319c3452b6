"""The gRPC server that agents dial: mutual TLS, one Sync stream per node, Stream calls for sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio

from master.metrics.nodes import NodeMetrics
from master.nodes.authority import NodeAuthority
from master.nodes.identity import Identities, NodeIdentity, Refused, Signer, read_certificate
from master.nodes.reports import NodeReports
from master.nodes.session import GREETING_TIMEOUT, Greeting, Session
from master.nodes.streams import NodeStream, NodeStreams
from master.nodes.world import WATCHED, World
from sampan.api.errors import ApiError, not_found
from sampan.api.resources import NODES, Object, Resource
from sampan.client.informer import InformerFactory
from sampan.client.protocol import Client
from sampan.nodeline import SERVER_OPTIONS, Key
from sampan.pb import node_pb2, node_pb2_grpc

log = logging.getLogger(__name__)

R = TypeVar("R")

_RESOURCES: dict[tuple[str, str], Resource[Any]] = {resource.key: resource for resource in WATCHED}
_CODES = {400: grpc.StatusCode.FAILED_PRECONDITION, 403: grpc.StatusCode.PERMISSION_DENIED,
          404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ABORTED}


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's certificate and key, and the CA that nodes' certificates come from; all PEM."""

    certificate: bytes
    key: bytes
    ca: bytes


class NodeService(node_pb2_grpc.NodeServiceServicer):
    """Serves agents. `run` it as a component; `streams` is what the API server's connect handlers need.

    `informers` are run by somebody else. `signer` renews nodes' certificates; without one Renew is refused.
    `tls` is read for every new connection, so that a renewed server certificate needs no restart.
    """

    def __init__(self, client: Client, informers: InformerFactory, tls: Callable[[], ServerTls],
                 address: str = "0.0.0.0:6444", signer: Signer | None = None,
                 metrics: NodeMetrics | None = None, authority: NodeAuthority | None = None) -> None:
        self._client = client
        self._metrics = metrics or NodeMetrics()
        self._metrics.lags = lambda: {node: session.lag for node, session in self._sessions.items()}
        self._world = World(informers)
        self._tls = tls
        self._address = address
        self._signer = signer
        self._authority = authority
        self._identities = Identities(client)
        self._reports = NodeReports(client, self._world, self._identities)
        self._sessions: dict[str, Session] = {}
        self._streams = NodeStreams(self._ask)
        self.port = 0
        """The port that is listened on, once `started` is set."""
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; OSError where the address cannot be had."""
        await self._world.synced()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        node_pb2_grpc.add_NodeServiceServicer_to_server(self, server)
        try:
            self.port = server.add_secure_port(self._address, self._credentials())
        except RuntimeError as error:
            raise OSError(f"cannot listen for agents on {self._address}: {error}") from error
        await server.start()
        self.started.set()
        log.info("listening for agents on %s", self._address)
        try:
            await asyncio.Event().wait()  # not the server's own wait: cancelling that spoils its shutdown
        finally:
            self.started.clear()
            await server.stop(None)  # streams never end by themselves, and agents repeat what was not acknowledged

    async def open(self, node: str, request: node_pb2.Open) -> NodeStream:
        """Ask a node for a session (`StreamOpener`); 404 where there is no such Node."""
        if self.started.is_set() and self._world.get(NODES, node) is None:
            raise not_found(NODES.group, NODES.plural, node)
        return await self._streams.open(node, request)

    def connected(self) -> frozenset[str]:
        """The nodes whose agents are connected."""
        return frozenset(self._sessions)

    def _credentials(self) -> grpc.ServerCredentials:
        """Client certificates are required; the server's own is looked at again for every connection."""
        def current() -> grpc.ServerCertificateConfiguration:
            tls = self._tls()
            return grpc.ssl_server_certificate_configuration([(tls.key, tls.certificate)], tls.ca)

        return grpc.dynamic_ssl_server_credentials(current(), current, require_client_authentication=True)

    def _ask(self, node: str, request: node_pb2.Open) -> bool:
        session = self._sessions.get(node)
        if session is None:
            return False
        session.ask(request)
        return True

    # Calls by agents

    async def Sync(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - the name in node.proto
        """See proto/node.proto."""
        await _answer(context, self._sync(context))

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - the name in node.proto
        """See proto/node.proto."""
        await _answer(context, self._stream(context))

    async def Renew(self, request: node_pb2.RenewRequest, context: Any) -> node_pb2.RenewReply:  # noqa: N802
        """See proto/node.proto."""
        return await _answer(context, self._renew(request, context))

    async def Review(self, request: node_pb2.ReviewRequest, context: Any) -> node_pb2.ReviewReply:  # noqa: N802
        """See proto/node.proto."""
        return await _answer(context, self._review(request, context))

    async def IssueToken(  # noqa: N802
            self, request: node_pb2.IssueTokenRequest, context: Any) -> node_pb2.IssueTokenReply:
        """See proto/node.proto."""
        return await _answer(context, self._issue(request, context))

    async def _review(self, request: node_pb2.ReviewRequest, context: Any) -> node_pb2.ReviewReply:
        who = _identify(context)
        await self._require_node(who)
        return await self._ask_authority().review(who.node, request)

    async def _issue(self, request: node_pb2.IssueTokenRequest, context: Any) -> node_pb2.IssueTokenReply:
        who = _identify(context)
        await self._require_node(who)
        return await self._ask_authority().issue(who.node, request)

    def _ask_authority(self) -> NodeAuthority:
        if self._authority is None:
            raise Refused(400, "this master issues no tokens")
        return self._authority

    async def _sync(self, context: Any) -> None:
        async with asyncio.timeout(GREETING_TIMEOUT):
            greeting = await Greeting.read(context)
        who = _identify(context)
        greeting.require_known_version()
        before = self._world.get(NODES, who.node)
        exists = await self._identities.admit(who)
        if exists and before and not self._world.get(NODES, who.node):  # nobody would tell the session of it any more
            raise Refused(409, f'node "{who.node}" has just been deleted')
        session = Session(who, context, greeting, self._world, self._reports, self._fetch, self._metrics,
                          exists=exists)
        other = self._sessions.get(who.node)
        if other is not None:
            other.end(Refused(409, f'another agent has connected as node "{who.node}"'))
            self._streams.disconnected(who.node)
        self._sessions[who.node] = session
        self._streams.connected(who.node)
        try:
            await session.run()
        finally:
            if self._sessions.get(who.node) is session:
                del self._sessions[who.node]
                self._streams.disconnected(who.node)
            log.info('node "%s" is disconnected', who.node)

    async def _stream(self, context: Any) -> None:
        who = _identify(context)
        await self._require_node(who)
        await self._streams.serve(who, context)

    async def _renew(self, request: node_pb2.RenewRequest, context: Any) -> node_pb2.RenewReply:
        who = _identify(context)
        if self._signer is None:
            raise Refused(400, "this master signs no certificates")
        if not await self._identities.admit(who):
            raise Refused(403, f'node "{who.node}" is not registered')
        if request.serving:
            node = await self._client.get(NODES, who.node)  # not from the cache: its addresses may be new
            certificate = await self._signer.sign_serving(request.request, node, peer_address(context.peer()))
            return node_pb2.RenewReply(certificate=certificate)
        certificate = await self._signer.sign_node(request.request, who.node)
        await self._identities.record(read_certificate(certificate), exists=True)
        log.info('node "%s" has a new certificate', who.node)
        return node_pb2.RenewReply(certificate=certificate)

    async def _require_node(self, who: NodeIdentity) -> None:
        """A Node of that name is not enough: it may have been deleted, and another host have joined as it."""
        if not await self._identities.admit(who):
            raise Refused(403, f'there is no node "{who.node}"')

    async def _fetch(self, key: Key) -> Object | None:
        try:
            found: Object = await self._client.get(_RESOURCES[key.resource], key.name, key.namespace)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        return found


def peer_address(peer: str) -> str:
    """The IP address in what gRPC calls a peer: ``ipv4:192.0.2.1:4711``, ``ipv6:%5B2001:db8::1%5D:4711``."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _identify(context: Any) -> NodeIdentity:
    certificates = context.auth_context().get("x509_pem_cert") or [b""]
    try:
        return read_certificate(certificates[0])
    except ValueError as error:
        raise Refused(403, f"the client certificate cannot be read: {error}") from error


async def _answer(context: Any, work: Coroutine[Any, Any, R]) -> R:
    """Do the work of a call; its refusals become gRPC statuses."""
    try:
        return await work
    except Refused as error:
        await _abort(context, _CODES.get(error.code, grpc.StatusCode.UNAVAILABLE), str(error))
    except ApiError as error:
        await _abort(context, _CODES.get(error.code, grpc.StatusCode.UNAVAILABLE), error.message)
    except TimeoutError:
        await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the agent took too long to greet")


async def _abort(context: Any, code: grpc.StatusCode, message: str) -> NoReturn:
    log.info("refused a call from %s: %s", context.peer(), message)
    await context.abort(code, message)
    raise AssertionError  # abort raises
