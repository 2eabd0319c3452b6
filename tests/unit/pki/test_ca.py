from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sampan.pki import ca

NOW = datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC)


def test_an_issued_server_certificate_verifies_under_its_authority_only() -> None:
    _, authority = ca.Authority.create("one", lambda: NOW)
    _, other = ca.Authority.create("two", lambda: NOW)
    pair = authority.issue(ca.Identity("server"), names=["example.test", "10.0.0.1"], usages=["server auth"])
    certificate = x509.load_pem_x509_certificate(pair.certificate)

    def verify(trusted: ca.Authority) -> None:
        store = Store([x509.load_pem_x509_certificate(trusted.certificate)])
        verifier = PolicyBuilder().store(store).time(NOW.replace(tzinfo=None)).build_server_verifier(
            x509.DNSName("example.test"))
        verifier.verify(certificate, [])

    verify(authority)
    with pytest.raises(VerificationError):
        verify(other)
    assert ca.certificate_names(pair.certificate) == {"example.test", "10.0.0.1"}


def test_a_signed_request_keeps_its_identity_and_gets_the_lifetime_asked_for() -> None:
    _, authority = ca.Authority.create("ca", lambda: NOW)
    identity = ca.Identity("system:node:n1", ("system:nodes",))
    request = ca.make_request(ca.new_key(), identity)
    certificate = authority.sign(request, ["client auth"], timedelta(days=3))
    assert ca.certificate_identity(certificate) == identity
    assert ca.certificate_expiry(certificate) == (NOW + timedelta(days=3)).replace(microsecond=0)


@pytest.mark.parametrize("key", [
    rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate(),
    ec.generate_private_key(ec.SECP384R1())], ids=["RSA", "Ed25519", "P-384"])
def test_users_bring_keys_of_other_kinds(
        key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    _, authority = ca.Authority.create("test")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, algorithm)
    signed = authority.sign(request.public_bytes(serialization.Encoding.PEM), ["client auth"], timedelta(days=1))
    assert x509.load_pem_x509_certificate(signed).public_key() == key.public_key()


def request_with(extension: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([
        x509.NameAttribute(NameOID.COMMON_NAME, "jane")])).add_extension(extension, critical=False)
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def test_other_names_are_signed_as_they_are_asked_for() -> None:
    _, authority = ca.Authority.create("test")
    joerg = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Jörg")])
    names = x509.SubjectAlternativeName([
        x509.RFC822Name("jane@example.com"), x509.UniformResourceIdentifier("spiffe://example.com/jane"),
        x509.DirectoryName(joerg), x509.DNSName("10.0.0.1"), x509.IPAddress(ip_address("10.0.0.2"))])
    signed = x509.load_pem_x509_certificate(authority.sign(request_with(names), ["client auth"], timedelta(days=1)))
    assert signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == names


def test_names_of_a_kind_that_nobody_knows_are_refused() -> None:
    x400_address = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("3002a300"))
    with pytest.raises(ca.CertificateError, match="the certificate request is malformed"):
        ca.request_alternatives(request_with(x400_address))


def test_a_certificate_never_outlives_its_authority() -> None:
    pair, _ = ca.Authority.create("ca", lambda: NOW)
    late = ca.Authority(pair, lambda: NOW + 9.9 * ca.YEAR)
    issued = late.issue(ca.Identity("x"), lifetime=ca.YEAR)
    assert ca.certificate_expiry(issued.certificate) == ca.certificate_expiry(pair.certificate)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_a_malformed_request_is_refused_with_a_clear_error(text: bytes) -> None:
    with pytest.raises(ca.CertificateError, match="malformed"):
        ca.request_identity(text)


def test_a_key_of_another_authority_is_refused() -> None:
    one, _ = ca.Authority.create("one")
    two, _ = ca.Authority.create("two")
    with pytest.raises(ca.CertificateError, match="do not belong together"):
        ca.Authority(ca.KeyPair(one.certificate, two.key))


def test_the_public_key_hash_is_stable_and_names_its_kind() -> None:
    pair, _ = ca.Authority.create("ca")
    digest = ca.public_key_hash(pair.certificate)
    assert digest.startswith("sha256:")
    assert len(digest) == 7 + 64
    assert digest == ca.public_key_hash(pair.certificate)


def test_an_issued_certificate_is_good_for_what_was_asked_only() -> None:
    """Above all it cannot issue others."""
    _, authority = ca.Authority.create("ca", lambda: NOW)
    pair = authority.issue(ca.Identity("x"), usages=["client auth"])
    own = x509.load_pem_x509_certificate(authority.certificate).extensions
    leaf = x509.load_pem_x509_certificate(pair.certificate).extensions
    constraints = leaf.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert own.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_encipherment, usage.value.key_cert_sign,
            usage.value.crl_sign) == (True, True, True, False, False)
    assert own.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    extended = leaf.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
