"""A real API server over TLS on loopback, with a client for raw requests and a kubeconfig for kubectl."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from master.apiserver import keys
from master.apiserver.accounts.signing import SigningKey
from master.apiserver.app import ApiServer, server_tls
from master.apiserver.auth import Authenticator
from master.apiserver.authorization.reconcile import DefaultRoles
from master.apiserver.bootstrap import Bootstrap, Bootstrapper
from master.apiserver.connect import ConnectHandlers
from master.main import ApiParts
from master.store.memory import MemoryStore
from master.store.protocol import Store
from master.store.sqlite import SqliteStore
from sampan.api.resources import EVENTS, LEASES
from sampan.loop.clock import SystemClock
from sampan.pki import kubeconfig
from sampan.pki.ca import Authority, Identity, KeyPair
from sampan.pki.cluster import ClusterPki

Kind = Literal["memory", "sqlite"]
SERVICE_CIDR = "10.96.0.0/16"


@dataclass(slots=True)
class Answer:
    """What came back. `json` is the body read as JSON, None where it is none."""

    code: int
    body: bytes
    headers: CIMultiDict[str]
    warnings: list[str]

    @property
    def json(self) -> Any:
        """The body, read."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


@dataclass(slots=True)
class Running:
    """A server and the administrator's ways to it."""

    server: ApiServer
    parts: ApiParts
    pki: ClusterPki
    session: aiohttp.ClientSession
    directory: Path

    @property
    def url(self) -> str:
        """The server's root."""
        return f"https://127.0.0.1:{self.server.port}"

    @property
    def authority(self) -> Authority:
        """The cluster's CA."""
        return self.pki.authority()

    async def request(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json",
                      accept: str = "application/json", headers: dict[str, str] | None = None,
                      session: aiohttp.ClientSession | None = None) -> Answer:
        """One request; `body` is bytes, or a tree that is sent as JSON."""
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        fields = {"Accept": accept, **({"Content-Type": content_type} if data is not None else {}), **(headers or {})}
        async with (session or self.session).request(
                method, URL(self.url + path, encoded=True), data=data if data is None else io.BytesIO(data),
                headers=fields, allow_redirects=False) as response:
            return Answer(response.status, await response.read(), CIMultiDict(response.headers),
                          response.headers.getall("Warning", []))

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A request that must succeed: its JSON."""
        answer = await self.request(method, path, body, **more)
        assert answer.code < 300, (answer.code, answer.body)
        return answer.json

    async def refused(self, code: int, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A request that must be refused with a Status of that code: the Status."""
        answer = await self.request(method, path, body, **more)
        assert answer.code == code, (answer.code, answer.body)
        assert answer.json["kind"] == "Status"
        assert answer.json["code"] == code
        return answer.json

    def client_session(self, user: str, groups: Sequence[str] = (), authority: Authority | None = None,
                       ) -> aiohttp.ClientSession:
        """A session with a client certificate; close it."""
        pair = (authority or self.authority).issue(Identity(user, tuple(groups)))
        return _session(self.pki, pair, self.directory / f"{user.replace(':', '-')}.pem")

    def anonymous(self) -> aiohttp.ClientSession:
        """A session without a certificate; close it."""
        return _session(self.pki, None, self.directory)

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        path = self.directory / "kubeconfig"
        parts = (self.pki.path(name).read_bytes() for name in ("ca.crt", "admin.crt", "admin.key"))
        path.write_bytes(kubeconfig.render(self.url, *parts))
        return path


def _session(pki: ClusterPki, pair: KeyPair | None, path: Path) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=str(pki.path("ca.crt")))
    if pair is not None:
        path.write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(path)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0))


async def _store(kind: Kind, directory: Path) -> Store:
    unversioned = tuple(keys.prefix(resource) for resource in (EVENTS, LEASES))
    if kind == "memory":
        return MemoryStore(unversioned=unversioned)
    return await SqliteStore.open(directory / "state.db", unversioned=unversioned)


@asynccontextmanager
async def api_server(directory: Path, kind: Kind = "memory", *, authenticators: Sequence[Authenticator] = (),
                     connect: ConnectHandlers | None = None,
                     key: SigningKey | None = None) -> AsyncIterator[Running]:
    """Bring one up on a free port, with the objects that every cluster has; `key` signs ServiceAccount tokens."""
    pki = ClusterPki(directory / "pki", ["127.0.0.1", "localhost"])
    pki.ensure()
    tls = server_tls(*(str(pki.path(name)) for name in ("apiserver.crt", "apiserver.key", "ca.crt")))
    store = await _store(kind, directory)
    admin = KeyPair(pki.path("admin.crt").read_bytes(), pki.path("admin.key").read_bytes())
    try:
        async with asyncio.TaskGroup() as group:
            parts = ApiParts.build(store, SystemClock(), SERVICE_CIDR, key=key, authenticators=authenticators)
            caches = group.create_task(parts.registry.run())
            await parts.registry.ready()
            await Bootstrapper(parts.registry, parts.writer, Bootstrap("192.0.2.1", 6443, SERVICE_CIDR)).ensure()
            await DefaultRoles(parts.registry, parts.writer).ensure()
            server = ApiServer(parts.registry, parts.writer, tls=tls, host="127.0.0.1", port=0, connect=connect,
                               ca_certificate=pki.path("ca.crt").read_bytes(), security=parts.security)
            serving = group.create_task(server.run())
            await server.started.wait()
            try:
                async with _session(pki, admin, directory / "admin.pem") as session:
                    yield Running(server, parts, pki, session, directory)
            finally:
                serving.cancel()
                caches.cancel()
    finally:
        await store.close()
