"""Key pairs as everybody carries them about, and the one thing that everybody has to know of a certificate.

Kept from `sampan.pki.ca`, which makes and checks certificates: the library that it needs takes 8 MB, too much for a
process that only has an identity.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


class CertificateError(Exception):
    """A certificate, key or request cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def split(text: bytes) -> KeyPair:
    """A key and its certificate from one file that holds both, the key first; CertificateError."""
    marker = b"-----BEGIN CERTIFICATE-----"
    key, found, rest = text.partition(marker)
    if not found:
        raise CertificateError("it holds no certificate")
    return KeyPair(found + rest, key)


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """From when and until when a certificate (PEM) is valid (RFC 5280, 4.1); CertificateError."""
    try:
        [(_, outer)] = _elements(ssl.PEM_cert_to_DER_cert(certificate.decode("ascii").strip()))
        fields = _elements(_elements(outer)[0][1])
        if fields[0][0] == _VERSION:
            fields = fields[1:]
        begin, end = _elements(fields[3][1])  # after serial number, signature algorithm and issuer
        return _instant(*begin), _instant(*end)
    except (ValueError, IndexError) as error:
        raise CertificateError(f"the certificate cannot be read: {error}") from error


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """What follows one another in DER (X.690): tags and contents."""
    found = []
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position:position + size], "big")
            position += size
        if position + length > len(data):
            raise ValueError("it ends too early")
        found.append((tag, data[position:position + length]))
        position += length
    return found


def _instant(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 to 49 are 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("it has no dates")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
