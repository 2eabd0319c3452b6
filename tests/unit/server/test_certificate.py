"""The certificate of the node's port: asked for, kept, renewed, and the port that uses it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from agent.link.authority import Action, AuthorityError, Caller, Verdict
from agent.link.files import NodeFiles
from agent.server.access import Guard
from agent.server.certificate import ServingCertificate
from agent.server.http import Request, Response
from agent.server.server import NodeServer
from sampan.loop.clock import FakeClock, SystemClock
from sampan.pki import ca

NAMES = ("node-1", "127.0.0.1")


async def make_request(user: str, group: str, names: Sequence[str]) -> tuple[bytes, bytes]:
    """Here, not in another process."""
    key = ca.new_key()
    return key, ca.make_request(key, ca.Identity(user, (group,)), names)


class Signer:
    """The master, which may be away."""

    def __init__(self, clock: FakeClock | SystemClock) -> None:
        pair, self.authority = ca.Authority.create("test-ca", clock.now)
        self.ca = pair.certificate
        self.requests: list[bytes] = []
        self.lifetime = timedelta(days=365)
        self.away = 0

    async def serving_certificate(self, request: bytes) -> bytes:
        self.requests.append(request)
        if self.away:
            self.away -= 1
            raise AuthorityError("there is no connection to the master")
        return self.authority.sign(request, ("server auth",), self.lifetime)

    def files(self, directory: Path) -> NodeFiles:
        directory.mkdir(exist_ok=True)
        files = NodeFiles(directory)
        files.ca_path.write_bytes(self.ca)
        return files


def certificate(signer: Signer, directory: Path, clock: FakeClock | SystemClock,
                names: Sequence[str] = NAMES) -> ServingCertificate:
    return ServingCertificate("node-1", names, signer.files(directory), signer, clock, make_request=make_request)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(made: ServingCertificate) -> AsyncIterator[None]:
    task = asyncio.create_task(made.run())
    try:
        await turns()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_is_asked_for_once_and_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    signer = Signer(clock)
    made = certificate(signer, tmp_path, clock)
    async with running(made):
        assert made.ready.is_set()
    assert ca.request_identity(signer.requests[0]) == ca.Identity("system:node:node-1", ("system:nodes",))
    assert ca.certificate_names(made._files.serving_path.read_bytes()) == set(NAMES)
    assert made._files.serving_path.stat().st_mode & 0o777 == 0o600
    again = certificate(signer, tmp_path, clock)
    async with running(again):
        assert again.expires == made.expires
    assert len(signer.requests) == 1


async def test_another_address_needs_another_certificate_and_the_old_one_serves_until_then(tmp_path: Path) -> None:
    clock = FakeClock()
    signer = Signer(clock)
    async with running(certificate(signer, tmp_path, clock)):
        pass
    signer.away = 1
    moved = certificate(signer, tmp_path, clock, ("node-1", "192.0.2.7"))
    async with running(moved):
        assert moved.ready.is_set()
        assert len(signer.requests) == 2
        await clock.advance(1.0)
        await turns()
        assert len(signer.requests) == 3
    assert "192.0.2.7" in ca.certificate_names(moved._files.serving_path.read_bytes())


async def test_it_is_renewed_long_before_it_ends(tmp_path: Path) -> None:
    clock = FakeClock()
    signer = Signer(clock)
    signer.lifetime = timedelta(days=10)
    made = certificate(signer, tmp_path, clock)
    async with running(made):
        first = made.expires
        await clock.advance(3600.0 * 24 * 6.9)
        await turns()
        assert len(signer.requests) == 1
        await clock.advance(3600.0 * 24 * 0.2)
        await turns()
        assert len(signer.requests) == 2
        assert made.expires is not None
        assert first is not None
        assert made.expires > first


async def test_damage_is_repaired(tmp_path: Path) -> None:
    clock = FakeClock()
    signer = Signer(clock)
    made = certificate(signer, tmp_path, clock)
    made._files.serving_path.write_text("Subject Alternative Names: node-1, 127.0.0.1\nnonsense")
    async with running(made):
        assert made.ready.is_set()


def test_a_host_that_joins_another_cluster_forgets_its_ports_certificate(tmp_path: Path) -> None:
    signer = Signer(FakeClock())
    files = signer.files(tmp_path)
    files.serving_path.write_text("of the cluster before")
    pair = signer.authority.issue(ca.Identity("system:node:node-1"))
    files.store(pair)
    assert files.serving_path.exists()
    files.store(pair, signer.ca)
    assert not files.serving_path.exists()


class Everybody:
    """Lets in whoever shows a certificate or a token."""

    async def review(self, caller: Caller, action: Action) -> Verdict:
        return Verdict(True, True, caller.name or caller.token, caller.groups)


async def fetch(port: int, context: ssl.SSLContext, *, token: str = "") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(f"GET /x HTTP/1.1\r\nHost: n\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_the_port_serves_certificates_and_tokens_and_takes_a_new_certificate_while_running(
        tmp_path: Path) -> None:
    clock = SystemClock()
    signer = Signer(clock)
    made = certificate(signer, tmp_path / "pki", clock)

    async def handle(request: Request) -> Response:
        return Response.text(200, f"you read {request.path}")

    server = NodeServer("127.0.0.1", 0, made, Guard(Everybody()), handle, clock)
    trusting = ssl.create_default_context(cadata=signer.ca.decode())
    pair = signer.authority.issue(ca.Identity("prometheus"))
    (tmp_path / "me.pem").write_bytes(pair.key + pair.certificate)
    known = ssl.create_default_context(cadata=signer.ca.decode())
    known.load_cert_chain(tmp_path / "me.pem")
    async with asyncio.timeout(60):
        tasks = [asyncio.create_task(made.run()), asyncio.create_task(server.run())]
        try:
            await server.started.wait()
            assert b"401 Unauthorized" in await fetch(server.port, trusting)
            assert b"you read /x" in await fetch(server.port, trusting, token="t")
            assert b"you read /x" in await fetch(server.port, known)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=known)
            old = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
            await made._renew()
            writer.write(b"GET /y HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
            assert b"you read /y" in await reader.read()
            writer.close()
            _, fresh = await asyncio.open_connection("127.0.0.1", server.port, ssl=known)
            assert fresh.get_extra_info("ssl_object").getpeercert()["serialNumber"] != old
            fresh.close()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
