from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.pki import ca
from sampan.pki.pair import CertificateError, validity


@pytest.mark.parametrize("now", [
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2048, 12, 31, 23, 59, 59, tzinfo=UTC),  # from 2050 on the dates are written in another way
])
def test_when_a_certificate_is_valid(now: datetime) -> None:
    pair, authority = ca.Authority.create("test", lambda: now)
    issued = authority.issue(ca.Identity("system:node:n", ("system:nodes",)), lifetime=timedelta(days=400))
    assert validity(issued.certificate) == (now - ca.SLACK, now + timedelta(days=400))
    assert validity(pair.certificate)[1] == ca.certificate_expiry(pair.certificate)


@pytest.mark.parametrize("certificate", [
    b"", b"nonsense", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(certificate: bytes) -> None:
    with pytest.raises(CertificateError, match="cannot be read"):
        validity(certificate)


@given(st.binary(max_size=300))
def test_whatever_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(CertificateError):
        validity(ssl.DER_cert_to_PEM_cert(data).encode())
