"""A certificate authority: issues what the cluster's own parts need and signs what nodes and users ask for.

Our own keys are ECDSA P-256: small, quick to make, and every client of ours speaks it. Lifetimes are in the
arguments; a certificate starts five minutes in the past, for clocks that are a little behind.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sampan.pki.pair import CertificateError, KeyPair

__all__ = ["CA_LIFETIME", "SLACK", "USAGES", "YEAR", "Authority", "CertificateError", "Identity", "KeyPair",
           "belong_together", "certificate_expiry", "certificate_identity", "certificate_names", "certificate_usages",
           "make_request", "new_key", "public_key_hash", "request_alternatives", "request_identity"]

YEAR = timedelta(days=365)
CA_LIFETIME = 10 * YEAR
SLACK = timedelta(minutes=5)

USAGES = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate speaks for: `user` is the common name, `groups` the organizations (upstream's reading)."""

    user: str
    groups: tuple[str, ...] = ()


def new_key() -> bytes:
    """A fresh private key, PEM (PKCS #8)."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def make_request(key: bytes, identity: Identity, names: Sequence[str] = ()) -> bytes:
    """A certificate signing request for that identity, PEM; `names` are a server's DNS names and IP addresses."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(identity))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    return builder.sign(_load_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request_identity(request: bytes) -> Identity:
    """Whom a signing request wants to speak for; CertificateError where it is malformed or not signed by its key."""
    try:
        csr = x509.load_pem_x509_csr(request)
        valid = csr.is_signature_valid
    except (ValueError, InvalidSignature) as error:
        raise CertificateError(f"the certificate request is malformed: {error}") from error
    if not valid:
        raise CertificateError("the certificate request is not signed by the key that it names")
    return _identity(csr.subject)


def request_alternatives(request: bytes) -> x509.SubjectAlternativeName | None:
    """The other names that a signing request asks for; CertificateError where they cannot be read."""
    try:
        extensions = x509.load_pem_x509_csr(request).extensions
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"the certificate request is malformed: {error}") from error


def certificate_identity(certificate: bytes) -> Identity:
    """Whom a certificate (PEM) speaks for."""
    return _identity(_load_certificate(certificate).subject)


def certificate_expiry(certificate: bytes) -> datetime:
    """The instant after which the certificate is no longer valid, UTC."""
    return _load_certificate(certificate).not_valid_after_utc


def certificate_names(certificate: bytes) -> frozenset[str]:
    """The DNS names and IP addresses that a server certificate is valid for."""
    try:
        extension = _load_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(str(name.value) for name in extension.value)


def certificate_usages(certificate: bytes) -> tuple[str, ...]:
    """What the certificate may be used for, in the names of USAGES."""
    try:
        extension = _load_certificate(certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name for name, oid in USAGES.items() if oid in extension.value)


def public_key_hash(certificate: bytes) -> str:
    """``sha256:<hex>`` of the certificate's public key (SPKI), the form that kubeadm's join lines carry."""
    public = _load_certificate(certificate).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def belong_together(pair: KeyPair) -> bool:
    """Whether the certificate is of that key."""
    return _load_key(pair.key).public_key() == _load_certificate(pair.certificate).public_key()


class Authority:
    """Issues certificates under one CA certificate. `now` gives the current instant."""

    def __init__(self, pair: KeyPair, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._certificate = _load_certificate(pair.certificate)
        self._key = _load_key(pair.key)
        if not belong_together(pair):
            raise CertificateError("the CA's certificate and its key do not belong together")
        self.certificate = pair.certificate

    @classmethod
    def create(cls, name: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> tuple[KeyPair, Authority]:
        """A new self-signed authority, and its files' content."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = now()
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - SLACK).not_valid_after(start + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        certificate = builder.sign(key, hashes.SHA256())
        pair = KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))
        return pair, cls(pair, now)

    def issue(self, identity: Identity, *, names: Sequence[str] = (), usages: Sequence[str] = ("client auth",),
              lifetime: timedelta = YEAR) -> KeyPair:
        """A new key with its certificate; `names` are the DNS names and IP addresses of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_name(name) for name in names]) if names else None
        certificate = self._sign(_subject(identity), key.public_key(), alternatives, usages, lifetime)
        return KeyPair(certificate, _pem(key))

    def sign(self, request: bytes, usages: Sequence[str], lifetime: timedelta) -> bytes:
        """The certificate for a signing request (PEM); who may have it has been decided before."""
        identity = request_identity(request)
        csr = x509.load_pem_x509_csr(request)
        public = csr.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
            raise CertificateError("only ECDSA, RSA and Ed25519 keys are signed")
        return self._sign(_subject(identity), public, request_alternatives(request), usages, lifetime)

    def _sign(self, subject: x509.Name,
              public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey,
              alternatives: x509.SubjectAlternativeName | None, usages: Sequence[str], lifetime: timedelta) -> bytes:
        start = self._now()
        end = min(start + lifetime, self._certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._certificate.subject)
            .public_key(public).serial_number(x509.random_serial_number())
            .not_valid_before(start - SLACK).not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([USAGES[usage] for usage in usages if usage in USAGES]),
                           critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                           critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def _load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"the private key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the private key is not an ECDSA key")
    return key


def _load_certificate(data: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise CertificateError(f"the certificate cannot be read: {error}") from error


def _subject(identity: Identity) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, identity.user)])


def _identity(subject: x509.Name) -> Identity:
    users = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = tuple(str(item.value) for item in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    return Identity(users[0] if users else "", groups)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=True, key_encipherment=not authority, key_cert_sign=authority,
                         crl_sign=authority, content_commitment=False, data_encipherment=False,
                         key_agreement=False, encipher_only=False, decipher_only=False)
