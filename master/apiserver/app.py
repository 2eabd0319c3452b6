"""The API server on the network: HTTPS, who asks, whether they may, and the answer, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from master.apiserver import auth
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.impersonation import impersonated
from master.apiserver.compression import compress
from master.apiserver.connect import ConnectHandlers
from master.apiserver.handlers import ResourceHandlers
from master.apiserver.metrics import Metrics
from master.apiserver.paths import Paths
from master.apiserver.registry import Registry
from master.apiserver.request import RequestInfo, parse
from master.apiserver.responses import refuse
from master.apiserver.schema.parse import MAX_BODY
from master.apiserver.security import Security
from master.apiserver.strategy import User
from master.apiserver.watch import Watches
from master.apiserver.websockets import authorization
from master.apiserver.write import Writer
from master.store.protocol import StoreError
from sampan.api.errors import ApiError, bad_request, internal_error, timeout, unauthorized

log = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST_SECONDS = 60.0
SHUTDOWN_SECONDS = 5.0
SLOW_SECONDS = 1.0
IDLE_SECONDS = 90.0
"""How long a connection may stay without a whole request's head: at its beginning, between requests, and within."""
LINE_LIMIT = 65536
"""Bytes of a request's first line and of one header: selectors and tokens may be long."""

_NO_KEY = "/health"
_CONNECT_VERB = frozenset(("exec", "attach", "portforward", "proxy"))
"""Subresources that are streams, whatever the method that opens them."""


class ApiServer:
    """Serves a registry. `run` listens until it is cancelled; `port` is known once `started` is set."""

    def __init__(self, registry: Registry, writer: Writer, *, tls: ssl.SSLContext | None, ca_certificate: bytes = b"",
                 host: str = "0.0.0.0", port: int = 6443, advertise: str = "",
                 security: Security | None = None, connect: ConnectHandlers | None = None,
                 metrics: Metrics | None = None) -> None:
        """Without `tls` everybody is system:masters: for tests and measurements only, on loopback."""
        self._registry = registry
        self._tls = tls
        self._host, self.port = host, port
        self._metrics = metrics or Metrics()
        self._security = security or Security(registry)
        self.watches = Watches(registry)
        self._resources = ResourceHandlers(registry, writer, self._security, self.watches, connect or {},
                                           self._to_the_end)
        checks = {"etcd": self._store_answers, "caches": self._caches_are_filled}
        address = f"{advertise or host}:{port}"
        self._paths = Paths(registry, self._metrics, ca_certificate=ca_certificate, address=address, checks=checks,
                            documents=self._security.documents(address))
        self._certificates: WeakKeyDictionary[Any, auth.ClientCertificate] = WeakKeyDictionary()
        self._group: asyncio.TaskGroup | None = None
        self.started = asyncio.Event()
        self._metrics.sample(self._gauges)
        self._metrics.objects(lambda: {f"{served.resource.plural}.{served.resource.group}".rstrip("."):
                                       len(served.cache) for served in registry.all})

    async def run(self) -> None:
        """Listen until cancelled; then end watches, let requests finish, and close."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._group:
            server = web.Server(self._serve, request_factory=self._request, handler_cancellation=True,
                                access_log=None, max_line_size=LINE_LIMIT, max_field_size=LINE_LIMIT,
                                keepalive_timeout=IDLE_SECONDS, logger=_wire_log())
            listener = await loop.create_server(server, self._host, self.port, ssl=self._tls, backlog=1024)
            self.port = listener.sockets[0].getsockname()[1]
            log.info("serving on %s:%d", self._host, self.port)
            self.started.set()
            try:
                await loop.create_future()
            finally:
                listener.close()
                self.watches.close()
                server.pre_shutdown()
                await server.shutdown(SHUTDOWN_SECONDS)

    # --- one request ----------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        start = loop.time()
        what, long = ("", "", "", ""), False
        try:
            info = parse(request.method, _text(request))
            what, long = self._describe(info)
            # Streams end by themselves; everything else is cut off when it takes too long.
            limit = nullcontext() if long else asyncio.timeout(REQUEST_SECONDS)
            with self._metrics.longrunning(what).track_inprogress() if long else self._metrics.inflight(request.method):
                async with limit:
                    response = await self._answer(request, info)
                    await compress(request, response)
        except ApiError as error:
            response = refuse(error)
        except TimeoutError:
            response = refuse(timeout("the server was unable to return a response in the time allotted, but may "
                                      "still be processing the request"))
        except ConnectionError:
            self._break_off(request)
            raise
        except web.HTTPException as error:
            response = refuse(bad_request(error.reason))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            response = refuse(internal_error(f"{type(error).__name__}"))
        if not response.prepared and request.writer.output_size:
            self._break_off(request)
            raise ConnectionAbortedError("an answer that had begun has failed")
        seconds = loop.time() - start
        self._metrics.answered(what, response.status, None if long else seconds)
        if seconds > SLOW_SECONDS and not long:
            log.info("slow: %s %s: %d after %.1f s", request.method, request.path, response.status, seconds)
        return response

    async def _answer(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        if request.method == "OPTIONS" and info.path == "*":
            return web.Response()  # about the server, not about anything on it (RFC 9110, 9.3.7)
        user = await self._authenticate(request)
        await self._security.access.check(user, Attributes.of(info))
        if info.is_resource:
            return await self._resources.handle(request, info, user)
        return await self._paths.handle(request, info)

    @staticmethod
    def _break_off(request: web.BaseRequest) -> None:
        """Close without another byte: it is how a client learns that what it got is not the whole answer."""
        if request.transport is not None:
            request.transport.abort()

    async def _authenticate(self, request: web.BaseRequest) -> User:
        user = await self._peer(request) or await self._security.authentication.bearer(authorization(request))
        return await impersonated(user or auth.ANONYMOUS, request.headers, self._security.access)

    async def _peer(self, request: web.BaseRequest) -> User | None:
        """The client certificate's user, read once for each connection; ApiError 401 once the certificate has ended."""
        if self._tls is None:
            return auth.INTERNAL
        transport = request.transport
        connection = transport.get_extra_info("ssl_object") if transport is not None else None
        if connection is None:
            return None
        found = self._certificates.get(connection)
        if found is None:
            found = auth.client_certificate(connection.getpeercert(), connection.getpeercert(binary_form=True))
            if found is None:
                return None
            self._metrics.certified(found.expires.timestamp() - time.time())
            self._certificates[connection] = found
        if self._registry.clock.now() > found.expires:
            request.protocol.close()  # after the answer; the client comes back with its next certificate
            raise unauthorized()
        return await self._security.user_of(found)

    def _describe(self, info: RequestInfo) -> tuple[tuple[str, str, str, str], bool]:
        """The request as metrics name it, without what clients could invent; and whether it is a stream."""
        if not info.is_resource:
            return ("GET", "", "", ""), False
        served = self._registry.find(info.group, info.version, info.plural)
        if served is None or not info.verb:
            return (info.verb.upper(), "", "", ""), False
        known = next((item.name for item in served.resource.subresources if item.name == info.subresource), "")
        streams = known in _CONNECT_VERB or (known == "log" and info.query.flag("follow"))
        verb = "CONNECT" if known in _CONNECT_VERB else info.verb.upper()
        return (verb, info.group, info.plural, known), streams or info.verb == "watch"

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Let a write finish even when its client goes away: what it has reserved is used or given back."""
        if self._group is None:
            raise RuntimeError("the server is not running")
        result, error = await asyncio.shield(self._group.create_task(_outcome(work)))
        if error is not None:
            raise error
        return result  # type: ignore[return-value] # a result is there when no error is

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(),
                               client_max_size=MAX_BODY)

    # --- what others ask ------------------------------------------------------------------------------------------

    async def _store_answers(self) -> str:
        """A read that no cache answers, and a sign of life from the writer."""
        try:
            await self._registry.store.get(_NO_KEY)
            await self._registry.store.ping()
        except StoreError as error:
            return str(error)
        return ""

    async def _caches_are_filled(self) -> str:
        empty = [served.resource.plural for served in self._registry.all if served.cache.revision < 0]
        return f"not filled yet: {', '.join(empty)}" if empty else ""

    def _gauges(self) -> Iterable[tuple[str, str, float]]:
        yield "sampan_watches", "Watches that run over HTTPS.", self.watches.count
        yield "sampan_store_revision", "The store's last revision.", self._registry.store.revision
        yield "sampan_store_compacted_revision", "The oldest revision that can be read.", self._registry.store.compacted


async def _outcome(work: Awaitable[T]) -> tuple[T | None, Exception | None]:
    """A refusal is a result here: raised in the group, it would end every other request."""
    try:
        return await work, None
    except Exception as error:  # noqa: BLE001 - handed to the request that waits for it
        return None, error


def _text(request: web.BaseRequest) -> str:
    """The request's target with broken UTF-8 made readable, and without the server's name (RFC 9112, 3.2.2)."""
    target = request.raw_path
    if not target.isascii():
        target = target.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if target.startswith(("https://", "http://")):
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    return target


def _wire_log() -> logging.Logger:
    """For the HTTP library, which would write a traceback for what is no HTTP, and for each client that goes away."""

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, ConnectionError)):
            log.debug("%s: %s", record.getMessage(), error)
            return False
        return True

    logger = log.getChild("wire")
    logger.filters[:] = [keep]
    return logger


def server_tls(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS of the server: client certificates of the cluster's CA are welcome but not asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
