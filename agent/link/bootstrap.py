"""Joining: how a host that has nothing but a token becomes a node (upstream's "TLS bootstrapping" reference).

1. `GET /cacerts` without a certificate check, and believe the answer only if a CA in it has the key hash that came
   with the token (kubeadm's ``--discovery-token-ca-cert-hash``).
2. With that CA trusted and the token as bearer, create a CertificateSigningRequest for ``system:node:<name>``.
3. Wait for the certificate, and keep it with its key.

Every step may be repeated: the key is made once, and the request is named after it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization

from agent.link.files import NodeFiles
from agent.link.protocol import JoinError
from sampan.api import codec
from sampan.api.errors import ApiError
from sampan.api.resources import CERTIFICATESIGNINGREQUESTS as REQUESTS
from sampan.api.types import certificates_v1, meta_v1
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock
from sampan.nodeline import GROUP, USER_PREFIX
from sampan.pki import ca
from sampan.pki.tokens import BootstrapToken

log = logging.getLogger(__name__)

SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
USAGES = ["digital signature", "client auth"]
REQUEST_TIMEOUT = 15.0
"""Seconds for one HTTP request."""
MAX_SKEW = 120.0
"""Seconds that the two clocks may differ before certificates stop being valid at once."""
_MARKER = b"-----END CERTIFICATE-----"


class Unreachable(JoinError):
    """The master did not answer: worth another try."""


class Denied(JoinError):
    """The certificate was refused: that request will never get one."""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What the operator gave: the API server's ``host:port``, the token, the CA's key hash, this node's name."""

    server: str
    token: BootstrapToken
    ca_hash: str
    node: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    date: datetime | None


class _Http:
    """HTTPS requests to one server; every failure is a JoinError that says what is wrong."""

    def __init__(self, server: str, context: ssl.SSLContext, token: BootstrapToken | None = None) -> None:
        self._base = f"https://{server}"
        self._context = context
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def request(self, method: str, path: str, body: bytes = b"") -> _Answer:
        import aiohttp  # noqa: PLC0415 - only a node that joins needs it

        headers = self._headers | {"Accept": "application/json", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        try:
            async with (aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                        session.request(method, self._base + path, data=body or None, ssl=self._context) as response):
                date = response.headers.get("Date")
                return _Answer(response.status, await response.read(), _parse_date(date))
        except aiohttp.ClientConnectorCertificateError as error:
            raise JoinError(untrusted(self._base, error.certificate_error)) from error
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise JoinError(untrusted(self._base, error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = _why(error) or f"no answer within {REQUEST_TIMEOUT:.0f} s"
            raise Unreachable(f"cannot reach {self._base}: {why}; is the master running, and port "
                              f"{self._base.rpartition(':')[2]} open from this host?") from error


def _why(error: Exception) -> str:
    """The operating system's own words where there are any."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        return os.strerror(cause.errno)
    return str(cause)


def _parse_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def untrusted(base: str, error: BaseException) -> str:
    """What to tell the operator of a certificate that failed the check."""
    text = str(error)
    if "not yet valid" in text:
        return f"the certificate of {base} is not valid yet: this host's clock is behind the master's; set it right"
    if "expired" in text:
        return f"the certificate of {base} has expired, or this host's clock is ahead of the master's: {text}"
    if "match" in text:
        return f"the certificate of {base} is not for that name: use a name or address that the master was told: {text}"
    return f"{base} shows no certificate of the cluster's CA: {text}"


def pick_authority(bundle: bytes, ca_hash: str) -> bytes:
    """The CA in the bundle (PEM) whose public key has that hash; JoinError where none has."""
    certificates = [part[part.index(b"-----BEGIN"):] + _MARKER + b"\n"
                    for part in bundle.split(_MARKER) if b"-----BEGIN" in part]
    found = []
    for certificate in certificates:
        try:
            found.append(ca.public_key_hash(certificate))
        except ca.CertificateError as error:
            raise JoinError(f"the server's CA certificate cannot be read: {error}") from error
        if found[-1] == ca_hash.lower():
            return certificate
    raise JoinError(f"the server's CA has the key hash {', '.join(found) or '(none)'}, not {ca_hash}: the join line is "
                    "of another cluster, or somebody stands between this host and the master")


async def join(request: JoinRequest, files: NodeFiles, clock: Clock, *, patience: float = 300.0) -> None:
    """Make this host a node, or do nothing where it is one; JoinError.

    `patience` is how many seconds to wait for the certificate, which somebody may have to approve.
    """
    if files.present():
        return
    anonymous = ssl.create_default_context()
    anonymous.check_hostname = False
    anonymous.verify_mode = ssl.CERT_NONE  # the hash decides
    answer = await _Http(request.server, anonymous).request("GET", "/cacerts")
    if answer.status != 200:
        raise JoinError(f"https://{request.server}/cacerts answered {answer.status}: is that a Sampan master?")
    authority = pick_authority(answer.body, request.ca_hash)
    _check_clock(answer.date, clock)
    trusting = ssl.create_default_context(cadata=authority.decode())
    http = _Http(request.server, trusting, request.token)
    key = files.pending_key()
    name = await _ask(http, request.node, key)
    try:
        certificate = await _wait(http, name, clock, patience)
    except Denied:
        files.pending_key_path.unlink(missing_ok=True)  # the next try asks anew, with another key
        raise
    pair = ca.KeyPair(certificate, key)
    if not ca.belong_together(pair):
        raise JoinError("the master signed another key than this node's")
    files.store(pair, authority)
    log.info('joined the cluster at %s as node "%s"', request.server, request.node)


def _check_clock(theirs: datetime | None, clock: Clock) -> None:
    if theirs is None:
        return
    skew = (clock.now() - theirs).total_seconds()
    if abs(skew) > MAX_SKEW:
        raise JoinError(f"this host's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the master's; "
                        "set it right (timedatectl set-ntp true) and join again")


async def _ask(http: _Http, node: str, key: bytes) -> str:
    """Create the request, or find that it is there already; returns its name."""
    pem = ca.make_request(key, ca.Identity(USER_PREFIX + node, (GROUP,)))
    digest = hashlib.sha256(_public(key) + node.encode()).hexdigest()[:32]
    wanted = certificates_v1.CertificateSigningRequest(
        metadata=meta_v1.ObjectMeta(name=f"node-csr-{digest}"),
        spec=certificates_v1.CertificateSigningRequestSpec(request=pem, signer_name=SIGNER, usages=USAGES))
    answer = await http.request("POST", REQUESTS.path(), codec.encode(wanted))
    if answer.status not in (200, 201, 409):
        raise _refused(answer)
    return wanted.metadata.name


def _public(key: bytes) -> bytes:
    public = serialization.load_pem_private_key(key, None).public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


async def _wait(http: _Http, name: str, clock: Clock, patience: float) -> bytes:
    """The certificate, once it is there."""
    backoff, tries, started = Backoff(initial=0.1, maximum=5.0), 0, clock.monotonic()
    told = False
    while True:
        answer = await http.request("GET", REQUESTS.path(name=name))
        if answer.status != 200:
            raise _refused(answer)
        found = codec.decode(certificates_v1.CertificateSigningRequest, answer.body)
        for condition in found.status.conditions:
            if condition.type in ("Denied", "Failed"):
                raise Denied(f"the certificate request {name} was {condition.type.lower()}: "
                             f"{condition.message or condition.reason or 'no reason given'}")
        if found.status.certificate:
            return found.status.certificate
        waited = clock.monotonic() - started
        if waited > patience:
            raise JoinError(f"no certificate within {patience:.0f} s; approve the request on the master: "
                            f"kubectl certificate approve {name}")
        if waited > 5.0 and not told:
            told = True
            log.warning("waiting for the certificate; on the master: kubectl certificate approve %s", name)
        tries += 1
        await clock.sleep(backoff.delay(tries))


def _refused(answer: _Answer) -> JoinError:
    error = _status(answer)
    if answer.status == 401:
        return JoinError("the master refuses the token: it is mistyped, has expired, or was deleted; see `sampan token "
                         "list` on the master's host, and get a new join line: sampan token create "
                         "--print-join-command")
    if answer.status >= 500:
        return Unreachable(f"the master answers {answer.status}: {error.message}")
    return JoinError(f"the master answers {answer.status}: {error.message}")


def _status(answer: _Answer) -> ApiError:
    try:
        tree: dict[str, Any] = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.DecodeError:
        return ApiError(answer.status, "", answer.body[:200].decode("utf-8", "replace"))
    return ApiError.from_status(tree)


async def join_with_patience(request: JoinRequest, files: NodeFiles, clock: Clock, *, seconds: float = 60.0) -> None:
    """Join; a master that cannot be reached yet is tried again for so long, every other error is raised at once."""
    backoff, tries, started = Backoff(initial=0.5, maximum=5.0), 0, clock.monotonic()
    while True:
        try:
            await join(request, files, clock)
            return
        except Unreachable as error:
            if clock.monotonic() - started > seconds:
                raise
            tries += 1
            log.warning("%s; trying again", error)
            await clock.sleep(backoff.delay(tries))
