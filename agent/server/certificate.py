"""The certificate of the node's port: asked of the master, renewed while running, used for new connections at once."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from agent.link.authority import AuthorityError
from agent.link.files import NodeFiles
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.nodeline import GROUP, USER_PREFIX
from sampan.pki.files import write_atomically
from sampan.pki.pair import CertificateError, validity
from sampan.pki.request import key_and_request

log = logging.getLogger(__name__)

LOOK_AGAIN = 3600.0
"""Seconds: the wall clock may be set meanwhile."""
_TITLE = "Subject Alternative Names: "
_MARKER = "-----BEGIN CERTIFICATE-----"

MakeRequest = Callable[[str, str, Sequence[str]], Awaitable[tuple[bytes, bytes]]]
"""User, group and names to a key and a request."""


class ServingSigner(Protocol):
    """The master's side of it; `agent.link.authority.LinkAuthority` is one."""

    async def serving_certificate(self, request: bytes) -> bytes:
        """The certificate for a request; AuthorityError where there is none now."""


class ServingCertificate:
    """Keeps `tls` furnished. `names` are the node's name and addresses; `ready` is set once there is a certificate."""

    def __init__(self, node: str, names: Sequence[str], files: NodeFiles, signer: ServingSigner, clock: Clock, *,
                 make_request: MakeRequest = key_and_request) -> None:
        self._node = node
        self._names = tuple(dict.fromkeys(names))
        self._files = files
        self._signer = signer
        self._clock = clock
        self._make_request = make_request
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.tls.verify_mode = ssl.CERT_OPTIONAL  # a token will do as well
        self.tls.set_alpn_protocols(["http/1.1"])
        self.ready = asyncio.Event()
        self.expires: datetime | None = None
        self._trusting = False

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            due = self._due()
            if due > 0:
                await self._clock.sleep(min(due, LOOK_AGAIN))
                continue
            try:
                await self._renew()
                failures = 0
            except (AuthorityError, CertificateError, OSError) as error:  # ssl.SSLError is an OSError
                failures += 1
                # At the beginning the master may not know of the node yet, and soon will.
                log.log(logging.WARNING if failures > 5 else logging.DEBUG,
                        "no certificate for the node's port: %s", error)
                await self._clock.sleep(Backoff(initial=0.5, maximum=60.0).delay(failures))

    def _due(self) -> float:
        """Seconds until another certificate is needed; loads the present one where it is good."""
        try:
            text = self._files.serving_path.read_text("ascii")
            start, end = validity((_MARKER + text.partition(_MARKER)[2]).encode())
        except (OSError, CertificateError, ValueError):
            return 0.0
        names = text.partition("\n")[0].removeprefix(_TITLE).split(", ")
        left = (start + (end - start) * 0.7 - self._clock.now()).total_seconds()
        if not self.ready.is_set() and end > self._clock.now():
            try:
                self._load(end)
            except OSError as error:
                log.warning("%s cannot be used: %s", self._files.serving_path, error)
                return 0.0
        return left if set(self._names) <= set(names) else 0.0

    async def _renew(self) -> None:
        key, request = await self._make_request(USER_PREFIX + self._node, GROUP, self._names)
        certificate = await self._signer.serving_certificate(request)
        title = f"{_TITLE}{', '.join(self._names)}\n".encode()
        write_atomically(self._files.serving_path, title + key + certificate)
        self._load(validity(certificate)[1])
        log.info("the node's port has a certificate until %s", self.expires)

    def _load(self, expires: datetime) -> None:
        """Use the file for connections from now on; those that are there go on."""
        if not self._trusting:
            self.tls.load_verify_locations(cadata=self._files.authority().decode("ascii"))
            self._trusting = True
        self.tls.load_cert_chain(self._files.serving_path)
        self.expires = expires
        self.ready.set()
