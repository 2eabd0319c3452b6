from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sampan.pki import ca, kubeconfig
from sampan.pki.cluster import ClusterPki
from sampan.pki.tokens import BootstrapToken

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def pki(path: Path, names: tuple[str, ...] = ("a.test",), days: float = 0) -> ClusterPki:
    return ClusterPki(path, names, lambda: NOW + timedelta(days=days))


def test_the_first_start_makes_everything_and_the_second_nothing(tmp_path: Path) -> None:
    assert pki(tmp_path).ensure()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert not pki(tmp_path).ensure()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"ca.crt", "ca.key", "apiserver.crt", "apiserver.key", "admin.crt", "admin.key", "sa.key"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.key"))


def test_certificates_are_renewed_before_they_end_under_the_same_authority(tmp_path: Path) -> None:
    pki(tmp_path).ensure()
    authority = (tmp_path / "ca.crt").read_bytes()
    assert not pki(tmp_path, days=200).ensure()
    assert pki(tmp_path, days=260).ensure()
    assert (tmp_path / "ca.crt").read_bytes() == authority
    assert ca.certificate_expiry((tmp_path / "admin.crt").read_bytes()) == NOW + timedelta(days=260) + ca.YEAR


def test_a_new_name_of_the_server_gets_into_its_certificate(tmp_path: Path) -> None:
    pki(tmp_path).ensure()
    assert pki(tmp_path, ("a.test", "192.0.2.7")).ensure()
    assert "192.0.2.7" in ca.certificate_names((tmp_path / "apiserver.crt").read_bytes())


def test_a_renewal_cut_in_half_is_finished(tmp_path: Path) -> None:
    pki(tmp_path).ensure()
    (tmp_path / "apiserver.key").write_bytes(ca.new_key())
    assert pki(tmp_path).ensure()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "apiserver.crt", tmp_path / "apiserver.key")


def test_a_lost_ca_key_is_not_replaced_silently(tmp_path: Path) -> None:
    pki(tmp_path).ensure()
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ca.CertificateError, match="restore it from a backup"):
        pki(tmp_path).ensure()


def test_a_kubeconfig_holds_the_identity_inline(tmp_path: Path) -> None:
    import yaml

    cluster = pki(tmp_path)
    cluster.ensure()
    text = kubeconfig.render("https://127.0.0.1:6443", *(cluster.path(name).read_bytes()
                                                        for name in ("ca.crt", "admin.crt", "admin.key")))
    config = yaml.safe_load(text)
    assert config["current-context"] == config["contexts"][0]["name"]
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"


def test_tokens_are_random_and_parse_back() -> None:
    token = BootstrapToken.new()
    assert BootstrapToken.parse(f" {token}\n") == token
    assert BootstrapToken.new() != token
    assert token.to_secret(NOW, "x").data["expiration"] == b"2026-05-01T00:00:00Z"


@pytest.mark.parametrize("text", ["", "abc.def", "ABCDEF.0123456789abcdef", "abcdef-0123456789abcdef"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="six and sixteen"):
        BootstrapToken.parse(text)
