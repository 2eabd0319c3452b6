"""HTTP GETs of probes and hooks: one connection each, no cookies, certificates not verified, as the kubelet does.

h11 parses the answers; a full HTTP client would cost every agent 7 MB of memory for these few requests.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urljoin, urlsplit

import h11

BODY_LIMIT = 10 * 1024
"""Bytes of the answer that are kept for the message (upstream's maxRespBodyLength)."""
REDIRECTS = 10


@dataclass(frozen=True, slots=True)
class Target:
    """A GET to be made. `host` is connected to; the Host header may say otherwise by `headers`."""

    scheme: str
    host: str
    port: int
    path: str
    headers: Sequence[tuple[str, str]] = ()

    @property
    def url(self) -> str:
        """The target as a URL, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code, and the beginning of the body. 3xx is a redirect that was not followed: to another host."""

    status: int
    body: bytes


async def get(target: Target) -> Answer:
    """Make the request and follow redirects on the same host; OSError, ValueError (no HTTP) where it fails."""
    for _ in range(REDIRECTS):
        answer, location = await _once(target)
        if not location:
            return answer
        url = urlsplit(urljoin(target.url, location))
        if url.hostname != urlsplit(target.url).hostname:
            return answer
        port = url.port or (443 if url.scheme == "https" else 80)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        target = replace(target, scheme=url.scheme, port=port, path=path)
    raise ValueError(f"stopped after {REDIRECTS} redirects")


async def _once(target: Target) -> tuple[Answer, str]:
    context = _unverified() if target.scheme == "https" else None
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=context)
    try:
        connection = h11.Connection(h11.CLIENT)
        writer.write(_request(connection, target))
        await writer.drain()
        return await _read(connection, reader)
    except h11.ProtocolError as error:
        raise ValueError(f"malformed HTTP response: {error}") from error
    finally:
        writer.close()


def _request(connection: h11.Connection, target: Target) -> bytes:
    names = {name.lower() for name, _ in target.headers}
    host = f"[{target.host}]" if ":" in target.host else target.host
    defaults = [("Host", f"{host}:{target.port}"), ("User-Agent", "kube-probe/1.32"), ("Accept", "*/*")]
    headers = [(name, value) for name, value in defaults if name.lower() not in names]
    headers += [*target.headers, ("Connection", "close")]
    request = h11.Request(method="GET", target=target.path, headers=headers)
    return (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[Answer, str]:
    status, location, body = 0, "", b""
    while len(body) < BODY_LIMIT:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = dict(event.headers).get(b"location", b"").decode("latin-1") if 300 <= status < 400 else ""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            break
    return Answer(status, body[:BODY_LIMIT]), location


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
